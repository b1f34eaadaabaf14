"""Answers of real embedding servers, over HTTP: docs/how-to/servers.md names them.

What concerns some inputs fails, splits or halves these alone; what concerns every request fails nothing.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.fixtures.application import Application
from tests.provider import Provider
from tests.provider.faults import SPOILED
from tests.provider.servers import NO_KEY, TOO_LONG, TOO_MANY
from worker.backends.llm import LLMEmbeddingBackend
from worker.configuration import IndexSettings
from worker.indexing.draining.drainer import Drainer
from worker.indexing.draining.outcomes import MAX_ATTEMPTS
from worker.recipes import most_inputs
from worker.store import builds, connection, status

WORDS = [{"id": f"{n}", "text": f"Words of document number {n}."} for n in range(30)]
LONG = " ".join(f"Sentence {n} is about books." for n in range(30))


@pytest.fixture(name="provider")
def server() -> Iterator[Provider]:
    with Provider(dimensions=16) as provider:
        yield provider


@pytest.fixture(name="application")
def application_over_http(
    url: str, index: IndexSettings, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> Application:
    monkeypatch.setattr("worker.indexing.draining.backoff.BACKOFF_SECONDS", 0.001)
    backend = LLMEmbeddingBackend(
        name="default",
        model_id="3-small",
        init_kwargs={"key": "secret-of-the-test", "api_base": provider.url},
        dimensions=16,
        batch_size=100,
    )
    drainer = Drainer(url, index.embedding_backend, backend)
    application = Application(url, replace(index, chunk_tokens=300), backend, drainer)  # type: ignore[arg-type]
    application.put({"id": "first", "text": "The first words."})
    provider.reset()
    return application


def last_error(application: Application) -> str | None:
    with connection.checkout(application.url) as conn:
        return status.index_status(conn, builds.live(conn, "default"))["last_error"]


def settled(application: Application, *documents: Any) -> dict[str, Any]:
    """Stage documents, and drain until their job has a result."""
    task_id = application.stage(*documents)
    for _ in range(20 * MAX_ATTEMPTS):
        application.drainer.drain()
        if (result := application.result(task_id)) is not None:
            return result
    raise AssertionError("the job has no result")


@pytest.mark.parametrize("how", SPOILED)
def test_an_input_with_an_unusable_vector_fails_alone_with_a_reason(
    application: Application, provider: Provider, how: str
) -> None:
    provider.inject("spoiled", how=how, word="SPOILED", times=None)
    result = settled(application, *WORDS, {"id": "bad", "text": "A SPOILED text."})
    if how in ("number of its neighbour", "no number"):  # alone, it needs no number
        assert (result["indexed"], result["failed"]) == (31, [])
    else:
        assert result["indexed"] == 30
        [failure] = result["failed"]
        assert failure["id"] == "bad"
        assert "text-embedding-3-small returned" in failure["error"] or "no list of emb" in failure["error"]
    assert provider.stats().inputs < 7 * 31
    assert application.put({"id": "later", "text": "Later words."})["indexed"] == 1


def test_two_inputs_with_short_vectors_in_one_request_fail_and_no_other(
    application: Application, provider: Provider
) -> None:
    """Their half of the request has only short vectors, as if the settings were wrong."""
    provider.inject("spoiled", how="short", word="SHORT", times=None)
    bad = [{"id": f"bad {n}", "text": f"A SHORT text {n}."} for n in range(2)]
    result = settled(application, *bad)
    assert {failure["id"] for failure in result["failed"]} == {"bad 0", "bad 1"}
    assert settled(application, *WORDS)["indexed"] == 30


def test_vectors_that_all_have_another_length_fail_nothing(
    application: Application, provider: Provider
) -> None:
    provider.inject("spoiled", how="short", word="", times=None)
    application.stage(*WORDS)
    application.drainer.drain()
    assert "8 instead of 16" in (last_error(application) or "")
    assert application.rows("SELECT count(*), max(attempts) FROM vector_index.pending_1") == [(30, 0)]
    provider.reset()
    application.rows("UPDATE vector_index.pending_1 SET visible_at = now() RETURNING 1")
    application.drainer.drain()
    assert application.state("7")["state"] == "live"


@pytest.mark.parametrize("server", TOO_LONG)
def test_a_long_text_is_split_whatever_the_server_says(
    application: Application, provider: Provider, server: str
) -> None:
    provider.inject("too_long", answer=TOO_LONG[server], words=50, times=None)
    result = settled(application, *WORDS, {"id": "long", "text": LONG})
    assert (result["indexed"], result["failed"]) == (31, [])


# of a new process about a text that is refused alone: the text, a word, and words of twice its length
REQUESTS_ABOUT_A_REFUSED_TEXT = 3


@pytest.mark.parametrize("text", ["A short POISON text.", f"{LONG[:300]} POISON. {LONG[:300]}"])
def test_a_refused_text_costs_a_new_process_three_requests(
    application: Application, provider: Provider, text: str
) -> None:
    """And the next one two: the process knows by then that texts of this length are taken."""
    provider.inject("refused_word", answer=TOO_LONG["a sentence"], word="POISON", times=None)
    before = provider.stats().requests
    assert settled(application, {"id": "first", "text": text})["failed"] != []
    assert provider.stats().requests - before == REQUESTS_ABOUT_A_REFUSED_TEXT
    assert settled(application, {"id": "second", "text": f"Again, {text}"})["failed"] != []
    assert provider.stats().requests - before <= 2 * REQUESTS_ABOUT_A_REFUSED_TEXT


def test_a_server_that_refuses_every_text_of_a_kind_is_asked_a_bounded_number_of_times(
    application: Application, provider: Provider
) -> None:
    """Each piece has the word that is refused, and so would each half of each piece."""
    provider.inject("refused_word", answer=TOO_LONG["a sentence"], word="Sentence", times=None)
    before = provider.stats().requests
    result = settled(application, {"id": "long", "text": LONG})
    assert [failure["id"] for failure in result["failed"]] == ["long"]
    assert provider.stats().requests - before == REQUESTS_ABOUT_A_REFUSED_TEXT


def test_a_text_that_takes_the_server_too_long_is_split_at_its_last_attempt(
    application: Application, provider: Provider
) -> None:
    answer = (500, {"error": "context canceled"})
    provider.inject("too_long", answer=answer, words=100, times=None)
    result = settled(application, {"id": "long", "text": LONG})
    assert (result["indexed"], result["failed"]) == (1, [])


@pytest.mark.parametrize("server", TOO_MANY)
def test_a_limit_of_inputs_that_a_refusal_shows_is_remembered(
    application: Application, provider: Provider, server: str
) -> None:
    provider.inject("too_many", answer=TOO_MANY[server], inputs=10, times=None)
    assert settled(application, *WORDS)["failed"] == []
    provider.inject("too_many", answer=TOO_MANY[server], inputs=10, times=None)
    assert settled(application, *({**d, "text": f"New {d['text']}"} for d in WORDS))["indexed"] == 30
    assert application.drainer.provider.batch_size == 10
    refused = provider.stats().refused
    assert settled(application, *({**d, "text": f"Other {d['text']}"} for d in WORDS))["indexed"] == 30
    assert provider.stats().refused == refused
    assert provider.stats().max_inputs == 10


def test_a_limit_of_tokens_is_not_taken_for_one_of_inputs(
    application: Application, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.provider.embeddings.MAX_REQUEST_TOKENS", 150)
    assert settled(application, *WORDS)["indexed"] == 30
    assert settled(application, {"id": "next", "text": "More words."})["indexed"] == 1
    assert application.drainer.provider.batch_size == 100


@pytest.mark.parametrize(
    ("limit", "wanted", "found"), [(10, 100, 10), (1, 100, 1), (99, 100, 99), (100, 100, 100)]
)
def test_the_most_inputs_of_a_request_are_found(
    application: Application, provider: Provider, limit: int, wanted: int, found: int
) -> None:
    provider.inject("too_many", answer=TOO_MANY["Azure"], inputs=limit, times=None)
    assert most_inputs(application.backend.embed, wanted=wanted) == found
    assert provider.stats().requests <= 8


@pytest.mark.parametrize("server", NO_KEY)
def test_a_missing_key_fails_nothing_and_is_named(
    application: Application, provider: Provider, server: str
) -> None:
    provider.inject("said", answer=NO_KEY[server], times=None)
    application.stage(*WORDS)
    application.drainer.drain()
    assert "give the backend a key that may use this model" in (last_error(application) or "")
    assert application.rows("SELECT count(*), max(attempts) FROM vector_index.pending_1") == [(30, 0)]


def test_a_web_page_fails_nothing_and_the_address_is_named(
    application: Application, provider: Provider
) -> None:
    page = "<!DOCTYPE html><title>Sign in</title>"
    provider.inject("said", answer=(200, page), times=None)
    application.stage(*WORDS)
    application.drainer.drain()
    error = last_error(application) or ""
    assert "(Sign in)" in error
    assert f"{provider.url}/ answers with a web page instead of JSON; correct the URL (api_base" in error
    assert application.rows("SELECT count(*), max(attempts) FROM vector_index.pending_1") == [(30, 0)]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_firewall_that_blocks_one_text_delays_no_other(
    application: Application, provider: Provider, status: int
) -> None:
    provider.inject("refused_word", answer=(status, "<html><title>Blocked</title>"), word="DROP", times=None)
    result = settled(application, *WORDS, {"id": "sql", "text": "DROP TABLE readers."})
    assert result["indexed"] == 30
    [failure] = result["failed"]
    assert failure["id"] == "sql"
    assert f"HTTP {status} (Blocked)" in failure["error"]
    assert "it may refuse this one" in failure["error"]
