"""The vector index of a build: made once it is worth it, beside readers and writers."""

from psycopg import sql

from worker.store.builds import Build
from worker.store.connection import Connection, connect
from worker.store.statements import SCHEMA, statement, statements, tables

# Vectors times dimensions, as of 50,000 vectors of 256. Below, all are compared in some 50 ms and the nearest are found
# for sure; where thousands of texts are much alike, the index has holes that no setting closes. See docs/decisions.md.
NUMBERS = 12_800_000
MAX_DIMENSIONS = 4_000  # of halfvec in such an index; see builds.py for vector
LEASE_SECONDS = 3600.0  # after which another may try, where Postgres no longer works on it

OPERATOR_CLASSES = {"cosine": "cosine_ops", "l2": "l2_ops", "inner_product": "ip_ops"}


def is_due(connection: Connection, build: Build) -> bool:
    """Whether the build has enough vectors and no index of them, and nobody is making it."""
    if build.dimensions > MAX_DIMENSIONS:
        return False
    rows = -(-NUMBERS // build.dimensions)
    values = {"rows": rows, "build": build.build, "table": f"{SCHEMA}.embeddings_{build.build}"}
    row = connection.execute(build.sql("hnsw.sql", "due"), values).fetchone()
    return bool(row and row[0])


def create(url: str, build: Build) -> bool:
    """Make the index where it is due; whether it was made here. Takes minutes, and any number may be told to.

    A connection of its own, as it keeps its settings. Who dies leaves an invalid index and the lease: the next one
    drops that and begins again. Raises ServiceUnreachable.
    """
    name = f"embeddings_{build.build}_hnsw"
    key = {"build": build.build}
    with connect(url) as connection:
        if not is_due(connection, build):
            return False
        claimed = connection.execute(
            statement("hnsw.sql", "claim"), key | {"seconds": LEASE_SECONDS}
        ).rowcount
        if not claimed:
            return False
        try:
            connection.execute(statement("hnsw.sql", "memory"))
            text = sql.SQL(statements("hnsw.sql")["drop"])
            connection.execute(text.format(index=sql.Identifier(SCHEMA, name)))
            text = sql.SQL(statements("hnsw.sql")["create"])
            operators = sql.Identifier(f"{build.vector}_{OPERATOR_CLASSES[build.recipe['distance']]}")
            connection.execute(
                text.format(name=sql.Identifier(name), operators=operators, **tables(build.build))
            )
        finally:
            if not connection.broken:
                connection.execute(statement("hnsw.sql", "release"), key)
    return True
