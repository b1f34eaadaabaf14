"""A provider that is away, or that refuses everything, is no document's fault; a lease that is over sends nothing."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fixtures.application import Application, HashBackend, faulty
from tests.fixtures.system import eventually
from tests.provider import Provider
from worker.backends.budgets import Budget
from worker.backends.llm import LLMEmbeddingBackend
from worker.configuration import IndexSettings
from worker.errors import ProviderUnavailable, Refused, TooLarge, VectorIndexError
from worker.indexing.draining.drainer import Drainer
from worker.indexing.draining.provider import Provider as Known
from worker.indexing.draining.provider import backoff_seconds
from worker.indexing.draining.settlement import LEASE_MARGIN_SECONDS, MAX_ATTEMPTS
from worker.recipes import PROBE
from worker.store import builds, connection, status

DOWN = ProviderUnavailable("it is away")
ATTEMPTS = "SELECT max(attempts) FROM vector_index.pending_1"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six attempts take 62 ms instead of a minute."""
    monkeypatch.setattr("worker.indexing.draining.provider.BACKOFF_SECONDS", 0.002)
    monkeypatch.setattr("worker.indexing.draining.provider.PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("worker.indexing.draining.drainer.POLL_SECONDS", 0.01)


def documents(number: int) -> list[dict[str, Any]]:
    return [{"id": n, "text": f"Words of document {n}."} for n in range(number)]


def through_http(url: str, index: IndexSettings) -> Application:
    """One whose provider stands at OPENAI_BASE_URL."""
    backend: Any = LLMEmbeddingBackend(
        name="default", model_id="3-small", init_kwargs={"key": "secret-of-the-test"}, dimensions=32
    )
    return Application(url, index, backend, Drainer(url, index.embedding_backend, backend))


@pytest.mark.parametrize("fault", ["unavailable", "cut", "content_policy"])
def test_an_outage_of_any_length_fails_nothing_counts_nothing_and_all_is_live_once_it_is_over(
    url: str, index: IndexSettings, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Many times as long as six attempts take, in eight slots; after one request each it gets words only."""
    with Provider(dimensions=32) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        ours = through_http(url, index)
        drainer = ours.drainer
        ours.put({"id": "before", "text": "Harmless words."})
        drainer.start()
        eventually(lambda: drainer._provider.failure is None)
        provider.reset()
        provider.inject(fault, times=None)
        task_id = ours.stage(*documents(100))
        eventually(lambda: provider.stats().requests > 30)
        eventually(lambda: ours.rows(ATTEMPTS) == [(0,)])  # once what was in hand is given back
        inputs = [request.body["input"] for request in provider.requests]
        assert ours.result(task_id) is None
        # of each slot one, of all the words that follow
        assert sum(texts != [PROBE] for texts in inputs) <= index.embedding_backend.concurrency
        with connection.checkout(url) as conn:
            assert status.index_status(conn, builds.live(conn, "default"))["last_error"]
        provider.reset()
        eventually(lambda: ours.result(task_id))
        assert drainer.stop(60)
        assert (ours.result(task_id) or {})["indexed"] == 100
        assert provider.stats().repeated == provider.times_embedded(PROBE) - 1


def test_what_was_claimed_just_before_the_provider_went_away_is_not_sent_alone(
    url: str, index: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would count as an attempt: as what took the provider down."""
    with Provider(dimensions=32) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        ours = through_http(url, index)
        drainer = ours.drainer
        task_id = ours.stage(*documents(1))
        claim = drainer._claim()
        assert claim
        provider.inject("cut", times=None)
        assert drainer._provider.ask()
        provider.reset()
        drainer._settle_alone(claim)
        assert provider.stats().requests == 0
        assert ours.rows(ATTEMPTS) == [(0,)]
        eventually(lambda: [drainer.drain(), ours.result(task_id)][1])
        assert (ours.result(task_id) or {})["indexed"] == 1


def test_a_provider_that_cannot_be_connected_to_fails_nothing(
    url: str, index: IndexSettings, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{unused_port}/v1")
    ours = through_http(url, index)
    drainer = ours.drainer
    task_id = ours.stage(*documents(3))
    for _ in range(2 * MAX_ATTEMPTS):
        drainer.drain()
    assert ours.rows(ATTEMPTS) == [(0,)]
    with Provider(dimensions=32, port=unused_port):
        eventually(lambda: [drainer.drain(), ours.result(task_id)][1])
    assert (ours.result(task_id) or {})["indexed"] == 3


@pytest.mark.parametrize("refusal", [Refused("no, thank you"), TooLarge("too large")])
def test_a_provider_that_begins_to_refuse_everything_fails_no_document(
    application: Application,
    refusal: VectorIndexError,
) -> None:
    """Even one word: that is a matter of settings, or of the provider. Nothing is cut either."""
    refuses = [False]
    faulty(application.backend, lambda _: refusal if refuses[0] else None, words=True)
    task_id = application.stage(*documents(3), {"id": "long", "text": "Many words. " * 9})
    chunks = application.rows("SELECT rev, ordinal, text FROM vector_index.chunks_1 ORDER BY 1, 2")
    refuses[0] = True
    for _ in range(3):
        application.drainer.drain()
    assert {application.state(str(n))["state"] for n in range(3)} == {"pending"}
    assert application.rows(ATTEMPTS) == [(0,)]
    with connection.checkout(application.url) as conn:
        told = status.index_status(conn, builds.live(conn, "default"))["last_error"]
    assert f"{refusal}, even the one word 'dimensions': mend MODEL_ID" in told
    refuses[0] = False
    application.drainer.drain()
    assert (application.result(task_id) or {})["indexed"] == 4
    assert application.rows("SELECT rev, ordinal, text FROM vector_index.chunks_1 ORDER BY 1, 2") == chunks


@pytest.mark.parametrize("failure", [DOWN, Refused("not this one")])
def test_what_fails_alone_while_the_provider_takes_words_fails_and_costs_nobody_else_anything(
    application: Application,
    failure: VectorIndexError,
) -> None:
    """A poison for which the provider answers 500, or refuses; also where the others were embedded long ago."""
    faulty(application.backend, lambda texts: failure if any("guilty" in t for t in texts) else None)
    task_id = application.stage(*documents(7), {"id": "bad", "text": "A guilty one."})
    eventually(lambda: [application.drainer.drain(), application.result(task_id)][1])
    result = application.result(task_id) or {}
    assert result["indexed"] == 7
    assert result["failed"] == [{"id": "bad", "error": str(failure)}]


def test_what_takes_the_provider_down_fails_alone_and_holds_nothing_up(
    url: str, index: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time with all that is in flight, and for so long that it takes no word right after it."""
    monkeypatch.setattr("tests.provider.AWAY_SECONDS", 0.05)
    with Provider(dimensions=32, crash="A guilty one.") as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        ours = through_http(url, index)
        drainer = ours.drainer
        drainer.start()
        task_id = ours.stage(*documents(300), {"id": "bad", "text": "A guilty one."})
        result = eventually(lambda: ours.result(task_id))
        assert drainer.stop(60)
        assert result["indexed"] == 300
        assert [failure["id"] for failure in result["failed"]] == ["bad"]
        inputs = [request.body["input"] for request in provider.requests]
        assert inputs.count(["A guilty one."]) >= MAX_ATTEMPTS
        # 64 that travel with it are halved at most six times
        assert provider.stats().faults <= MAX_ATTEMPTS + 8


def test_after_an_outage_requests_travel_alone_and_grow(
    url: str, index: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Provider(dimensions=32) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        backend: Any = LLMEmbeddingBackend(
            name="default", model_id="3-small", init_kwargs={"key": "secret-of-the-test"}, dimensions=32
        )
        provider.inject("unavailable", times=None)
        drainer = Drainer(url, index.embedding_backend, backend)
        ours = Application(url, index, backend, drainer)
        drainer.start()
        eventually(lambda: provider.stats().requests)
        task_id = ours.stage(*documents(300))
        provider.reset()
        eventually(lambda: ours.result(task_id))
        assert drainer.stop(60)
        sizes = [
            len(request.body["input"]) for request in provider.requests if request.body["input"] != [PROBE]
        ]
        assert sizes[:6] == [1, 2, 4, 8, 16, 32]
        assert sum(sizes) == 300


def test_a_poison_fails_under_the_smallest_of_budgets(
    url: str, index: IndexSettings, backend: HashBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked about it waits for its turn: else it would be sent again and again, for ever."""
    monkeypatch.setattr("worker.backends.budgets.WINDOW_SECONDS", 6.0)
    monkeypatch.setattr("worker.backends.budgets.MAX_WAIT_SECONDS", 0.1)
    faulty(backend, lambda _: Refused("not this one"))
    drainer = Drainer(url, index.embedding_backend, backend, Budget("", "one", requests_per_minute=6))
    ours = Application(url, index, backend, drainer)
    ours.stage({"id": "bad", "text": "A guilty one."})
    assert drainer.drain() == 1
    assert ours.state("bad")["state"] == "failed"


def test_an_outage_counts_no_attempt_where_the_worker_ends_meanwhile(application: Application) -> None:
    """Nothing more is sent then, so what is to blame stays open."""

    def end(_: list[str]) -> Exception:
        application.drainer._stopping.set()
        return DOWN

    application.stage({"id": "a", "text": "Words."})
    faulty(application.backend, end, words=True)
    application.drainer.drain()
    assert len(application.backend.requests) == 1
    assert application.rows("SELECT attempts, token FROM vector_index.pending_1") == [(0, None)]


def test_the_lease_lasts_while_the_provider_is_asked_what_is_to_blame(
    application: Application,
) -> None:
    """The request has hung as long as it may, and so may the word."""
    leases: list[Any] = []

    def hang(texts: list[str]) -> Exception:
        if texts == [PROBE]:
            leases.extend(application.rows("SELECT visible_at > now() FROM vector_index.pending_1"))
        else:  # the lease is over, and nobody has come yet
            application.rows("UPDATE vector_index.pending_1 SET visible_at = now() RETURNING 1")
        return DOWN

    application.stage({"id": "a", "text": "Words."})
    faulty(application.backend, hang, words=True)
    application.drainer.drain()
    assert leases == [(True,)]


def test_one_word_answers_all_whose_requests_failed_at_once(backend: HashBackend) -> None:
    """Of eight slots in an outage one asks; the others take its answer, whatever that was."""
    for failure, asked in ((None, 1), (DOWN, 1)):
        words: list[int] = []
        all_failed = threading.Barrier(8)

        def answer(_: list[str], failure: Any = failure, words: list[int] = words) -> Any:
            words.append(1)
            time.sleep(0.05)
            return failure

        asking = HashBackend()
        faulty(asking, answer, words=True)
        known = Known("default", asking, Budget("", "default"))
        told: list[Any] = []

        def fail(known: Known = known, told: list[Any] = told, met: Any = all_failed) -> None:
            met.wait()
            failed_at = time.monotonic()
            met.wait()
            told.append(known.ask_after(failed_at, patience_seconds=60.0))

        threads = [threading.Thread(target=fail) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == [failure] * 8
        assert len(words) == asked


def test_a_word_that_was_taken_before_a_request_failed_says_nothing_of_it(backend: HashBackend) -> None:
    known = Known("default", backend, Budget("", "default"))
    assert known.ask() is None
    faulty(backend, lambda _: DOWN, words=True)
    assert known.ask_after(time.monotonic(), patience_seconds=1.0) is DOWN


def test_an_outage_of_months_is_still_asked_about() -> None:
    assert 0.01 <= backoff_seconds(10**6, 0.02) <= 0.03


def test_a_pause_that_a_503_asks_for_holds_for_all_processes(broker_url: str) -> None:
    ours, other = (Budget(broker_url, "embedding:one") for _ in range(2))
    backend = HashBackend()
    faulty(backend, lambda _: ProviderUnavailable("busy", retry_after_seconds=200), words=True)
    assert Known("default", backend, ours).ask() is not None
    assert 100 < other.take(1) <= 200


def test_nothing_is_sent_under_a_lease_that_is_over(
    url: str, index: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The length of a vector was not known, and asking for it hung: somebody else may have the contents by now."""
    late_by = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late_by[0])
    monkeypatch.setattr("worker.indexing.draining.sending.time", clock)

    class Slow(HashBackend):
        @property
        def dimensions(self) -> int:  # type: ignore[override]
            late_by[0] = LEASE_MARGIN_SECONDS + 1 if late_by[0] < 0 else 0.0
            return 16

        @dimensions.setter
        def dimensions(self, _: int) -> None:
            pass

    backend = Slow()
    drainer = Drainer(url, index.embedding_backend, backend)
    ours = Application(url, index, backend, drainer)
    task_id = ours.stage({"id": "a", "text": "Words."})
    late_by[0] = -1.0
    claim = drainer._claim()
    assert claim is not None
    drainer._settle(claim)
    assert backend.requests == []
    assert ours.rows("SELECT attempts, token FROM vector_index.pending_1") == [(0, None)]
    drainer.drain()
    assert (ours.result(task_id) or {})["indexed"] == 1
    assert backend.requests == [["Words."]]
