"""What readers ask: one statement, or one transaction with one snapshot."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from psycopg import sql
from psycopg.rows import class_row

from worker.store.builds import OPERATORS, Build
from worker.store.connection import Connection
from worker.store.statements import statements, tables

TIMEOUT_SECONDS = 20  # of one search
DOCUMENTS_PER_CONTENT = 3  # a paragraph that thousands share takes no more places than this

Filter = tuple[sql.Composable, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One chunk that a reader may see, with its distance to the question."""

    document_id: str
    title: str
    metadata: Mapping[str, Any]
    text: str
    start: int
    end: int
    ordinal: int
    hash: bytes
    distance: float


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A document that others are to be like."""

    doc: int
    embedding: NDArray[np.float32] | None  # the mean of its vectors; None: it shows readers nothing

    @property
    def others(self) -> Filter:
        """All documents but this one."""
        return sql.SQL("r.doc <> %(asked)s"), {"asked": self.doc}


def both(one: Filter, other: Filter) -> Filter:
    """What passes two filters whose parameters have different names."""
    return sql.SQL("({} AND {})").format(one[0], other[0]), {**one[1], **other[1]}


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """A transaction whose statements all see what had committed when its first one began."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def asked(connection: Connection, build: Build, id: str, *, where: Filter) -> Asked | None:
    """The document of that id, if it passes the filter, with the mean of its vectors; None: there is none."""
    condition, parameters = where
    text = sql.SQL(statements("search.sql")["asked"]).format(filter=condition, **tables(build.build))
    values = {"index_id": build.index_id, "id": id}
    row = connection.execute(text, {**values, **parameters}).fetchone()
    if row is None:
        return None
    doc, mean = row
    return Asked(doc=doc, embedding=None if mean is None else mean.to_numpy().astype(np.float32))


def nearest(
    connection: Connection,
    build: Build,
    query: NDArray[np.float32],
    *,
    candidates: int,
    where: Filter,
    per_content: int = DOCUMENTS_PER_CONTENT,
) -> list[Hit]:
    """The chunks of the `candidates` nearest contents, nearest first; `query` has the build's dimensions.

    Of a content that many share, at most `per_content` chunks. Ends after TIMEOUT_SECONDS: a caller waits, and the
    pool of threads knows no time limits.
    """
    condition, parameters = where
    text = sql.SQL(statements("search.sql")["nearest"]).format(
        operator=sql.SQL(OPERATORS[build.recipe["distance"]]),
        vector=sql.SQL(build.vector),
        filter=condition,
        **tables(build.build),
    )
    vector = Vector(query) if build.vector == "vector" else HalfVector(query)
    values = {"query": vector, "candidates": candidates, "per_content": per_content}
    with connection.transaction(), connection.cursor(row_factory=class_row(Hit)) as cursor:
        cursor.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(f"{TIMEOUT_SECONDS}s")))
        return cursor.execute(text, {**values, **parameters}).fetchall()


def matching(
    connection: Connection, index_id: int, *, where: Filter, after: str, limit: int
) -> Mapping[str, int]:
    """Documents with ids above `after`, in order, whose newest revision passes the filter; that revision by id."""
    condition, parameters = where
    text = sql.SQL(statements("search.sql")["matching"]).format(filter=condition)
    values = {"index_id": index_id, "after": after, "limit": limit}
    return dict(connection.execute(text, {**values, **parameters}))
