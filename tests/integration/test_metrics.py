"""What Prometheus is told: counts of what happened, and figures of services that may be away."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery, signals
from prometheus_client import CollectorRegistry

from tests.fixtures.application import Application, HashBackend, during_request, faulty
from tests.fixtures.echo import Echo
from tests.fixtures.proxy import Proxy
from tests.fixtures.rebuilding import ChangingApplication
from tests.fixtures.system import eventually
from worker.backends.budgets import Budget
from worker.celery.metrics_endpoint import count_task, start_timer
from worker.celery.queue_lengths import queue_lengths
from worker.celery.task import BaseTask
from worker.chat.answering import ask
from worker.chat.questions import ChatQuestion
from worker.chat.sending import ChatModel
from worker.errors import InvalidQuery, ProviderUnavailable, Refused, SettingsError, VectorIndexError
from worker.indexing.draining.drainer import Drainer
from worker.observability import events, metrics, scraping
from worker.search.queries import SearchQuery, SimilarQuery
from worker.search.reranking import Reranker
from worker.search.retrieval import retrieve
from worker.search.similar import find_similar

QUEUES = ("vector_index", "vector_index.embed")
LEASE_OVER = """UPDATE vector_index.pending_1 SET attempts = 1, token = gen_random_uuid(),
visible_at = clock_timestamp() - interval '1 second' RETURNING 1"""

Value = Callable[..., float | None]


@pytest.fixture
def value(monkeypatch: pytest.MonkeyPatch) -> Value:
    """Count from now on; the value of a sample: None where there is none, and nobody would count it."""
    monkeypatch.setattr(metrics, "_families", None)
    registry = metrics.start()
    return lambda name, **labels: registry.get_sample_value(f"vector_index_{name}", labels)


def test_nobody_counts_and_the_client_is_not_imported_until_it_is_asked_for() -> None:
    code = (
        "import sys, worker.celery.application, worker.cli.worker, worker.cli.up\n"
        "import tasks.chat, tasks.indexing, tasks.retrieval, tasks.maintenance, tasks.status\n"
        "from worker.observability import events\n"
        "with events.ProviderRequest('embedding:default', 'probe'), events.search('default', 'text'): pass\n"
        "events.staged('default', {'1': None}, ['1']); events.task('tasks.search', 'SUCCESS', 0.1)\n"
        "sys.exit('prometheus_client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_scrape_while_a_process_ends_and_removes_its_files_fails_nobody(tmp_path: Path) -> None:
    code = (
        "import os, sys; from worker.observability import events, metrics\n"
        "folder = os.environ['PROMETHEUS_MULTIPROC_DIR'] = sys.argv[1]\n"
        "registry = metrics.start(folder); events.staged('default', {'1': None}, ['1'])\n"
        "os.symlink('gone', folder + '/counter_1.db')  # is listed, and cannot be read\n"
        "from prometheus_client import generate_latest; generate_latest(registry)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60).returncode == 0


def test_a_document_is_counted_on_its_way(application: Application, value: Value) -> None:
    application.put(
        {"id": "a", "text": "Cats chase mice."}, {"id": "b", "text": "Ships.\n\n" + "At sea. " * 20}
    )
    backend = application.backend
    chunks = sum(map(len, backend.requests))
    tokens = sum(backend.count_tokens(text) for request in backend.requests for text in request)
    assert value("documents_staged_total", index="default") == 2
    assert value("chunks_embedded_total", index="default") == chunks > 2
    assert value("documents_published_total", index="default") == 2
    request = {"backend": "default", "purpose": "documents"}
    assert value("requests_total", **request, outcome="ok") == 1
    assert value("request_inputs_total", **request) == chunks
    assert value("request_tokens_total", **request) == tokens
    assert value("request_seconds_count", **request) == 1
    fill = max(tokens / backend.batch_token_limit, chunks / backend.batch_size)
    assert value("request_fill_ratio_sum", backend="default") == pytest.approx(fill)
    assert value("documents_failed_total", index="default", reason="input") is None
    application.put({"id": "a", "text": "Cats chase mice."})
    assert value("documents_staged_total", index="default") == 3
    assert value("documents_published_total", index="default") == 2


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (ProviderUnavailable("the server had an error"), "unavailable", "unavailable"),
        (
            ProviderUnavailable("slower", retry_after_seconds=7, rate_limited=True),
            "rate_limited",
            "rate_limited",
        ),
        (SettingsError("a wrong key"), "settings", "unavailable"),  # the provider takes the word of a probe
    ],
)
def test_what_is_sent_again_is_counted_by_its_class(
    application: Application,
    value: Value,
    error: VectorIndexError,
    outcome: str,
    reason: str,
) -> None:
    application.stage({"id": "a", "text": "Cats chase mice."})
    faulty(application.backend, lambda texts: error)
    assert application.drainer.step()
    assert value("requests_total", backend="default", purpose="documents", outcome=outcome) == 1
    assert value("chunks_retried_total", index="default", reason=reason) == 1
    assert value("pause_seconds_total", backend="default") == (7 if outcome == "rate_limited" else None)
    assert value("chunks_embedded_total", index="default") is None


def test_documents_that_fail_are_counted_by_their_reason(application: Application, value: Value) -> None:
    faulty(application.backend, lambda texts: Refused("not this") if "poison" in " ".join(texts) else None)
    application.put(*[{"id": n, "text": "The same poison."} for n in "ab"], {"id": "c", "text": "Fine."})
    assert value("documents_failed_total", index="default", reason="input") == 2
    assert value("documents_published_total", index="default") == 1


def test_a_lease_that_ended_is_counted_and_a_claim_that_was_given_back_is_not(
    application: Application,
    value: Value,
) -> None:
    application.stage({"id": "a", "text": "Cats chase mice."})
    other = Drainer(application.url, application.index.embedding_backend, HashBackend())

    def end() -> None:
        application.drainer.release_in_flight()
        assert other.step()

    during_request(application.backend, end)
    assert application.drainer.step()
    assert value("leases_expired_total", index="default") == 0
    application.stage({"id": "b", "text": "Ships cross the sea."})
    application.rows(LEASE_OVER)
    application.drainer.drain()
    assert value("leases_expired_total", index="default") == 1


def test_searches_are_timed_by_mode_and_outcome(application: Application, value: Value) -> None:
    application.put({"id": "a", "text": "Cats chase mice."}, {"id": "b", "text": "Ships cross the sea."})
    application.search("cats", mode="text")
    application.search("cats")
    find_similar(application.target, SimilarQuery(id="a"))
    with pytest.raises(InvalidQuery):
        application.passages("a", filter={"$no": 1})
    seconds = {
        (mode, outcome): value("search_seconds_count", index="default", mode=mode, outcome=outcome)
        for mode in ("text", "hybrid", "similar")
        for outcome in ("ok", "input")
    }
    assert {key: count for key, count in seconds.items() if count} == {
        ("text", "ok"): 1, ("hybrid", "ok"): 1, ("similar", "ok"): 1, ("hybrid", "input"): 1,
    }  # fmt: skip
    assert value("requests_total", backend="hash", purpose="search", outcome="ok") == 1


def test_a_failure_of_a_reranker_is_counted_with_its_reason(application: Application, value: Value) -> None:
    class Failing:
        model_id, token_limit, batch_size = "failing", 100, 100
        errors = (ProviderUnavailable("away", retry_after_seconds=0.0), Refused("no"))

        def count_tokens(self, text: str) -> int:
            return len(text)

        def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
            self.errors, error = self.errors[1:], next(iter(self.errors), None)
            if error:
                raise error
            return [1.0] * len(texts)

    application.put({"id": "a", "text": "Cats chase mice."})
    reranker = Reranker(backend=Failing(), budget=Budget("", "rerank:mine"), passages=9)
    for _ in range(3):
        retrieve(application.target, SearchQuery(text="cats"), reranker)
    counted = {
        reason: value("rerank_failures_total", backend="rerank:mine", reason=reason)
        for reason in ("unavailable", "input")
    }
    assert counted == {"unavailable": 1, "input": 1}
    assert value("requests_total", backend="rerank:mine", purpose="rerank", outcome="ok") == 1


def test_an_answer_is_counted_with_its_tokens(application: Application, value: Value) -> None:
    application.put({"id": "a", "text": "Cats chase mice."})
    question = ChatQuestion(text="What do cats do?")
    model = ChatModel(backend=Echo(), budget=Budget("", "chat:mine"))
    used = ask(application.target, model, question)["usage"]
    assert value("request_tokens_total", backend="chat:mine", purpose="answer") == used["input_tokens"]
    assert value("answer_tokens_total", backend="chat:mine") == used["output_tokens"] > 0
    assert value("chat_seconds_count", index="default", outcome="ok") == 1
    with pytest.raises(RuntimeError), events.chat("default"):
        raise RuntimeError("a bug")
    assert value("chat_seconds_count", index="default", outcome="bug") == 1


def test_answers_are_counted_by_reason_with_their_groundedness(
    application: Application, value: Value
) -> None:
    application.put({"id": "a", "text": "Cats chase mice."})
    question = ChatQuestion(text="What do cats do?")
    for text in ("Cats chase mice [1].", "Cats chase mice. They fly to distant planets [1, 7].", "[0] No."):
        ask(application.target, ChatModel(backend=Echo(text=text), budget=Budget("", "chat:mine")), question)
    assert value("answers_total", index="default", result="answered") == 2
    assert value("answers_total", index="default", result="declined") == 1
    assert value("citations_removed_total", index="default") == 1
    assert value("answer_groundedness_ratio_count", index="default") == 2
    assert value("answer_groundedness_ratio_sum", index="default") == 1.5


def test_a_run_of_a_task_is_timed_by_one_clock(value: Value) -> None:
    """Monitors take the time of day when it begins, for which this one was taken once: runs took minus 56 years."""
    app = Celery("timed", task_cls=BaseTask, set_as_current=False)

    @app.task(name="pause")  # type: ignore[untyped-decorator]
    def pause() -> None:
        time.sleep(0.05)

    signals.task_prerun.connect(start_timer)
    signals.task_postrun.connect(count_task)
    try:
        pause.apply()
    finally:
        signals.task_prerun.disconnect(start_timer)
        signals.task_postrun.disconnect(count_task)
    assert value("tasks_total", task="pause", state="success") == 1
    seconds = value("task_seconds_sum", task="pause")
    assert seconds is not None
    assert 0.05 <= seconds < 30


def test_arguments_that_a_task_does_not_take_are_a_mistake_of_the_sender() -> None:
    """One sentence with what it takes, and no traceback of a bug."""
    app = Celery("asked", task_cls=BaseTask, set_as_current=False)

    @app.task(name="tasks.find", bind=True, autoretry_for=(OSError,))  # type: ignore[untyped-decorator]
    def find(self: BaseTask, query: str, limit: int = 5) -> str:
        return query * limit

    assert find.apply(kwargs={"query": "x", "limit": 2}).get() == "xx"
    for kwargs, said in (
        ({"query": "x", "top_k": 3}, "tasks.find: got an unexpected keyword argument 'top_k'"),
        ({}, "tasks.find: missing a required argument: 'query'"),
    ):
        with pytest.raises(InvalidQuery, match=f"{said}; it takes query, limit$"):
            find.apply(kwargs=kwargs).get()


def test_what_will_be_counted_begins_at_zero(value: Value) -> None:
    """Else a rate misses the first failure of all."""
    assert value("documents_failed_total", index="default", reason="died") is None
    metrics.initialize_series(["default"], ["embedding:default"], ["chat:default"], ["rerank:default"])
    assert value("documents_failed_total", index="default", reason="died") == 0
    assert value("leases_expired_total", index="default") == 0
    assert value("pauses_total", backend="chat:default") == 0
    assert value("requests_total", backend="chat:default", purpose="answer", outcome="rate_limited") == 0


def test_the_figures_of_the_services_are_those_that_stand_there(
    application: Application,
    broker_url: str,
) -> None:
    application.put({"id": "a", "text": "Cats chase mice."})
    faulty(application.backend, lambda texts: Refused("not this") if "poison" in " ".join(texts) else None)
    application.put({"id": "b", "text": "A poison."})
    application.stage(
        {"id": "c", "text": "Ships cross the sea."}, {"id": "d", "text": "Ships cross the sea."}
    )
    application.rows("UPDATE vector_index.indexes SET paused_at = clock_timestamp() RETURNING 1")
    application.rows("UPDATE vector_index.builds SET swept_published = 3 RETURNING 1")
    application.rows("SELECT vector_index.enqueue_document('default', 'e', 'Later.')")
    with redis.Redis.from_url(broker_url) as client:
        client.lpush("vector_index.embed", "one", "two")
        client.lpush("vector_index.embed\x06\x169", "one of another priority")

    samples = scrape(application.url, broker_url)
    assert samples["documents", "default", "live"] == 1
    assert samples["documents", "default", "failed"] == 1
    assert samples["documents", "default", "pending"] == 2
    assert samples["pending_chunks", "default"] == 1
    assert samples["pending_tokens", "default"] == 4
    assert 0 < samples["oldest_pending_seconds", "default"] < 60
    assert samples["paused", "default"] == 1
    assert samples["sweep_repairs_total", "default", "published"] == 3
    assert samples["outbox_rows", "waiting"] == 1
    assert samples["queue_messages", "vector_index.embed"] == 3
    assert samples["queue_messages", "vector_index"] == 0
    assert samples["up", "postgres"] == samples["up", "broker"] == 1


def test_a_rebuild_has_a_state_a_share_and_the_time_left(application: Application, broker_url: str) -> None:
    shop = ChangingApplication(application)
    shop.put({"id": "a", "text": "Cats chase mice."}, {"id": "b", "text": "Ships cross the sea."})
    names = ("rebuild", "rebuild_done", "rebuild_seconds_left")
    assert not any(name in names for name, *_ in scrape(shop.url, broker_url))
    shop.change(HashBackend(dimensions=24))
    new = shop.begin()
    shop.advance(new, seconds=0.0)
    samples = scrape(shop.url, broker_url)
    assert samples["rebuild", "default", "filling"] == 1
    assert samples["rebuild_done", "default"] == 0.0
    assert ("rebuild_seconds_left", "default") not in samples  # nothing is done yet
    shop.drain()
    samples = scrape(shop.url, broker_url)
    assert samples["rebuild_done", "default"] == 1.0
    assert samples["rebuild_seconds_left", "default"] == 0.0
    shop.finish(new)
    assert not any(name in names for name, *_ in scrape(shop.url, broker_url))


def test_a_database_without_an_index_has_figures_too(url: str, broker_url: str) -> None:
    samples = scrape(url, broker_url)
    assert samples["outbox_rows", "waiting"] == 0
    assert not any(name == "documents" for name, *_ in samples)


def test_a_scrape_neither_fails_nor_hangs_when_a_service_is_away_or_stalls(
    url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scraping, "REUSE_SECONDS", 0.0)
    monkeypatch.setattr(scraping, "STALE_SECONDS", 0.6)
    monkeypatch.setattr(scraping, "WAIT_SECONDS", 0.3)
    with Proxy(port_of(url)) as postgres, Proxy(port_of(broker_url)) as broker:
        state = state_of(
            url.replace(f":{port_of(url)}/", f":{postgres.port}/"),
            broker_url.replace(f":{port_of(broker_url)}/", f":{broker.port}/"),
        )
        assert ups(state) == (1, 1)
        for break_service in (Proxy.cut, Proxy.stall):
            for proxy, ups_then in ((postgres, (0, 1)), (broker, (1, 0))):
                break_service(proxy)
                eventually(lambda expected=ups_then: ups(state) == expected)
                assert ("queue_messages", "vector_index") not in samples_of(state) or proxy is postgres
                proxy.restore()
                eventually(lambda: ups(state) == (1, 1))


def test_scrapes_share_a_reading_and_a_long_one_is_kept_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes up a tenth of the time at most, however often somebody scrapes."""
    now = 1000.0
    monkeypatch.setattr(scraping, "time", SimpleNamespace(monotonic=lambda: now))
    reads: list[float] = []

    def read() -> int:
        nonlocal now
        reads.append(now)
        now += 2.0
        return len(reads)

    reading = scraping.BackgroundReading(read)
    for at in range(100):
        now = max(now, 1000.0 + at)
        assert reading.begin().wait() == len(reads)
    assert [round(at - 1000) for at in reads] == [0, 22, 44, 66, 88]


