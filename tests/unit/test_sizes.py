"""Arguments and results have bounds, and a wrong argument is described without its content."""

from collections.abc import Callable
from typing import Any

import pytest

from worker.chat.questions import ChatQuestion
from worker.documents import Document
from worker.errors import InvalidDocument, InvalidQuery, described
from worker.passages import Passage, bounded_result
from worker.search.queries import SearchQuery, SimilarQuery
from worker.store.filters import compile_filter

SECRET = "The patient has " + "measles. " * 200_000
WRONG = [SECRET, [SECRET], {"text": SECRET}, {"$x" + SECRET: 1}, 10**5_000]


@pytest.mark.parametrize("value", WRONG, ids=["string", "list", "object", "key", "number"])
@pytest.mark.parametrize(
    "use",
    [
        lambda value: SearchQuery(text="x", limit=value),
        lambda value: SearchQuery(text="x", offset=value),
        lambda value: SearchQuery(text="x", per_document=value),
        lambda value: SearchQuery(text="x", similarity_threshold=value),
        lambda value: SearchQuery(text=[value]),  # type: ignore[arg-type]
        lambda value: SearchQuery(queries=["x", [value]]),  # type: ignore[list-item]
        lambda value: SearchQuery(queries={"x": value}),  # type: ignore[arg-type]
        lambda value: SimilarQuery(id="x", include_self=value),
        lambda value: ChatQuestion(text="x", history=[value]),
        lambda value: ChatQuestion(text="x", limit=value),
        lambda value: compile_filter({"$nope": value}),
        lambda value: compile_filter({"field": {"$exists": value}}),
        lambda value: Document.from_json({"id": [value], "text": "x"}, max_bytes=10),
        lambda value: Document.from_json({"id": 1, "text": [value]}, max_bytes=10),
        lambda value: Document.from_json({"id": 1, "text": "x", "version": [value]}, max_bytes=10),
    ],
)
def test_a_wrong_argument_is_not_quoted_in_its_error(use: Callable[[Any], object], value: Any) -> None:
    with pytest.raises((InvalidQuery, InvalidDocument)) as caught:
        use(value)
    assert len(str(caught.value)) < 400
    assert "measles" not in str(caught.value)


def test_a_wrong_value_is_described() -> None:
    values = [0, 1.5, True, None, "text", [1], {}, 10**5_000, (1,)]
    assert [described(value) for value in values] == [
        "0", "1.5", "True", "None", "a string of 4 characters", "a list", "an object",
        "a number of more than 30 digits", "of type tuple",
    ]  # fmt: skip


def test_a_long_title_fails_its_document() -> None:
    with pytest.raises(InvalidDocument, match="title has 2,001 characters; at most 2,000 are allowed"):
        Document.from_json({"id": 1, "text": "x", "title": "x" * 2_001}, max_bytes=10)


def test_a_result_has_at_most_a_megabyte_of_metadata() -> None:
    passages = [
        Passage(
            document_id=str(n), title="", metadata={"n": "x" * 300_000}, text="x", start=0, end=1, chunks=(0, 0),
            score=1.0, similarity=1.0,
        )
        for n in range(20)
    ]  # fmt: skip
    rows = bounded_result(passages)
    assert [row["metadata"] == {} for row in rows] == [False] * 3 + [True] * 17
    assert [row.get("metadata_omitted", False) for row in rows] == [False] * 3 + [True] * 17
