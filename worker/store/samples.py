"""A sample of an index, in temporary tables of one session: the same documents under the old recipe and a new one.

The tables go with the session, however it ends. Nothing but the session sees them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import class_row

from worker.documents import Chunk
from worker.errors import SettingsError
from worker.store import builds, queue, writing
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filling import Unfilled
from worker.store.statements import statements, tables

OLD, NEW = -1, -2  # numbers of the two builds of a session


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The searchable documents of an index."""

    documents: int
    bytes: int  # of their texts


def totals(connection: Connection, live: Build) -> Totals:
    """Count the searchable documents and the bytes of their texts, without reading the texts."""
    [(documents, size)] = connection.execute(live.sql("samples.sql", "totals"))
    return Totals(documents=documents, bytes=size)


def searchable(connection: Connection, live: Build, ids: Sequence[str]) -> set[str]:
    """Those ids that searches find."""
    parameters = {"index_id": live.index_id, "ids": list(ids)}
    return {row[0] for row in connection.execute(live.sql("samples.sql", "searchable"), parameters)}


def choose(
    connection: Connection, live: Build, ids: Sequence[str], *, limit: int, seed: int = 0
) -> list[Unfilled]:
    """Choose searchable documents: first those with the given ids, then others, the same ones for a seed."""
    parameters = {"ids": list(ids), "limit": limit, "seed": seed}
    rows = connection.execute(live.sql("samples.sql", "choose"), parameters)
    return [Unfilled(doc=doc, rev=rev, bytes=size) for doc, rev, size in rows]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A chunk of a searchable document."""

    id: str  # of the document
    title: str
    heading: str  # title and headings, as they are embedded with the text
    text: str


def pieces(
    connection: Connection, live: Build, docs: Sequence[int], *, each: int, seed: int = 0
) -> list[Piece]:
    """Return at most `each` chunks of these documents, in the given order; the same ones for a seed."""
    parameters = {"docs": list(docs), "each": each, "seed": seed}
    with connection.cursor(row_factory=class_row(Piece)) as cursor:
        return cursor.execute(live.sql("samples.sql", "pieces"), parameters).fetchall()


def embedded(connection: Connection, build: Build, hashes: Sequence[bytes]) -> set[bytes]:
    """Those contents that have a vector in a build."""
    return {
        row[0] for row in connection.execute(build.sql("samples.sql", "embedded"), {"hashes": list(hashes)})
    }


def create(connection: Connection, live: Build, recipe: Mapping[str, Any], *, number: int) -> Build:
    """Create the temporary tables of OLD or NEW. Raises SettingsError if the role may not create them."""
    build = Build(build=number, index_id=live.index_id, index=live.index, state="filling", recipe=recipe)
    try:
        builds.create_tables(connection, build)
    except pg.InsufficientPrivilege as error:
        raise SettingsError(
            "a sample needs temporary tables, and the role of DATABASE_URL may not create them: run "
            "GRANT TEMPORARY ON DATABASE its_database TO its_role"
        ) from error
    return build


def copy(connection: Connection, sample: Build, live: Build, revs: Sequence[int]) -> set[int]:
    """Copy revisions with their chunks and vectors from the live build; the documents whose revision is still live."""
    of_live = {f"live_{table}": named for table, named in tables(live.build).items()}
    copying = sql.SQL(statements("samples.sql")["copy"]).format(**of_live, **tables(sample.build))
    return {row[0] for row in connection.execute(copying, {"revs": list(revs)})}


def fill(
    connection: Connection,
    sample: Build,
    live: Build,
    staged: Sequence[tuple[int, int, Sequence[Chunk]]],
    vectors: Mapping[bytes, NDArray[np.float32]],
) -> None:
    """Write revisions, given as document, revision and chunks; the live build has the vectors that are not given."""
    writing.want_chunks(connection, sample, staged)
    if live.shares_vectors(sample):
        hashes = sorted({chunk.hash for _, _, chunks in staged for chunk in chunks} - vectors.keys())
        connection.execute(builds.copy_statement(sample, live), {"hashes": hashes})
    queue.supply(connection, sample, vectors)
    connection.execute(sample.sql("publishing.sql", "publish"), {"docs": [doc for doc, _, _ in staged]})
