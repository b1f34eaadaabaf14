"""The vector index of a build: created once the build is large enough, while others read and write."""

from dataclasses import dataclass

from psycopg import sql
from psycopg.rows import class_row

from worker.store.builds import Build
from worker.store.connection import Connection, connect
from worker.store.statements import SCHEMA, statement, statements, tables

# Vectors times dimensions, as in 50,000 vectors of 256. Comparing fewer takes some 50 ms and is exact. Among thousands
# of similar texts the index misses some, whatever its settings. See docs/internals/decisions.md.
MIN_NUMBERS = 12_800_000
MAX_DIMENSIONS = 4_000  # of halfvec in an HNSW index; see builds.py for vector
LEASE_SECONDS = 3600.0  # then another worker may try, unless Postgres is still building the index

OPERATOR_CLASSES = {"cosine": "cosine_ops", "l2": "l2_ops", "inner_product": "ip_ops"}


@dataclass(frozen=True, kw_only=True)
class State:
    """What is to be done for the vector index of a build."""

    wanted: bool  # there are enough vectors, and no valid vector index
    leftovers: list[str]  # names of invalid indexes
    is_free: bool  # nobody is building one

    @property
    def is_due(self) -> bool:
        return self.is_free and (self.wanted or bool(self.leftovers))


def is_due(connection: Connection, build: Build) -> bool:
    """Whether the vector index is to be created, or an invalid one dropped, and nobody is doing it."""
    return build.dimensions <= MAX_DIMENSIONS and _state(connection, build).is_due


def create(url: str, build: Build) -> bool:
    """Create the vector index if it is due; whether this call created it. Takes minutes.

    Any number of workers may call it: one of them gets the lease. A worker that dies, or a server that cancels the
    statement, leaves an invalid index, which the next one drops. Uses a connection of its own, whose settings it
    changes. Raises ServiceUnreachable, SettingsError.
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
            state = _state(connection, build)
            for leftover in (*state.leftovers, name) if state.wanted else state.leftovers:
                text = sql.SQL(statements("hnsw.sql")["drop"])
                connection.execute(text.format(index=sql.Identifier(SCHEMA, leftover)))
            if not state.wanted:
                return False
            connection.execute(statement("hnsw.sql", "set_memory"))
            text = sql.SQL(statements("hnsw.sql")["create_index"])
            operators = sql.Identifier(f"{build.vector}_{OPERATOR_CLASSES[build.recipe['distance']]}")
            connection.execute(
                text.format(name=sql.Identifier(name), operators=operators, **tables(build.build))
            )
        finally:
            if not connection.broken:
                connection.execute(statement("hnsw.sql", "release_lease"), key)
    return True


def _state(connection: Connection, build: Build) -> State:
    values = {
        "rows": -(-MIN_NUMBERS // build.dimensions),
        "build": build.build,
        "table": f"{SCHEMA}.embeddings_{build.build}",
    }
    with connection.cursor(row_factory=class_row(State)) as cursor:
        state = cursor.execute(build.sql("hnsw.sql", "state"), values).fetchone()
    assert state is not None
    return state


def is_missing(connection: Connection, build: Build) -> bool:
    """Whether the build is large enough for a vector index and has none yet."""
    return build.dimensions <= MAX_DIMENSIONS and _state(connection, build).wanted
