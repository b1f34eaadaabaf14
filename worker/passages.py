"""The passages that a search returns."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from worker.search_results import Explanation, Reranked, Row

MAX_RETURNED_METADATA_BYTES = 1_000_000  # of all rows of a result, which is stored in Redis


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A search result: consecutive chunks of one document."""

    document_id: str
    title: str
    metadata: Mapping[str, Any]
    text: str
    start: int
    end: int
    chunks: tuple[int, int]  # ordinals of the first and the last chunk
    score: float  # compare it only with scores of the same search
    similarity: float | None  # 1 - cosine distance; None if it was not computed
    explain: Explanation | None = None  # None: nobody asked
    rerank: Reranked | None = None  # None: no reranker was asked
    index: str | None = None  # that it is from; None: the only one that was searched
    metadata_omitted: bool = False  # the metadata of the rows before have filled the result
    context: tuple[int, str] | None = (
        None  # the text around it, for a chat: its first code point, and the text
    )

    def as_json(self) -> Row:
        row: Row = {
            "document_id": self.document_id,
            "title": self.title,
            "metadata": dict(self.metadata),
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "chunks": list(self.chunks),
            "score": self.score,
            "similarity": self.similarity,
        }
        if self.explain is not None:
            row["explain"] = self.explain
        if self.rerank is not None:
            row["rerank"] = self.rerank
        if self.index is not None:
            row["index"] = self.index
        if self.metadata_omitted:
            row["metadata_omitted"] = True
        return row


def bounded_result(passages: Iterable[Passage]) -> list[Row]:
    """Return the rows of a result, with at most MAX_RETURNED_METADATA_BYTES of metadata; those beyond have none."""
    rows, left = [], MAX_RETURNED_METADATA_BYTES
    for passage in passages:
        size = len(json.dumps(passage.metadata))
        if size > left:
            passage = replace(passage, metadata={}, metadata_omitted=True)
        else:
            left -= size
        rows.append(passage.as_json())
    return rows
