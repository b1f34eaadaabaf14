"""The vector index of a build: created once the build is large and its load is over, while others read and write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from worker.errors import BuildDropped
from worker.results import VectorIndexState
from worker.store import statistics
from worker.store.builds import Build
from worker.store.connection import DROPPED, Connection, connect
from worker.store.statements import SCHEMA, statement, statements, tables

# Vectors times their width. docs/internals/decisions.md has the measurements behind these numbers.
MIN_NUMBERS = 12_800_000  # comparing fewer takes some 50 ms and is exact
MOST_EXACT_NUMBERS = 512_000_000  # comparing more takes seconds: the index is created even during a load
MOST_DROPPED_NUMBERS = (
    51_200_000  # of a build whose index is dropped for a load: comparing them takes some 300 ms
)
MIN_WIDTH = 256  # of a vector: a search joins a row in the time in which it compares so many numbers
FAST_NUMBERS = 66_000  # a second: adding so many to a vector index takes half a core
MAX_DIMENSIONS = {"vector": 2_000, "halfvec": 4_000}  # in an HNSW index; as bits, all that Postgres stores

LOOK_SECONDS = 20.0  # at least between two counts
CALM_SECONDS = 30.0  # without fast growth, until the load counts as over: the queue is short
STALLED_SECONDS = 600.0  # the same while the queue is long
SHORT_QUEUE = 0.1  # pending contents for each vector, at most
LARGE_LOAD = 0.5  # the same, at least: creating the index anew is cheaper than adding so many vectors to it

LEASE_SECONDS = 3600.0  # then another worker may try, unless Postgres is still building the index
NEIGHBOUR_BYTES = 800  # of a vector in memory while the index is built, beside its numbers
# classes of SQLSTATE of a server without the shared memory for a parallel build: resources, system, internal errors
NO_SHARED_MEMORY = ("53", "58", "XX")

OPERATOR_CLASSES = {"cosine": "cosine_ops", "l2": "l2_ops", "inner_product": "ip_ops"}

Action = Literal["create", "drop", "clean"]


class Design(Protocol):
    """The vector index that the settings ask for."""

    @property
    def m(self) -> int: ...

    @property
    def ef_construction(self) -> int: ...

    @property
    def quantisation(self) -> str | None: ...


def width(build: Build) -> int:
    """The dimensions of a vector, at least MIN_WIDTH: the cost of comparing it."""
    return max(build.dimensions, MIN_WIDTH)


@dataclass(frozen=True, kw_only=True)
class State:
    """What decides about the vector index of a build."""

    numbers: int  # vectors times their width, as counted last
    pending: float  # contents that wait for a vector, for each vector
    calm_seconds: float  # since the build grew fast, or was seen for the first time
    is_usable: bool  # there is a valid index of the wanted kind
    is_wanted: bool = True  # the settings ask for one, and Postgres can index vectors of this length
    others: Sequence[str] = ()  # names of valid indexes of another kind
    invalid: Sequence[str] = ()  # names of those that an interrupted build left


def decide(state: State) -> Action | None:
    """What to do now: create the index, drop it for a large load, clean up what is not needed, or nothing.

    Adding a vector to an index takes five to ten times as long as its share of a new index. So the index is created
    after a load, unless comparing all vectors has become too slow. A load of half the vectors or more is faster without
    the index, which is dropped only while comparing the vectors is quick.
    """
    has_index = state.is_usable or bool(state.others)
    if not state.is_wanted:
        return "drop" if has_index else "clean" if state.invalid else None
    patience = CALM_SECONDS if state.pending <= SHORT_QUEUE else STALLED_SECONDS
    is_time = state.calm_seconds >= patience or (state.numbers >= MOST_EXACT_NUMBERS and not has_index)
    if not state.is_usable and state.numbers >= MIN_NUMBERS and is_time:
        return "create"
    is_large_load = state.calm_seconds < CALM_SECONDS and state.pending >= LARGE_LOAD
    if has_index and is_large_load and state.numbers <= MOST_DROPPED_NUMBERS:
        return "drop"
    return "clean" if state.invalid or (state.is_usable and state.others) else None


@dataclass(frozen=True, kw_only=True)
class _Row:
    """The state of a build, as Postgres knows it."""

    vectors: int
    pending: int
    calm_seconds: float
    valid: list[str]
    invalid: list[str]
    is_free: bool  # nobody is building an index of it

    def state(self, build: Build, design: Design | None) -> State:
        wanted = None if design is None else _name(build, design)
        return State(
            numbers=self.vectors * width(build),
            pending=self.pending / max(self.vectors, 1),
            calm_seconds=self.calm_seconds,
            is_usable=wanted in self.valid,
            is_wanted=wanted is not None,
            others=[name for name in self.valid if name != wanted],
            invalid=self.invalid,
        )


def look(connection: Connection, build: Build, settings: Design | None) -> Action | None:
    """Note how fast the build grows; what is to be done for its vector index, `None` while somebody is at it."""
    fast = FAST_NUMBERS / build.dimensions
    connection.execute(
        build.sql("hnsw.sql", "look"), _parameters(build) | {"fast": fast, "seconds": LOOK_SECONDS}
    )
    row = _read(connection, build)
    return decide(row.state(build, _possible(build, settings))) if row.is_free else None


def apply(url: str, build: Build, settings: Design | None) -> Action | None:
    """Do what is due for the vector index of a build, and return it. Takes minutes.

    Any number of workers may call it: one of them gets the lease. A worker that dies, or a server that cancels the
    statement, leaves an invalid index, which the next one drops. Uses a connection of its own, whose settings it
    changes. Raises ServiceUnreachable, SettingsError.
    """
    key = {"build": build.build}
    with connect(url) as connection:
        taken = connection.execute(
            statement("hnsw.sql", "take_lease"), key | {"seconds": LEASE_SECONDS}
        ).rowcount
        if not taken:
            return None
        try:
            return _apply(connection, build, _possible(build, settings))
        finally:
            if not connection.broken:
                connection.execute(statement("hnsw.sql", "release_lease"), key)


def _apply(connection: Connection, build: Build, design: Design | None) -> Action | None:
    row = _read(connection, build)
    state = row.state(build, design)
    action = decide(state)
    if action is not None:
        _drop(connection, state.invalid)
    if action == "create" and design is not None:
        create(connection, build, design, vectors=row.vectors)
        _drop(connection, state.others)
    if action == "clean":
        _drop(connection, state.others)
    if action == "drop":
        _note_quantised(connection, build, False)
        _drop(connection, row.valid)
    return action


def create(connection: Connection, build: Build, design: Design, *, vectors: int) -> None:
    """Create the index of so many vectors, by several processes where the server has the shared memory for them.

    Changes settings of the connection.
    """
    memory = vectors * (4 * build.dimensions + NEIGHBOUR_BYTES) * 5 // 4 // 1024
    connection.execute(statement("hnsw.sql", "set_memory"), {"kilobytes": memory})
    [(workers,)] = connection.execute(statement("hnsw.sql", "parallel_workers"))
    helped = sql.SQL(statements("hnsw.sql")["let_help"])
    connection.execute(helped.format(workers=sql.Literal(workers), **tables(build.build)))
    try:
        _create_index(connection, build, design)
    except psycopg.Error as error:
        if not workers or not (error.sqlstate or "").startswith(NO_SHARED_MEMORY):
            raise
        connection.execute("SET max_parallel_maintenance_workers = 0")
        _create_index(connection, build, design)
    finally:
        if not connection.broken:
            connection.execute(build.sql("hnsw.sql", "reset_help"))
    _note_quantised(connection, build, design.quantisation is not None)
    statistics.analyze(connection, build)


def _create_index(connection: Connection, build: Build, design: Design) -> None:
    name = _name(build, design)
    _drop(connection, [name])
    distance, column = OPERATOR_CLASSES[build.recipe["distance"]], "embedding"
    if design.quantisation is not None:
        column, operators = f"binary_quantize(embedding)::bit({build.dimensions})", "bit_hamming_ops"
    else:
        operators = f"{build.vector}_{distance}"
    text = sql.SQL(statements("hnsw.sql")["create_index"]).format(
        name=sql.Identifier(name),
        column=sql.SQL(column),
        operators=sql.Identifier(operators),
        m=sql.Literal(design.m),
        ef_construction=sql.Literal(design.ef_construction),
        **tables(build.build),
    )
    connection.execute(text)


def _note_quantised(connection: Connection, build: Build, quantised: bool) -> None:
    parameters = {"build": build.build, "quantised": quantised}
    connection.execute(statement("hnsw.sql", "note_quantised"), parameters)


def _drop(connection: Connection, names: Sequence[str]) -> None:
    text = sql.SQL(statements("hnsw.sql")["drop"])
    for name in names:
        connection.execute(text.format(index=sql.Identifier(SCHEMA, name)))


def _name(build: Build, design: Design) -> str:
    quantised = "" if design.quantisation is None else f"_{design.quantisation}"
    return f"embeddings_{build.build}_hnsw_{design.m}_{design.ef_construction}{quantised}"


def _possible(build: Build, settings: Design | None) -> Design | None:
    """The design, unless Postgres cannot index vectors of this length so."""
    if settings is None or settings.quantisation is not None:
        return settings
    return settings if build.dimensions <= MAX_DIMENSIONS[build.vector] else None


def _parameters(build: Build) -> dict[str, object]:
    most = -(-MOST_EXACT_NUMBERS // width(build))
    return {"build": build.build, "table": f"{SCHEMA}.embeddings_{build.build}", "most": most}


def _read(connection: Connection, build: Build) -> _Row:
    with connection.cursor(row_factory=class_row(_Row)) as cursor:
        row = cursor.execute(build.sql("hnsw.sql", "state"), _parameters(build)).fetchone()
    if row is None:
        raise BuildDropped(DROPPED)
    return row


def is_awaited(connection: Connection, build: Build, settings: Design | None) -> bool:
    """Whether a build that has been filled still lacks a vector index that it needs: the next sweep begins it."""
    if _possible(build, settings) is None:
        return False
    parameters = _parameters(build) | {"rows": -(-MIN_NUMBERS // width(build))}
    [(is_missing,)] = connection.execute(build.sql("hnsw.sql", "is_awaited"), parameters)
    if is_missing:
        connection.execute(build.sql("hnsw.sql", "end_load"), parameters)
    return bool(is_missing)


def describe(connection: Connection, build: Build, settings: Design | None) -> VectorIndexState:
    """The state of the vector index, for `status`."""
    row = connection.execute(build.sql("hnsw.sql", "describe"), _parameters(build)).fetchone()
    vectors, is_usable, progress = row or (0, False, None)
    if is_usable:
        return {"state": "ready", "progress": None}
    if progress is not None:
        return {"state": "building", "progress": round(progress, 3)}
    is_due = _possible(build, settings) is not None and vectors * width(build) >= MIN_NUMBERS
    return {"state": "waiting" if is_due else "none", "progress": None}
