"""Outages: documents do not fail because a provider is down, or refuses everything."""

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
from worker.indexing.draining.backoff import backoff_seconds
from worker.indexing.draining.drainer import Drainer
from worker.indexing.draining.outcomes import MAX_ATTEMPTS
from worker.indexing.draining.provider import Provider as Known
from worker.indexing.draining.settlement import LEASE_MARGIN_SECONDS
from worker.recipes import PROBE
from worker.store import builds, connection, queue, status

DOWN = ProviderUnavailable("it is away")
ATTEMPTS = "SELECT max(attempts) FROM vector_index.pending_1"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six attempts take 62 ms instead of a minute."""
    monkeypatch.setattr("worker.indexing.draining.backoff.BACKOFF_SECONDS", 0.002)
    monkeypatch.setattr("worker.indexing.draining.backoff.PAUSE_SECONDS", 0.02)
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
def test_an_outage_of_any_length_fails_no_document_and_counts_no_attempt(
    url: str, index: IndexSettings, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The outage lasts much longer than six attempts. Eight slots send one request each, then only probes."""
    with Provider(dimensions=32) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        ours = through_http(url, index)
        drainer = ours.drainer
        drainer.start()
        before = ours.stage({"id": "before", "text": "Harmless words."})
        eventually(lambda: ours.result(before))
        provider.reset()
        provider.inject(fault, times=None)
        task_id = ours.stage(*documents(100))
        eventually(lambda: provider.stats().requests > 30)
        eventually(lambda: ours.rows(ATTEMPTS) == [(0,)])  # once the requests in flight are given back
        inputs = [request.body["input"] for request in provider.requests]
        assert ours.result(task_id) is None
        # each slot sent one request; all others are probes
        assert sum(texts != [PROBE] for texts in inputs) <= index.embedding_backend.concurrency
        with connection.checkout(url) as conn:
            assert status.index_status(conn, builds.live(conn, "default"))["last_error"]
        provider.reset()
        eventually(lambda: ours.result(task_id))
        assert drainer.stop(60)
        assert (ours.result(task_id) or {})["indexed"] == 100
        assert provider.stats().repeated == provider.times_embedded(PROBE) - 1


