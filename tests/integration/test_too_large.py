"""Inputs that the provider calls too large are replaced by smaller chunks: on real Postgres and over HTTP."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fixtures.application import LONG, Application, HashBackend, during_request, faulty
from tests.fixtures.system import PATIENCE_SECONDS
from tests.provider import Provider
from worker.backends.llm import LLMEmbeddingBackend
from worker.configuration import IndexSettings
from worker.documents import digest
from worker.errors import TooLarge
from worker.indexing.draining.drainer import Drainer
from worker.indexing.draining.settlement import LEASE_MARGIN_SECONDS
from worker.recipes import PROBE
from worker.store import builds, connection, queue, sweep
from worker.tokens import counter

LIMIT = 60  # tokens that the provider really takes; the settings claim 8,191
TEXT = "A book may be kept for four weeks and a film for two of them by every reader of the library at once."


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setattr("tests.provider.embeddings.MAX_INPUT_TOKENS", LIMIT)
    with Provider(dimensions=32) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        yield provider


@pytest.fixture
def over_http(url: str, index: IndexSettings, provider: Provider) -> Any:
    """An application whose backend is real, with chunks of 200 tokens."""
    backend = LLMEmbeddingBackend(
        name="default", model_id="3-small", init_kwargs={"key": "secret-of-the-test"}, dimensions=32
    )
    drainer = Drainer(url, index.embedding_backend, backend)
    return Application(url, replace(index, chunk_tokens=200), backend, drainer)  # type: ignore[arg-type]


def words_over(limit: int) -> Any:
    """A provider's own mind: a text of more words is too large."""
    return lambda texts: TooLarge("too large") if any(len(text.split()) > limit for text in texts) else None


def chunks(application: Application, id: str) -> list[Any]:
    """Ordinal, start, end, text and tokens of what readers see of a document, and its text; all checked."""
    rows = application.rows(
        'SELECT c.ordinal, c.start, c."end", c.text, c.tokens, r.text FROM vector_index.chunks_1 c '
        "JOIN vector_index.served_1 s ON s.live_rev = c.rev JOIN vector_index.revisions r USING (rev) "
        f"JOIN vector_index.documents d ON d.doc = s.doc WHERE d.id = '{id}' ORDER BY c.ordinal"
    )
    assert [row[0] for row in rows] == list(range(len(rows)))
    assert all(whole[start:end] == text for _, start, end, text, _, whole in rows)
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    assert "".join("".join(row[3].split()) for row in rows) == "".join(rows[0][5].split())
    return [row[3] for row in rows]


def test_inputs_that_are_too_large_are_cut_until_the_provider_takes_them(
    over_http: Application, provider: Provider
) -> None:
    """The limit is unknown. Every document is live, each piece is within it, and exact spans cover the text."""
    documents = [
        {"id": "long", "text": LONG, "title": "A long list"},
        {"id": "line", "text": " ".join(LONG.split())},
        {"id": "short", "text": "Three short words."},
    ]
    result = over_http.put(*documents)
    assert (result["indexed"], result["failed"]) == (3, [])
    for document in documents:
        assert chunks(over_http, document["id"])
    [[most]] = over_http.rows("SELECT max(tokens) FROM vector_index.chunks_1")
    assert LIMIT / 4 < most <= LIMIT
    assert len(chunks(over_http, "short")) == 1
    stats = provider.stats()
    asked = provider.times_embedded(PROBE)  # probes
    assert stats.repeated == asked - 1
    [[embedded]] = over_http.rows("SELECT count(*) FROM vector_index.embeddings_1")
    assert stats.inputs == asked + embedded
    count = counter("cl100k_base")
    assert all(
        count(text) <= LIMIT
        for request in provider.requests
        if len(request.body["input"]) == 1
        for text in request.body["input"]
        if provider.times_embedded(text)
    )


