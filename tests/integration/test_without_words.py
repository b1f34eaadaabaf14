"""LANGUAGE None: an index without words, whose searches compare vectors alone."""

import json
from dataclasses import replace

import pytest

from tests.fixtures.application import Application
from tests.fixtures.rebuilding import ChangingApplication
from worker.cli.eval import modes_of
from worker.configuration import load
from worker.errors import InvalidQuery

TEXTS = {"owl": "The owl sleeps by day.", "fox": "A fox hunts at night.", "elk": "The elk swims in the lake."}


@pytest.fixture
def wordless(application: Application) -> Application:
    application.index = replace(application.index, language=None)
    application.put(*({"id": id, "text": text} for id, text in TEXTS.items()))
    return application


def test_chunks_have_no_words(wordless: Application) -> None:
    assert wordless.rows("SELECT DISTINCT lexemes::text FROM vector_index.chunks_1") == [("",)]


def test_hybrid_search_compares_vectors_alone(wordless: Application) -> None:
    [hybrid] = wordless.passages("owl sleeps", limit=1)
    [vector] = wordless.passages("owl sleeps", limit=1, mode="vector")
    assert hybrid == vector
    assert hybrid.document_id == "owl"


def test_search_by_words_says_what_to_set(wordless: Application) -> None:
    with pytest.raises(
        InvalidQuery, match="index 'default' has no words, because its LANGUAGE is None: use mode"
    ):
        wordless.search("owl", mode="text")


def test_documents_that_name_a_language_have_no_words_either(application: Application) -> None:
    application.index = replace(application.index, language=None, language_field="lang")
    application.put({"id": "owl", "text": TEXTS["owl"], "metadata": {"lang": "en"}})
    assert application.rows("SELECT lexemes::text FROM vector_index.chunks_1") == [("",)]
    assert application.search("owl") == ["owl"]


def test_a_rebuild_gives_the_index_words_without_a_request(wordless: Application) -> None:
    changing = ChangingApplication(wordless)
    wordless.backend.requests.clear()
    changing.change(language="english")
    changing.rebuild()
    assert changing.search("sleeping", mode="text") == ["owl"]
    assert wordless.backend.requests == []


def test_eval_measures_such_an_index_by_vector_alone() -> None:
    indexes = {"INDEXES": {"default": {}, "wordless": {"LANGUAGE": None}}}
    known = load({"VECTOR_INDEX": json.dumps(indexes)})
    assert modes_of(known.index("default")) == ("hybrid", "vector", "text")
    assert modes_of(known.index("wordless")) == ("vector",)
