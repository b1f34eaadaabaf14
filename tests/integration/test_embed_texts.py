"""Vectors of an application's own texts: as the index would store them, within the limits of the backend."""

import json
from typing import Any

import numpy as np
import pytest

from tests.fixtures.application import Application, faulty
from worker.backends.budgets import Budget
from worker.errors import InvalidQuery, ProviderUnavailable, Refused, TooLarge
from worker.index import Embedder
from worker.results import EmbeddedTexts
from worker.search.texts import MAX_TEXTS, Manner, OwnTexts, embed_texts


def embedded(application: Application, *texts: Any, kind: str = "document") -> EmbeddedTexts:
    return embed_texts(Manner.of_index(application.target, kind), OwnTexts(texts=texts, kind=kind))


def test_vector_of_a_text_is_that_of_a_document_with_this_text(application: Application) -> None:
    application.backend.document_prefix = "passage: "
    text = "Cats  chase\u00ad mice.\n"
    application.put({"id": "cats", "text": text})
    result = embedded(application, "A ship.", text)
    [(stored,)] = application.rows("SELECT embedding::text FROM vector_index.embeddings_1")
    assert np.array_equal(np.float32(result["vectors"][1]), np.float32(json.loads(stored)))
    assert (result["model"], result["dimensions"], len(result["vectors"])) == ("hash", 16, 2)


def test_query_gets_the_prefix_of_questions(application: Application) -> None:
    application.backend.query_prefix = "query: "
    application.put({"id": "cats", "text": "Cats chase mice."})
    application.search("Where are mice?")
    asked = application.backend.requests[-1]
    embedded(application, "Where are mice?", kind="query")
    assert application.backend.requests[-1] == asked == ["query: Where are mice?"]


def test_index_without_documents_follows_its_settings(application: Application) -> None:
    application.backend.document_prefix = "passage: "
    embedded(application, "Cats chase mice.")
    assert application.backend.requests == [["passage: Cats chase mice."]]


def test_requests_stay_within_the_tokens_and_the_inputs_of_the_backend(application: Application) -> None:
    texts = ["word " * tokens for tokens in (150, 150, 150, 1, 1, 1, 1, 1, 1, 1, 1, 1)]
    result = embedded(application, *texts)
    assert [len(request) for request in application.backend.requests] == [2, 8, 2]
    assert result["tokens"] == 459
    alone = [embedded(application, text)["vectors"][0] for text in texts]
    assert result["vectors"] == alone


def test_text_that_is_too_long_is_named_before_anything_is_sent(application: Application) -> None:
    with pytest.raises(
        InvalidQuery,
        match=r"^texts\[1\] has 201 tokens with its prefix, and hash takes 200: shorten it, or split it into several "
        r"texts$",
    ):
        embedded(application, "short", "word " * 201)
    assert application.backend.requests == []


@pytest.mark.parametrize("error", [TooLarge("over the limit"), Refused("refused")])
def test_text_that_the_provider_does_not_take_is_named(application: Application, error: Exception) -> None:
    faulty(application.backend, lambda texts: error if any("bad" in text for text in texts) else None)
    with pytest.raises(type(error), match=rf"^texts\[5\]: {error}$"):
        embedded(application, *["good"] * 5, "bad", "good")


def test_batch_that_is_too_large_is_sent_in_halves(application: Application) -> None:
    faulty(application.backend, lambda texts: TooLarge("too many") if len(texts) > 2 else None)
    result = embedded(application, "a", "b", "c", "d", "e")
    assert [len(request) for request in application.backend.requests if request] == [2, 1, 2]
    assert len(result["vectors"]) == 5


def test_wait_for_the_rate_limit_beyond_seconds_is_an_error_at_once(application: Application) -> None:
    own = application.target.own_embedder
    budget = Budget("", "embedding:mine", requests_per_minute=1)
    manner = Manner.of_backend(
        Embedder(settings=own.settings, backend=own.backend, budget=budget), "document"
    )
    embed_texts(manner, OwnTexts(texts=["first"]))
    with pytest.raises(ProviderUnavailable, match=r"^the embedding:mine backend may send again in \d+ s"):
        embed_texts(manner, OwnTexts(texts=["second"]))


def test_numbers_have_no_more_digits_than_their_four_bytes(application: Application) -> None:
    numbers = embedded(application, "Cats chase mice.")["vectors"][0]
    assert max(len(repr(number).lstrip("-").replace("0.", "").lstrip("0")) for number in numbers) <= 9


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"texts": "one text"}, "texts must be a list of strings, not a string of 8 characters"),
        ({"texts": []}, f"texts has 0 texts: send 1 to {MAX_TEXTS} in one task"),
        ({"texts": ["a"] * 101}, f"texts has 101 texts: send 1 to {MAX_TEXTS} in one task"),
        ({"texts": ["a", 7]}, r"texts\[1\] must be a string, not 7"),
        ({"texts": ["a", "\u200b \n"]}, r"texts\[1\] has no words: leave it out"),
        (
            {"texts": ["a"], "kind": "documents"},
            "kind must be 'document' or 'query', not a string of 9 characters",
        ),
    ],
)
def test_wrong_argument_is_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidQuery, match=f"^{sentence}$"):
        OwnTexts(**arguments)
