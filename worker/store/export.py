"""Read an index as it is at one moment, in constant memory, while others read and write it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from pgvector.psycopg import register_vector
from psycopg import IsolationLevel
from psycopg.rows import namedtuple_row

from worker.store import builds
from worker.store.builds import Build
from worker.store.connection import Connection, connect
from worker.store.statements import statement

ROWS_AT_ONCE = 100  # that a cursor fetches: a row may hold a large text


@dataclass(frozen=True, kw_only=True)
class StoredChunk:
    """A chunk of a stored revision. Its text is that of the revision from start to end."""

    start: int
    end: int
    tokens: int
    heading: str
    hash: bytes


@dataclass(frozen=True, kw_only=True)
class StoredDocument:
    """A revision of a document: the newest one, or an older one that searches still see."""

    id: str
    version: int | None  # of the document
    is_older: bool
    title: str
    metadata: Mapping[str, Any]
    text: str
    chunks: list[StoredChunk] | None  # None: the build has not split it
    vectors: Mapping[bytes, NDArray[np.float32]]  # of contents that no document before has, by hash


class Snapshot:
    """One moment of an index. Each method may be called once at a time."""

    def __init__(self, connection: Connection, build: Build) -> None:
        self._connection, self.build = connection, build

    def counts(self) -> tuple[int, int]:
        """The number of documents and of tombstones."""
        row = self._connection.execute(statement("export.sql", "count"), self._key).fetchone()
        return (0, 0) if row is None else (row[0], row[1])

    def documents(self) -> Iterator[StoredDocument]:
        """Every document that is not deleted. If searches see an older revision, that comes first."""
        vectors = groupby(self._rows("vectors"), key=lambda row: row.doc)
        doc, group = next(vectors, (None, iter(())))
        fresh: dict[bytes, NDArray[np.float32]] = {}
        for row in self._rows("revisions"):
            while doc is not None and doc < row.doc:  # of a document whose text is lost
                doc, group = next(vectors, (None, iter(())))
            if row.doc == doc:
                fresh = {vector.hash: _array(vector.embedding) for vector in group}
                doc, group = next(vectors, (None, iter(())))
            chunks = _chunks(row)
            mine = {chunk.hash: fresh.pop(chunk.hash) for chunk in chunks or () if chunk.hash in fresh}
            yield StoredDocument(
                id=row.id,
                version=row.version,
                is_older=row.is_older,
                title=row.title,
                metadata=row.metadata,
                text=row.text,
                chunks=chunks,
                vectors=mine,
            )

    def tombstones(self) -> Iterator[tuple[str, int]]:
        """The id and version of every deleted document with a version."""
        for row in self._rows("tombstones"):
            yield row.id, row.version

    @property
    def _key(self) -> dict[str, int]:
        return {"index_id": self.build.index_id}

    def _rows(self, name: str) -> Iterator[Any]:
        with self._connection.cursor(name, row_factory=namedtuple_row) as cursor:
            cursor.itersize = ROWS_AT_ONCE
            cursor.execute(self.build.sql("export.sql", name), self._key, binary=True)
            yield from cursor


@contextmanager
def snapshot(url: str, index: str) -> Iterator[Snapshot | None]:
    """Hold one moment of the live build of an index until the block ends; `None` before its first document.

    Uses a connection of its own, and may read a replica. Raises ServiceUnreachable, SettingsError.
    """
    with connect(url) as connection:
        register_vector(connection)
        connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
        with connection.transaction():
            build = builds.live(connection, index)
            yield None if build is None else Snapshot(connection, build)


def _chunks(row: Any) -> list[StoredChunk] | None:
    """The chunks of a row; none for a text of white space."""
    if row.hashes is None:
        return [] if row.is_served and not row.text.strip() else None
    columns = zip(row.starts, row.ends, row.tokens, row.headings, row.hashes, strict=True)
    return [
        StoredChunk(start=start, end=end, tokens=tokens, heading=heading, hash=hash)
        for start, end, tokens, heading, hash in columns
    ]


def _array(value: Any) -> NDArray[np.float32]:
    """The numbers of a vector of either type."""
    if isinstance(value, Vector | HalfVector):
        value = value.to_numpy()
    return np.asarray(value, dtype=np.float32)
