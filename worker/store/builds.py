"""Indexes and their builds: which builds are written, which one searches read, and the tables of each."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from worker.errors import BuildDropped, SettingsError
from worker.store.connection import DROPPED, Connection, prepared
from worker.store.schema import LOCK_NAMESPACE
from worker.store.statements import read, statement, statements, tables
from worker.words import SPELLING

# pgvector 0.8: HNSW indexes take vector up to 2,000 dimensions and halfvec up to 4,000; both types store up to 16,000
MAX_VECTOR_DIMENSIONS = 2_000
MAX_DIMENSIONS = 16_000

TABLE_TIMEOUT = (
    "100ms"  # of a drop, for each of four tables: together less than deadlock_timeout, 1 s by default
)

# what a vector depends on, beside the embedded string
VECTOR_FIELDS = ("model", "dimensions")

OPERATORS = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}


@dataclass(frozen=True, kw_only=True)
class Build:
    """A complete materialization of an index, with everything that its vectors depend on."""

    build: int
    index_id: int
    index: str  # its name
    state: str  # filling, closing, live or retired
    recipe: Mapping[str, Any]
    # only the live build of a search knows these, so they do not tell builds apart:
    is_indexed: bool = field(default=False, compare=False)  # it has a vector index
    quantised: bool = field(default=False, compare=False)  # with one bit a number
    languages: Sequence[str] = field(default=(), compare=False)  # of its documents, beside its own

    def sql(self, file: str, name: str) -> sql.Composed:
        """A statement with the names of this build's tables."""
        return statement(file, name, self.build)

    @property
    def dimensions(self) -> int:
        return int(self.recipe["dimensions"])

    @property
    def language(self) -> str | None:
        """Its text search configuration; `None`: it has no words."""
        language: str | None = self.recipe["language"]
        return language

    @property
    def language_field(self) -> str | None:
        """The metadata field that names the language of a document, as a dotted path."""
        field: str | None = self.recipe["language_field"]
        return field

    def shares_vectors(self, other: "Build") -> bool:
        """Whether a vector of this build serves the other one, if the embedded string is the same."""
        return all(self.recipe[field] == other.recipe[field] for field in VECTOR_FIELDS)

    @property
    def vector(self) -> str:
        """The type of its vector column: vector or halfvec."""
        return str(self.recipe["vector_type"])


@contextmanager
def locked(connection: Connection, index_id: int, *, exclusive: bool) -> Iterator[None]:
    """Run a transaction that holds the advisory lock of the index, taken in a statement of its own.

    Under the shared lock, statements are prepared.
    """
    name = "lock_exclusive" if exclusive else "lock_shared"
    with connection.transaction(), nullcontext() if exclusive else prepared(connection):
        connection.execute(statement("builds.sql", name), {"namespace": LOCK_NAMESPACE, "index_id": index_id})
        yield


def publishing_key(index_id: int) -> dict[str, int]:
    """The second advisory lock of an index: shared to publish, exclusive to change the states of its builds.

    It is taken after the lock of the index, and before rows.
    """
    return {"namespace": LOCK_NAMESPACE + 1, "index_id": index_id}


def live(connection: Connection, name: str) -> Build | None:
    """The build that searches of the index read; `None` before its first document."""
    with connection.cursor(row_factory=class_row(Build)) as cursor:
        return cursor.execute(statement("builds.sql", "live"), {"name": name}, prepare=True).fetchone()


def writable(connection: Connection, index_id: int) -> list[Build]:
    """The builds of an index that staging writes to."""
    return _builds(connection, "writable", index_id)


def all_writable(connection: Connection) -> list[Build]:
    """Every build that is being written, of every index."""
    with connection.cursor(row_factory=class_row(Build)) as cursor:
        return cursor.execute(statement("builds.sql", "all_writable")).fetchall()


def active(connection: Connection) -> list[Build]:
    """The builds whose contents workers embed: every build that is being written, except those of paused indexes."""
    with connection.cursor(row_factory=class_row(Build)) as cursor:
        return cursor.execute(statement("builds.sql", "active")).fetchall()


def every(connection: Connection, index_id: int) -> list[Build]:
    """All builds of an index, including retired ones; deletions apply to all of them."""
    return _builds(connection, "all_builds", index_id)


def register(connection: Connection, name: str) -> int:
    """Create an index without a build unless it exists; its key. Tombstones in it fence later updates."""
    connection.execute(statement("builds.sql", "create_index"), {"name": name})
    return index_key(connection, name)


def is_dropped(connection: Connection, index_id: int) -> bool:
    """Whether an index was dropped since its key was read."""
    return not connection.execute(statement("builds.sql", "exists"), {"index_id": index_id}).rowcount


def ensure(connection: Connection, name: str, recipe: Callable[[], Mapping[str, Any]]) -> Sequence[Build]:
    """The writable builds of an index; creates a missing index, with one empty live build.

    Calls `recipe` only to create the index, before any transaction, as it may send a request to the provider.
    Raises SettingsError for dimensions that pgvector cannot store, BuildDropped when the index is dropped meanwhile.
    """
    if live(connection, name) is None:
        wanted = dict(recipe())
        if not 1 <= wanted["dimensions"] <= MAX_DIMENSIONS:
            raise SettingsError(
                f"the embedding model of index {name!r} returns vectors of {wanted['dimensions']} dimensions; "
                f"pgvector stores 1 to {MAX_DIMENSIONS:,}: use another model, or set EMBEDDING_OUTPUT_DIMENSIONS"
            )
        index_id = register(connection, name)
        with locked(connection, index_id, exclusive=True):
            if live(connection, name) is None:
                if index_key(connection, name) != index_id:
                    raise BuildDropped(DROPPED)
                create(connection, name, wanted, state="live")
    return writable(connection, index_key(connection, name))


