"""The arguments of a search and of find_similar, checked when they are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from worker.documents import clean
from worker.errors import InvalidQuery, described
from worker.inline_data import without_inline_data
from worker.search.boosting import Boost, checked_boosts

MODES = ("hybrid", "vector", "text")
MAX_LIMIT = 100
MAX_OFFSET = 10_000
MAX_QUERIES = 10
MAX_INDEXES = 10
MAX_TEXT_CHARACTERS = 100_000  # of a text that find_similar compares with: some 50 chunks


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
    boosts: Sequence[Mapping[str, Any]] | None = None  # {"decay": field, ...} or {"factor": field, ...}
    explain: bool = False  # tell how each score came about
    boosting: Sequence[Boost] = field(init=False, default=())  # the boosts, checked

    def __post_init__(self) -> None:
        _check_questions(self.text, self.queries)
        _check_whole("limit", self.limit, 1, MAX_LIMIT)
        _check_whole("offset", self.offset, 0, MAX_OFFSET)
        if self.per_document is not None:
            _check_whole("per_document", self.per_document, 1, MAX_LIMIT)
        _check_fraction("similarity_threshold", self.similarity_threshold)
        if not isinstance(self.explain, bool):
            raise InvalidQuery(f"explain must be true or false, not {described(self.explain)}")
        object.__setattr__(self, "boosting", checked_boosts(self.boosts, datetime.now(UTC)))
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

    id: str | None = None  # of the document to compare with
    text: str | None = None  # instead of `id`: a text to compare with, which need not be indexed
    limit: int = 5  # documents
    filter: Mapping[str, Any] | None = None  # applies to the results
    similarity_threshold: float = 0.0  # 0: off
    include_self: bool = False

    def __post_init__(self) -> None:
        if (self.id is None) == (self.text is None):
            given = "neither is" if self.id is None else "both are"
            raise InvalidQuery(f"find_similar takes document_id or text, and {given} given: send one of them")
        if self.text is not None:
            object.__setattr__(self, "text", _checked_text(self.text))
        _check_whole("limit", self.limit, 1, MAX_LIMIT)
        _check_fraction("similarity_threshold", self.similarity_threshold)
        if not isinstance(self.include_self, bool):
            raise InvalidQuery(f"include_self must be true or false, not {described(self.include_self)}")


def _checked_text(text: object) -> str:
    """Return a text without what documents leave out. Raises InvalidQuery."""
    if not isinstance(text, str) or not text.strip():
        raise InvalidQuery(f"text must be a string with at least one word, not {described(text)}")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidQuery(
            f"text has {len(text):,} characters; at most {MAX_TEXT_CHARACTERS:,} are compared while you wait: index "
            "it, and send its document_id"
        )
    return without_inline_data(clean(text))[0]


def checked_indexes(names: object, index: object) -> list[str]:
    """Return the names of `indexes`, each once. Raises InvalidQuery for another value, and beside a name in `index`."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InvalidQuery(f"indexes must be a list of names of indexes, not {described(names)}")
    if not 1 <= len(names) <= MAX_INDEXES:
        raise InvalidQuery(f"indexes has {len(names):,} names: send 1 to {MAX_INDEXES} in one search")
    if index != "default":
        raise InvalidQuery(
            "a search takes index or indexes, and both are given: add the name in index to indexes"
        )
    return list(dict.fromkeys(names))


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
