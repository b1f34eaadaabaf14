"""What monitors show of a task's arguments."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.celery.argument_summary import summary

INDEXING = ("documents", "index")
SEARCH = ("query", "limit", "offset", "filter", "similarity_threshold", "mode", "per_document", "index")
CHAT = ("question", "limit", "filter", "similarity_threshold", "history", "chat_backend", "stream", "index")
DELETION = ("ids", "filter", "version", "index")
INDEXES = {"default", "articles"}
PETS = [{"id": 1, "text": "x" * 7_000}, {"id": 2, "text": "é" * 3_500}, {"id": 3, "title": "no text"}]


@pytest.mark.parametrize(
    ("parameters", "kwargs", "shown"),
    [
        (INDEXING, {"documents": PETS, "index": "articles"}, "3 documents, 14 kB, index articles"),
        (INDEXING, {"documents": PETS[2:]}, "1 document, 0 B, index default"),
        (INDEXING, {"documents": []}, "0 documents, 0 B, index default"),
        (INDEXING, {"documents": [{"text": "\ud83d"}]}, "1 document, 3 B, index default"),
        (INDEXING, {"documents": [{"text": "x" * 1_250_000}] * 2}, "2 documents, 2.5 MB, index default"),
        (DELETION, {"ids": list(range(1_234))}, "1,234 ids, index default"),
        (DELETION, {"filter": {"author": "Ada"}, "version": 7}, "filter, index default"),
        (SEARCH, {"query": "Who?", "limit": 9, "mode": "text"}, "query of 4 B, limit 9, text, index default"),
        (SEARCH, {"query": "Who?", "filter": {"a": 1}}, "query of 4 B, filter, index default"),
        (("document_id", "limit", "index"), {"document_id": "ada@example.org"}, "index default"),
        (
            CHAT,
            {"question": "Who?", "history": [{}, {}], "chat_backend": "x", "stream": True},
            "question of 4 B, 2 turns, stream, index default",
        ),
        (("texts", "kind", "index"), {"texts": ["Who?", 7], "kind": "query"}, "2 texts, 4 B, index default"),
        (("texts", "kind", "index"), {"texts": "secret", "kind": "secret"}, "odd texts, index default"),
        (("full", "allow_shrink", "index"), {"full": True, "allow_shrink": False}, "full, index default"),
        (("keep_old", "rollback", "index"), {"keep_old": True}, "keep old, index default"),
        ((), {}, "no arguments"),
    ],
)
def test_a_summary_counts_and_measures_arguments(
    parameters: tuple[str, ...], kwargs: dict[str, Any], shown: str
) -> None:
    assert summary(parameters, (), kwargs, INDEXES) == shown


def test_a_summary_covers_positional_arguments() -> None:
    assert summary(INDEXING, [PETS, "articles"], {}, INDEXES) == "3 documents, 14 kB, index articles"
    assert summary(INDEXING, [PETS], {"index": "articles"}, INDEXES) == "3 documents, 14 kB, index articles"


@pytest.mark.parametrize(
    ("args", "kwargs", "shown"),
    [
        ((), {"query": ["secret"]}, "odd query, index default"),
        ((), {"limit": 10**400}, "odd limit, index default"),
        ((), {"limit": True, "offset": "secret"}, "odd limit, odd offset, index default"),
        ((), {"mode": "secret"}, "odd mode, index default"),
        ((), {"mode": ["text"]}, "odd mode, index default"),
        ((), {"index": "secret"}, "an unknown index"),
        ((), {"index": ["secret"]}, "an unknown index"),
        ((), {"secret": 1, "and": 2}, "2 unknown arguments, index default"),
        (["x"] * 9, {}, "query of 1 B, odd limit, odd offset, filter, odd mode, 1 unknown argument, "
         "an unknown index"),
        ("secret", "secret", "index default"),
        (None, ["secret"], "index default"),
    ],
)  # fmt: skip
def test_wrong_values_are_called_odd_and_not_shown(args: Any, kwargs: Any, shown: str) -> None:
    assert summary(SEARCH, args, kwargs, INDEXES) == shown


# any JSON: every text in it must stay hidden
PLANTED = st.just("Marrakesh") | st.just("Marrakesh\n\ud800 \x00") | st.just("")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | PLANTED,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(PLANTED | st.sampled_from(["id", "text"]), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = (*dict.fromkeys([*INDEXING, *SEARCH, *CHAT, *DELETION]), "document_id")


@given(
    args=st.lists(JSON, max_size=15) | JSON,
    kwargs=st.dictionaries(st.sampled_from(NAMES) | PLANTED, JSON) | JSON,
)
def test_the_summary_of_any_message_is_one_short_line_without_its_texts(args: Any, kwargs: Any) -> None:
    shown = summary(NAMES, args, kwargs, INDEXES)
    assert re.fullmatch(r"[a-z0-9 ,.]+", shown, re.IGNORECASE)
    assert "marrakesh" not in shown.lower()
    assert len(shown) < 250
