"""The vector index of a build: created once the build is large enough, while others read and write."""

from psycopg import sql

from worker.store.builds import Build
from worker.store.connection import Connection, connect
from worker.store.statements import SCHEMA, statement, statements, tables

# Vectors times dimensions, as in 50,000 vectors of 256. Comparing fewer takes some 50 ms and is exact. Among thousands
# of similar texts the index misses some, whatever its settings. See docs/internals/decisions.md.
MIN_NUMBERS = 12_800_000
MAX_DIMENSIONS = 4_000  # of halfvec in an HNSW index; see builds.py for vector
LEASE_SECONDS = 3600.0  # then another worker may try, unless Postgres is still building the index

OPERATOR_CLASSES = {"cosine": "cosine_ops", "l2": "l2_ops", "inner_product": "ip_ops"}


def is_due(connection: Connection, build: Build) -> bool:
    """Whether the build has enough vectors and no vector index, and nobody is creating one."""
    if build.dimensions > MAX_DIMENSIONS:
        return False
    rows = -(-MIN_NUMBERS // build.dimensions)
    values = {"rows": rows, "build": build.build, "table": f"{SCHEMA}.embeddings_{build.build}"}
    row = connection.execute(build.sql("hnsw.sql", "is_due"), values).fetchone()
    return bool(row and row[0])


def create(url: str, build: Build) -> bool:
    """Create the vector index if it is due; whether this call created it. Takes minutes.

    Any number of workers may call it: one of them gets the lease. A worker that dies leaves an invalid index, which the
    next one drops. Uses a connection of its own, whose settings it changes. Raises ServiceUnreachable.
    """
    name = f"embeddings_{build.build}_hnsw"
    key = {"build": build.build}
    with connect(url) as connection:
        if not is_due(connection, build):
            return False
        claimed = connection.execute(
            statement("hnsw.sql", "take_lease"), key | {"seconds": LEASE_SECONDS}
        ).rowcount
        if not claimed:
            return False
        try:
            connection.execute(statement("hnsw.sql", "set_memory"))
            text = sql.SQL(statements("hnsw.sql")["drop_invalid"])
            connection.execute(text.format(index=sql.Identifier(SCHEMA, name)))
            text = sql.SQL(statements("hnsw.sql")["create_index"])
            operators = sql.Identifier(f"{build.vector}_{OPERATOR_CLASSES[build.recipe['distance']]}")
            connection.execute(
                text.format(name=sql.Identifier(name), operators=operators, **tables(build.build))
            )
        finally:
            if not connection.broken:
                connection.execute(statement("hnsw.sql", "release_lease"), key)
    return True
