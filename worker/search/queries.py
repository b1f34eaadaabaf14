"""The arguments of a search and of find_similar, checked when they are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.errors import InvalidQuery, described

MODES = ("hybrid", "vector", "text")
MAX_LIMIT = 100
MAX_OFFSET = 10_000


@dataclass(frozen=True, kw_only=True)
class SearchQuery:
    """The arguments of a search. Raises InvalidQuery, which names the argument, its value and the fix."""

    text: str
    limit: int = 5  # passages
    offset: int = 0  # passages to skip
    filter: Mapping[str, Any] | None = None
    similarity_threshold: float = 0.0  # 0: off
    per_document: int | None = None  # most passages of one document; None: any number
    mode: str = "hybrid"  # or "vector", or "text"

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InvalidQuery("query must be a string with at least one word")
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


def _check_fraction(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InvalidQuery(f"{name} must be a number from 0 (off) to 1, not {described(value)}")


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidQuery(f"{name} must be a whole number from {low} to {high:,}, not {described(value)}")