def test_a_mistake_in_a_reading_takes_no_other_metric_away(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    row = "no such queue"
    state = scraping.ServiceState(url, lambda: {}[row])
    assert ups(state) == (1, 0)
    assert "reading the figures of a service failed" in caplog.text
    assert "KeyError" in caplog.text
    assert "no such queue" not in caplog.text  # words of a bug may be those of a row


def test_a_port_that_is_in_use_is_one_sentence_with_the_mend() -> None:
    registry = CollectorRegistry()
    with (
        Proxy(1) as taken,
        pytest.raises(SettingsError, match=rf"cannot listen on 127.0.0.1:{taken.port} \("),
    ):
        scraping.serve("127.0.0.1", taken.port, registry)
    with pytest.raises(SettingsError, match="change METRICS_PORT or METRICS_ADDRESS"):
        scraping.serve("no.such.address.invalid", random.randint(20_000, 30_000), registry)


def scrape(url: str, broker_url: str) -> dict[tuple[str, ...], float]:
    return samples_of(state_of(url, broker_url))


def state_of(url: str, broker_url: str) -> scraping.ServiceState:
    return scraping.ServiceState(url, lambda: queue_lengths(broker_url, QUEUES))


def samples_of(state: scraping.ServiceState) -> dict[tuple[str, ...], float]:
    """The values of a scrape by name and labels, without the prefix of the names."""
    return {
        (sample.name.removeprefix("vector_index_"), *sample.labels.values()): sample.value
        for metric in state.collect()
        for sample in metric.samples
    }


def ups(state: scraping.ServiceState) -> tuple[float, float]:
    samples = samples_of(state)
    return samples["up", "postgres"], samples["up", "broker"]


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
