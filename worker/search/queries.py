"""The arguments of a search and of find_similar, checked when they are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.errors import InvalidQuery, described

MODES = ("hybrid", "vector", "text")
MAX_LIMIT = 100
MAX_OFFSET = 10_000
MAX_QUERIES = 10


@dataclass(frozen=True, kw_only=True)
class SearchQuery:
    """The arguments of a search. Raises InvalidQuery, which names the argument, its value and the fix."""

    text: str | None = None
    queries: Sequence[str] | None = None  # instead of `text`: several questions, whose scores are averaged
    limit: int = 5  # passages
    offset: int = 0  # passages to skip
    filter: Mapping[str, Any] | None = None
    similarity_threshold: float = 0.0  # 0: off
    per_document: int | None = None  # most passages of one document; None: any number
    mode: str = "hybrid"  # or "vector", or "text"

    def __post_init__(self) -> None:
        _check_questions(self.text, self.queries)
        _check_whole("limit", self.limit, 1, MAX_LIMIT)
        _check_whole("offset", self.offset, 0, MAX_OFFSET)
        if self.per_document is not None:
            _check_whole("per_document", self.per_document, 1, MAX_LIMIT)
        _check_fraction("similarity_threshold", self.similarity_threshold)
        if self.mode not in MODES:
            raise InvalidQuery(f"mode must be one of {', '.join(MODES)}, not {self.mode!r:.40}")
        if self.mode == "text" and self.similarity_threshold:
            raise InvalidQuery(
                'similarity_threshold needs vectors, and mode "text" uses none: remove it, or use mode "hybrid" or '
                '"vector"'
            )

    @property
    def texts(self) -> Sequence[str]:
        """The questions: one, or those of `queries`, each once."""
        return list(dict.fromkeys(self.queries)) if self.queries else [self.text or ""]


@dataclass(frozen=True, kw_only=True)
class SimilarQuery:
    """The arguments of find_similar. Raises InvalidQuery, which names the argument, its value and the fix."""

    id: str  # of the document to compare with
    limit: int = 5  # documents
    filter: Mapping[str, Any] | None = None  # applies to the results
    similarity_threshold: float = 0.0  # 0: off
    include_self: bool = False

    def __post_init__(self) -> None:
        _check_whole("limit", self.limit, 1, MAX_LIMIT)
        _check_fraction("similarity_threshold", self.similarity_threshold)
        if not isinstance(self.include_self, bool):
            raise InvalidQuery(f"include_self must be true or false, not {described(self.include_self)}")


def _check_questions(text: object, queries: object) -> None:
    if (text is None) == (queries is None):
        given = "both are" if queries is not None else "neither is"
        raise InvalidQuery(
            f"a search takes query or queries, and {given} given: send query for one question, queries for several"
        )
    if queries is None:
        if not isinstance(text, str) or not text.strip():
            raise InvalidQuery("query must be a string with at least one word")
    elif not isinstance(queries, (list, tuple)):
        raise InvalidQuery(f"queries must be a list of 1 to {MAX_QUERIES} strings, not {described(queries)}")
    elif not 1 <= len(queries) <= MAX_QUERIES:
        raise InvalidQuery(f"queries has {len(queries):,} questions: send 1 to {MAX_QUERIES} in one search")
    else:
        for at, each in enumerate(queries):
            if not isinstance(each, str) or not each.strip():
                raise InvalidQuery(f"queries[{at}] must be a string with at least one word")


def _check_fraction(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InvalidQuery(f"{name} must be a number from 0 (off) to 1, not {described(value)}")


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidQuery(f"{name} must be a whole number from {low} to {high:,}, not {described(value)}")
