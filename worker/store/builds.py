"""Indexes and their builds: who is written, who serves readers, and the tables of each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from worker.errors import BuildDropped, SettingsError
from worker.store.connection import DROPPED, Connection
from worker.store.schema import LOCK_NAMESPACE
from worker.store.statements import read, statement, tables

# pgvector 0.8: HNSW takes vector up to 2,000 dimensions and halfvec up to 4,000; both store up to 16,000
MAX_VECTOR_DIMENSIONS = 2_000
MAX_DIMENSIONS = 16_000

OPERATORS = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}


@dataclass(frozen=True, kw_only=True)
class Build:
    """One materialisation of an index, and everything its vectors depend on."""

    build: int
    index_id: int
    index: str  # its name
    state: str  # filling, closing, live or retired
    recipe: Mapping[str, Any]

    def sql(self, file: str, name: str) -> sql.Composed:
        """A statement with this build's tables in it."""
        return statement(file, name, self.build)

    @property
    def dimensions(self) -> int:
        return int(self.recipe["dimensions"])

    @property
    def language(self) -> str:
        """The text search configuration of its lexemes."""
        return str(self.recipe["language"])

    @property
    def vector(self) -> str:
        """The type of its column: halfvec where vector has no index any more."""
        return "vector" if self.dimensions <= MAX_VECTOR_DIMENSIONS else "halfvec"


@contextmanager
def locked(connection: Connection, index_id: int, *, exclusive: bool) -> Iterator[None]:
    """A transaction that holds the index's advisory lock, acquired in a statement of its own."""
    name = "lock_exclusive" if exclusive else "lock_shared"
    with connection.transaction():
        connection.execute(statement("builds.sql", name), {"namespace": LOCK_NAMESPACE, "index_id": index_id})
        yield


def live(connection: Connection, name: str) -> Build | None:
    """The build that readers of the index see; None before its first document."""
    with connection.cursor(row_factory=class_row(Build)) as cursor:
        return cursor.execute(statement("builds.sql", "live"), {"name": name}).fetchone()


def writable(connection: Connection, index_id: int) -> list[Build]:
    """The builds that staging writes."""
    return _builds(connection, "writable", index_id)


def all_writable(connection: Connection) -> list[Build]:
    """Every build that is being written, of every index."""
    with connection.cursor(row_factory=class_row(Build)) as cursor:
        return cursor.execute(statement("builds.sql", "all_writable")).fetchall()


def active(connection: Connection) -> list[Build]:
    """The builds whose contents workers embed: every build that is being written, of indexes that are not paused."""
    with connection.cursor(row_factory=class_row(Build)) as cursor:
        return cursor.execute(statement("builds.sql", "active")).fetchall()


def every(connection: Connection, index_id: int) -> list[Build]:
    """All builds, retired ones too: deletes go everywhere."""
    return _builds(connection, "all_builds", index_id)


def register(connection: Connection, name: str) -> int:
    """The number of an index, which may have no build yet: enough to fence what is deleted before it is there."""
    connection.execute(statement("builds.sql", "create_index"), {"name": name})
    return index_key(connection, name)


def is_dropped(connection: Connection, index_id: int) -> bool:
    """Whether an index was dropped since its number was read."""
    return not connection.execute(statement("builds.sql", "is_there"), {"index_id": index_id}).rowcount


def ensure(connection: Connection, name: str, recipe: Callable[[], Mapping[str, Any]]) -> Sequence[Build]:
    """The writable builds of an index; the first call of all creates the index with one empty live build.

    `recipe` is asked only then, as it may cost a request to the provider (before any transaction).
    """
    if live(connection, name) is None:
        wanted = dict(recipe())
        if not 1 <= wanted["dimensions"] <= MAX_DIMENSIONS:
            raise SettingsError(
                f"a vector of {wanted['dimensions']} dimensions: pgvector stores 1 to {MAX_DIMENSIONS:,}"
            )
        index_id = register(connection, name)
        with locked(connection, index_id, exclusive=True):
            if live(connection, name) is None:
                if index_key(connection, name) != index_id:
                    raise BuildDropped(DROPPED)
                create(connection, name, wanted, state="live")
    return writable(connection, index_key(connection, name))


def create(connection: Connection, index: str, recipe: Mapping[str, Any], *, state: str) -> Build:
    """A new build with its tables, inside a transaction that holds the exclusive lock."""
    index_id = index_key(connection, index)
    parameters = {"index_id": index_id, "recipe": Jsonb(dict(recipe)), "state": state}
    row = connection.execute(statement("builds.sql", "insert_build"), parameters).fetchone()
    assert row is not None
    build = Build(build=row[0], index_id=index_id, index=index, state=state, recipe=recipe)
    column = sql.SQL("{}({})").format(sql.Identifier(build.vector), sql.Literal(build.dimensions))
    language = sql.Literal(build.language)
    try:
        connection.execute(
            sql.SQL(read("build.sql")).format(vector=column, language=language, **tables(build.build))
        )
    except pg.UndefinedObject as error:
        raise SettingsError(
            f"LANGUAGE of index {index!r} is {build.language!r}, which is no text search configuration of this "
            "Postgres: take one that \\dF in psql lists, such as english or simple"
        ) from error
    if state == "live":
        connection.execute(statement("builds.sql", "serve"), {"build": build.build, "index_id": index_id})
    return build


def index_key(connection: Connection, name: str) -> int:
    """The number of an index that was there a moment ago. Raises BuildDropped."""
    row = connection.execute(statement("builds.sql", "find_index"), {"name": name}).fetchone()
    if row is None:
        raise BuildDropped(DROPPED)
    return int(row[0])


def note_error(connection: Connection, build: Build, error: str | None) -> None:
    """Remember the last failure of the build's provider for `status`; None once it works again."""
    name = "clear_error" if error is None else "note_error"
    connection.execute(statement("builds.sql", name), {"build": build.build, "error": error})


def _builds(connection: Connection, name: str, index_id: int) -> list[Build]:
    with connection.cursor(row_factory=class_row(Build)) as cursor:
        return cursor.execute(statement("builds.sql", name), {"index_id": index_id}).fetchall()