def create(connection: Connection, index: str, recipe: Mapping[str, Any], *, state: str) -> Build:
    """Create a build with its tables, inside a transaction that holds the exclusive lock."""
    index_id = index_key(connection, index)
    parameters = {"index_id": index_id, "recipe": Jsonb(dict(recipe)), "state": state, "spelling": SPELLING}
    row = connection.execute(statement("builds.sql", "insert_build"), parameters).fetchone()
    assert row is not None
    build = Build(build=row[0], index_id=index_id, index=index, state=state, recipe=recipe)
    create_tables(connection, build)
    if state == "live":
        connection.execute(
            statement("builds.sql", "set_live_build"), {"build": build.build, "index_id": index_id}
        )
    return build


def create_tables(connection: Connection, build: Build) -> None:
    """Create the tables of a build. Raises SettingsError for a language that Postgres does not know."""
    column = sql.SQL("{}({})").format(sql.Identifier(build.vector), sql.Literal(build.dimensions))
    connection.execute(sql.SQL(read("build.sql")).format(vector=column, **tables(build.build)))
    if build.language is None:
        return
    try:
        connection.execute(statement("builds.sql", "check_language"), {"language": build.language})
    except pg.UndefinedObject as error:
        raise SettingsError(
            f"LANGUAGE of index {build.index!r} is {build.language!r}, which this Postgres does not know as a text "
            "search configuration: use one that \\dF in psql lists, such as english or simple"
        ) from error


def live_key(connection: Connection, name: str) -> int | None:
    """The key of an index with a live build; `None` before its first document."""
    row = connection.execute(statement("builds.sql", "find_index"), {"name": name}).fetchone()
    return None if row is None or row[1] is None else int(row[0])


def index_key(connection: Connection, name: str) -> int:
    """The key of an index that existed a moment ago. Raises BuildDropped."""
    row = connection.execute(statement("builds.sql", "find_index"), {"name": name}).fetchone()
    if row is None:
        raise BuildDropped(DROPPED)
    return int(row[0])


def remember_backend(connection: Connection, build: int, backend: Mapping[str, Any]) -> None:
    """Keep the settings of the backend that makes the vectors of a build, without its keys."""
    parameters = {"build": build, "backend": Jsonb(dict(backend))}
    connection.execute(statement("builds.sql", "remember_backend"), parameters)


def remembered_backend(connection: Connection, build: int) -> Mapping[str, Any] | None:
    """The settings of the backend that made the vectors of a build; `None` if they are not known."""
    row = connection.execute(statement("builds.sql", "remembered_backend"), {"build": build}).fetchone()
    return row[0] if row else None


def note_drift(connection: Connection, build: int, drift: Sequence[str]) -> None:
    """Keep the differences between the recipe of a build and the settings, for `status` and `ready`."""
    parameters = {"build": build, "drift": Jsonb(list(drift))}
    connection.execute(statement("builds.sql", "note_drift"), parameters)


def drift(connection: Connection, names: Sequence[str]) -> dict[str, list[str]]:
    """The differences between these indexes and the settings, of those that have any."""
    rows = connection.execute(statement("builds.sql", "drift"), {"names": list(names)})
    return {name: list(found) for name, found in rows}


def drop_tables(connection: Connection, build: Build, *, seconds: float) -> None:
    """Drop the tables of a build, inside a transaction that holds the exclusive lock of the index.

    Claims lock the queue before they read other tables, so DROP, which needs all tables at once, could meet them in a
    deadlock. It waits for each table for less than the second after which Postgres looks for one, and then lets go of
    all. Raises LockNotAvailable after `seconds`.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            with connection.transaction():
                [(before,)] = connection.execute(statement("builds.sql", "lock_timeout"))
                connection.execute(statement("builds.sql", "set_lock_timeout"), {"limit": TABLE_TIMEOUT})
                connection.execute(build.sql("builds.sql", "drop_tables"))
                connection.execute(statement("builds.sql", "set_lock_timeout"), {"limit": before})
            return
        except pg.LockNotAvailable:
            if time.monotonic() >= until:
                raise


def copy_statement(build: Build, donor: Build) -> sql.Composed:
    """The statement that copies vectors from one build to another: of these hashes, by hash."""
    donated = {f"donor_{table}": named for table, named in tables(donor.build).items()}
    text = sql.SQL(statements("builds.sql")["copy_vectors"])
    return text.format(vector=sql.SQL(build.vector), **donated, **tables(build.build))


def note_error(connection: Connection, build: Build, error: str | None) -> None:
    """Keep the last error of the build's provider, which `status` shows; `None` clears it after a success."""
    name = "clear_error" if error is None else "set_error"
    connection.execute(statement("builds.sql", name), {"build": build.build, "error": error})


def note_missing(connection: Connection, name: str, error: str) -> None:
    """Keep why an index cannot be created yet, which `status` shows; its first build clears it."""
    register(connection, name)
    connection.execute(statement("builds.sql", "set_index_error"), {"name": name, "error": error})


def missing_error(connection: Connection, name: str) -> str | None:
    """Why an index has no build yet; `None` if nothing was sent to it, or it has one."""
    row = connection.execute(statement("builds.sql", "index_error"), {"name": name}).fetchone()
    return row[0] if row else None


def _builds(connection: Connection, name: str, index_id: int) -> list[Build]:
    with connection.cursor(row_factory=class_row(Build)) as cursor:
        return cursor.execute(statement("builds.sql", name), {"index_id": index_id}).fetchall()
