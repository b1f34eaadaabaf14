"""What readers ask: one statement, one snapshot."""

from collections.abc import Mapping, Sequence
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


def nearest(
    connection: Connection, build: Build, query: NDArray[np.float32], *, candidates: int, where: Filter
) -> list[Hit]:
    """The chunks of the `candidates` nearest contents, nearest first; `query` has the build's dimensions."""
    condition, parameters = where
    text = sql.SQL(statements("search.sql")["nearest"]).format(
        operator=sql.SQL(OPERATORS[build.recipe["distance"]]),
        vector=sql.SQL(build.vector),
        filter=condition,
        **tables(build.build),
    )
    vector = Vector(query) if build.vector == "vector" else HalfVector(query)
    values = {"query": vector, "candidates": candidates, "per_content": DOCUMENTS_PER_CONTENT}
    with connection.cursor(row_factory=class_row(Hit)) as cursor:
        return cursor.execute(text, {**values, **parameters}).fetchall()


def matching_ids(
    connection: Connection, index_id: int, *, where: Filter, after: str, limit: int
) -> Sequence[str]:
    """Ids above `after`, in order, of documents whose newest revision passes the filter."""
    condition, parameters = where
    text = sql.SQL(statements("search.sql")["matching_ids"]).format(filter=condition)
    values = {"index_id": index_id, "after": after, "limit": limit}
    return [row[0] for row in connection.execute(text, {**values, **parameters})]