def test_a_claim_from_just_before_an_outage_is_given_back_unsent(
    url: str, index: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent alone, it would count as the input that took the provider down."""
    with Provider(dimensions=32) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        ours = through_http(url, index)
        drainer = ours.drainer
        task_id = ours.stage(*documents(1))
        claim = queue.claim

        def claim_and_go_away(*arguments: Any, **options: Any) -> Any:
            claimed = claim(*arguments, **options)
            provider.inject("cut", times=None)
            assert drainer.provider.probe()
            provider.reset()
            return claimed

        with monkeypatch.context() as patch:
            patch.setattr(queue, "claim", claim_and_go_away)
            assert drainer.step()
        assert provider.stats().requests == 0
        assert ours.rows(ATTEMPTS) == [(0,)]
        eventually(lambda: [drainer.drain(), ours.result(task_id)][1])
        assert (ours.result(task_id) or {})["indexed"] == 1


def test_a_provider_that_refuses_connections_fails_no_document(
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
def test_a_provider_that_refuses_even_one_word_fails_no_document(
    application: Application,
    refusal: VectorIndexError,
) -> None:
    """The settings or the provider are to blame. Inputs are not split either."""
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
    assert f"{refusal}, even for the one word 'dimensions': fix MODEL_ID" in told
    refuses[0] = False
    eventually(lambda: [application.drainer.drain(), application.result(task_id)][1])
    assert (application.result(task_id) or {})["indexed"] == 4
    assert application.rows("SELECT rev, ordinal, text FROM vector_index.chunks_1 ORDER BY 1, 2") == chunks


@pytest.mark.parametrize("failure", [DOWN, Refused("not this one")])
def test_an_input_that_fails_while_the_provider_is_up_fails_alone(
    application: Application,
    failure: VectorIndexError,
) -> None:
    """A poison message that the provider answers with 500, or refuses, long after the others are embedded."""
    faulty(application.backend, lambda texts: failure if any("guilty" in t for t in texts) else None)
    task_id = application.stage(*documents(7), {"id": "bad", "text": "A guilty one."})
    eventually(lambda: [application.drainer.drain(), application.result(task_id)][1])
    result = application.result(task_id) or {}
    assert result["indexed"] == 7
    assert result["failed"] == [{"id": "bad", "error": str(failure)}]


def test_an_input_that_crashes_the_provider_fails_alone(
    url: str, index: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it fails all requests in flight, and the next probe."""
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
        # its 64 neighbours are halved at most six times
        assert provider.stats().faults <= MAX_ATTEMPTS + 8


def test_slow_start_after_an_outage_doubles_single_requests(
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


def test_a_poison_message_fails_even_under_the_smallest_budget(
    url: str, index: IndexSettings, backend: HashBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe after it waits for the budget; otherwise the input would be sent again for ever."""
    monkeypatch.setattr("worker.backends.budgets.WINDOW_SECONDS", 6.0)
    monkeypatch.setattr("worker.backends.budgets.MAX_WAIT_SECONDS", 0.1)
    faulty(backend, lambda _: Refused("not this one"))
    drainer = Drainer(url, index.embedding_backend, backend, Budget("", "one", requests_per_minute=6))
    ours = Application(url, index, backend, drainer)
    ours.stage({"id": "bad", "text": "A guilty one."})
    assert drainer.drain() == 1
    assert ours.state("bad")["state"] == "failed"


def test_a_request_that_fails_during_shutdown_is_no_attempt(application: Application) -> None:
    """A stopping process sends no probe, so it cannot tell whether the input is to blame."""

    def end(_: list[str]) -> Exception:
        application.drainer.stop(0.0)
        return DOWN

    application.stage({"id": "a", "text": "Words."})
    faulty(application.backend, end, words=True)
    application.drainer.drain()
    assert len(application.backend.requests) == 1
    assert application.rows("SELECT attempts, token FROM vector_index.pending_1") == [(0, None)]


def test_the_lease_is_renewed_before_the_probe_after_a_failed_request(
    application: Application,
) -> None:
    """The request may hang until its timeout, and so may the probe."""
    leases: list[Any] = []

    def hang(texts: list[str]) -> Exception:
        if texts == [PROBE]:
            leases.extend(application.rows("SELECT visible_at > now() FROM vector_index.pending_1"))
        else:  # the lease ends, and nobody has claimed the input yet
            application.rows("UPDATE vector_index.pending_1 SET visible_at = now() RETURNING 1")
        return DOWN

    application.stage({"id": "a", "text": "Words."})
    faulty(application.backend, hang, words=True)
    application.drainer.drain()
    assert leases == [(True,)]


def test_one_probe_serves_all_requests_that_failed_together(index: IndexSettings) -> None:
    """Of eight slots in an outage one probes the provider; the others use its result."""
    for failure, asked in ((None, 1), (DOWN, 1)):
        words: list[int] = []
        all_failed = threading.Barrier(8)

        def answer(_: list[str], failure: Any = failure, words: list[int] = words) -> Any:
            words.append(1)
            time.sleep(0.05)
            return failure

        asking = HashBackend()
        faulty(asking, answer, words=True)
        known = Known(index.embedding_backend, asking, Budget("", "default"))
        told: list[Any] = []

        def fail(known: Known = known, told: list[Any] = told, met: Any = all_failed) -> None:
            met.wait()
            failed_at = time.monotonic()
            met.wait()
            told.append(known.probe_after(failed_at, max_wait_seconds=60.0))

        threads = [threading.Thread(target=fail) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == [failure] * 8
        assert len(words) == asked


def test_a_probe_from_before_a_failure_does_not_count(index: IndexSettings, backend: HashBackend) -> None:
    known = Known(index.embedding_backend, backend, Budget("", "default"))
    assert known.probe() is None
    faulty(backend, lambda _: DOWN, words=True)
    assert known.probe_after(time.monotonic(), max_wait_seconds=1.0) is DOWN


def test_the_backoff_stays_bounded_after_a_million_failures() -> None:
    assert 0.01 <= backoff_seconds(10**6, 0.02) <= 0.03


def test_retry_after_of_a_503_pauses_all_processes(index: IndexSettings, broker_url: str) -> None:
    ours, other = (Budget(broker_url, "embedding:one") for _ in range(2))
    backend = HashBackend()
    faulty(backend, lambda _: ProviderUnavailable("busy", retry_after_seconds=200), words=True)
    assert Known(index.embedding_backend, backend, ours).probe() is not None
    assert 100 < other.take(1) <= 200


def test_no_request_begins_after_its_lease_ended(
    url: str, index: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for the unknown length of the vectors took longer than the lease: another worker may hold the inputs."""
    late_by, slow = [0.0], threading.Event()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late_by[0])
    monkeypatch.setattr("worker.indexing.draining.sending.time", clock)

    class Slow(HashBackend):
        @property
        def dimensions(self) -> int:  # type: ignore[override]
            late_by[0] = LEASE_MARGIN_SECONDS + 1 if slow.is_set() else 0.0
            return 16

        @dimensions.setter
        def dimensions(self, _: int) -> None:
            pass

    backend = Slow()
    drainer = Drainer(url, index.embedding_backend, backend)
    ours = Application(url, index, backend, drainer)
    task_id = ours.stage({"id": "a", "text": "Words."})
    slow.set()
    assert drainer.step()
    slow.clear()
    assert backend.requests == []
    assert ours.rows("SELECT attempts, token FROM vector_index.pending_1") == [(0, None)]
    drainer.drain()
    assert (ours.result(task_id) or {})["indexed"] == 1
    assert backend.requests == [["Words."]]