def test_an_input_too_short_to_cut_fails_only_its_document(
    over_http: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.provider.embeddings.MAX_INPUT_TOKENS", 3)
    result = over_http.put(
        {"id": "bad", "text": "Eight tokens are far too many."}, {"id": "good", "text": "Two."}
    )
    assert result["indexed"] == 1
    [failure] = result["failed"]
    assert failure["id"] == "bad"
    assert "context_length_exceeded" in failure["error"]
    assert over_http.rows("SELECT count(*) FROM vector_index.pending_1") == [(0,)]


def test_pieces_replace_a_chunk_in_every_place(application: Application) -> None:
    """Several times in one document, once in another, and once as another title and text with the same string."""
    backend = application.backend
    backend.chunk_tokens = 30
    faulty(backend, words_over(12))
    title, _, rest = TEXT.partition(" may ")
    documents = [
        {
            "id": "often",
            "text": "\n\n".join(["First words.", TEXT, TEXT, TEXT, "Words between.", TEXT, "Last words."]),
        },
        {"id": "once", "text": TEXT},
        {"id": "titled", "text": rest, "title": title},
        {"id": "joined", "text": f"{title}\n{rest}"},
    ]
    task_id = application.stage(*documents)
    [[often]] = application.rows(
        "SELECT max(times) FROM (SELECT count(*) AS times FROM vector_index.chunks_1 GROUP BY rev, hash) AS counted"
    )
    assert often > 1
    [[alike]] = application.rows(
        "SELECT max(alike) FROM (SELECT count(DISTINCT text) AS alike FROM vector_index.chunks_1 GROUP BY hash) AS c"
    )
    assert alike == 2
    application.drainer.drain()
    assert (application.result(task_id) or {})["indexed"] == 4
    assert all(len(chunks(application, document["id"])) > 1 for document in documents)
    [[most]] = application.rows(
        "SELECT max(array_length(string_to_array(text, ' '), 1)) FROM vector_index.chunks_1"
    )
    assert most <= 12
    sent = [text for texts in backend.requests for text in texts]
    assert len(sent) == len(set(sent))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_document_staged_during_a_split_with_the_same_chunk_is_split_too(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    application.backend.chunk_tokens = 30
    faulty(application.backend, words_over(12))
    split = queue.split

    def overtaken(*arguments: Any) -> list[int]:
        monkeypatch.setattr("worker.store.queue.split", split)
        if when == "before":
            application.stage({"id": "other", "text": TEXT})
        docs = split(*arguments)
        if when == "after":
            application.stage({"id": "other", "text": TEXT})
        return docs

    monkeypatch.setattr("worker.store.queue.split", overtaken)
    assert application.put({"id": "a", "text": TEXT})["indexed"] == 1
    assert application.state("other")["state"] == "live"
    assert chunks(application, "other") == chunks(application, "a")
    sent = [text for texts in application.backend.requests for text in texts]
    assert len(sent) == len(set(sent))


def test_only_the_claim_that_holds_an_input_splits_it_and_only_once(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.backend.chunk_tokens = 30
    holder_backend = HashBackend()
    claimed, late_is_settled = threading.Event(), threading.Event()
    for backend in (application.backend, holder_backend):
        faulty(backend, words_over(12))
    holder = Drainer(application.url, application.index.embedding_backend, holder_backend)
    thread = threading.Thread(target=holder.step)

    def hold() -> None:
        claimed.set()
        assert late_is_settled.wait(PATIENCE_SECONDS)

    def lose_lease() -> None:
        application.rows("UPDATE vector_index.pending_1 SET visible_at = now() RETURNING 1")
        thread.start()
        assert claimed.wait(PATIENCE_SECONDS)

    task_id = application.stage({"id": "a", "text": TEXT})
    during_request(holder_backend, hold)
    during_request(application.backend, lose_lease)
    assert application.drainer.step()
    assert application.rows("SELECT count(*) FROM vector_index.chunks_1") == [(1,)]
    split = queue.split
    monkeypatch.setattr(queue, "split", lambda *arguments: [split(*arguments), split(*arguments)][0])
    late_is_settled.set()
    thread.join(PATIENCE_SECONDS)
    application.drainer.drain()
    assert (application.result(task_id) or {})["indexed"] == 1
    assert len(chunks(application, "a")) > 1


def test_a_late_vector_wins_over_a_split(application: Application) -> None:
    """Another server of the provider embedded the input: it stays whole."""
    application.backend.chunk_tokens = 30
    embed = application.backend.embed

    def save_elsewhere(texts: Sequence[str]) -> Any:
        vectors = embed(texts)
        if list(texts) == [PROBE]:
            return vectors
        with connection.checkout(application.url) as conn:
            [build] = builds.all_writable(conn)
            queue.save(conn, build, [digest(text) for text in texts], vectors)
        raise TooLarge("too large")

    application.backend.embed = save_elsewhere  # type: ignore[method-assign]
    task_id = application.stage({"id": "a", "text": TEXT})
    application.drainer.drain()
    with connection.checkout(application.url) as conn:
        [build] = builds.all_writable(conn)
        sweep.sweep_build(conn, build, unchecked_seconds=0.0)  # the other server would have published it
    assert (application.result(task_id) or {})["indexed"] == 1
    assert chunks(application, "a") == [TEXT]


def test_a_halving_longer_than_its_lease_continues_with_another_claim(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each request takes longer than the margin of its lease."""
    late_by = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late_by[0])
    monkeypatch.setattr("worker.indexing.draining.sending.time", clock)
    monkeypatch.setattr("worker.indexing.draining.backoff.BACKOFF_SECONDS", 0.001)

    def answer(texts: Sequence[str]) -> TooLarge | None:
        late_by[0] += LEASE_MARGIN_SECONDS + 1
        return TooLarge("too much") if len(texts) > 1 else None

    faulty(application.backend, answer)
    task_id = application.stage(*[{"id": n, "text": f"Words number {n}."} for n in range(8)])
    claims: list[int] = []
    while (result := application.result(task_id)) is None:
        before = len(application.backend.requests)
        late_by[0] = 0.0
        if application.drainer.step():
            claims.append(len(application.backend.requests) - before)
    assert result["indexed"] == 8
    assert set(claims) == {1}
    assert len(claims) == 10


LOWERED = 50  # tokens; documents were cut into chunks of up to 113 before


@pytest.fixture
def lowered(application: Application) -> Application:
    """An index with a live and a queued document, after its TOKEN_LIMIT was lowered."""
    application.backend.chunk_tokens = 120
    application.put({"id": "live", "text": LONG})
    application.stage({"id": "queued", "text": "Another list.\n\n" + LONG}, task_id="before")
    [[most]] = application.rows("SELECT max(tokens) FROM vector_index.pending_1")
    assert most > LOWERED
    application.backend.requests.clear()
    application.backend.token_limit = LOWERED
    return application


def largest_request(application: Application) -> int:
    return max(
        application.backend.count_tokens(text) for texts in application.backend.requests for text in texts
    )


def test_a_lowered_token_limit_holds_for_new_documents_of_an_existing_index(lowered: Application) -> None:
    result = lowered.put({"id": "new", "text": "A new list.\n\n" + LONG, "title": "word " * 40})
    assert (result["indexed"], result["failed"]) == (1, [])
    assert largest_request(lowered) <= LOWERED
    assert chunks(lowered, "new")


def test_a_lowered_token_limit_holds_for_queued_documents(lowered: Application) -> None:
    lowered.drainer.drain()
    assert (lowered.result("before") or {})["indexed"] == 1
    assert largest_request(lowered) <= LOWERED
    assert chunks(lowered, "queued")


def test_a_lowered_token_limit_holds_for_questions(lowered: Application) -> None:
    assert lowered.search("number " * 150)
    assert largest_request(lowered) <= LOWERED


def test_a_raised_token_limit_keeps_the_chunks_of_an_index(application: Application) -> None:
    application.backend.token_limit = LOWERED
    application.put({"id": "a", "text": LONG})
    application.backend.token_limit = 500
    application.backend.chunk_tokens = 400
    application.put({"id": "b", "text": "Another list.\n\n" + LONG})
    assert largest_request(application) <= LOWERED


def test_a_queued_input_that_cannot_be_cut_within_the_limit_fails_with_the_fix(
    application: Application,
) -> None:
    task_id = application.stage({"id": "a", "text": "One two three four five six seven eight nine."})
    application.backend.token_limit = 8
    application.drainer.drain()
    [failure] = (application.result(task_id) or {})["failed"]
    assert "tokens is over TOKEN_LIMIT (8)" in failure["error"]
    assert "raise TOKEN_LIMIT" in failure["error"]
    assert application.backend.requests == []
