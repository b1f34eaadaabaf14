"""All processes share one rate limit per backend, and a Retry-After pauses all of them."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.fixtures.application import HashBackend, make_index
from tests.fixtures.proxy import Proxy
from tests.fixtures.system import eventually
from tests.provider import Provider
from tests.provider.http import Reply, Request
from worker.backends import budgets
from worker.backends.budgets import MAX_WAIT_SECONDS, Budget
from worker.configuration import IndexSettings
from worker.errors import ProviderUnavailable
from worker.indexing import staging
from worker.indexing.draining.drainer import Drainer
from worker.indexing.draining.provider import PROBE_TOKENS
from worker.indexing.draining.settlement import LEASE_MARGIN_SECONDS
from worker.keyspace import BUDGET
from worker.store import connection
from worker.tokens import counter

REQUESTS, TOKENS = 30, 1_000  # per minute


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(budgets, "time", clock)
    return clock


def worst(sent: Sequence[tuple[float, float]], window_seconds: float) -> float:
    """The largest sum of amounts in any window of this length, from pairs (time, amount)."""
    sent = sorted(sent)
    total, most, first = 0.0, 0.0, 0
    for at, amount in sent:
        total += amount
        while sent[first][0] <= at - window_seconds:
            total -= sent[first][1]
            first += 1
        most = max(most, total)
    return most


def limited(url: str = "", name: str = "embedding:test") -> Budget:
    return Budget(url, name, requests_per_minute=REQUESTS, tokens_per_minute=TOKENS)


@pytest.mark.parametrize("seed", range(20))
def test_no_minute_exceeds_the_limit_for_any_mix_of_requests_refunds_and_pauses(
    seed: int, clock: Clock
) -> None:
    """Small and oversize requests with short and long waits, some partly refunded, with a pause now and then."""
    chance = random.Random(seed)
    budget = limited()
    sent: list[tuple[float, int]] = []
    for _ in range(2_000):
        clock.now += chance.expovariate(2.0)
        tokens = chance.choice([1, 10, 40, 50, 100, 400])
        patience = chance.choice([0.0, 0.0, MAX_WAIT_SECONDS, 60.0])
        if chance.random() < 0.005:
            budget.pause(chance.uniform(0, 20))
        wait = budget.take(tokens, max_wait_seconds=patience)
        if wait <= patience:
            used, held = tokens, 0.0
            if patience == 0 and chance.random() < 0.3:
                used, held = chance.randint(0, tokens), chance.uniform(0, 0.5)
                clock.now += held
                budget.refund(tokens=tokens - used, requests=int(not used), held_seconds=held)
            if used:
                sent.append((clock.now + wait, used))
    assert worst([(at, 1) for at, _ in sent], 60) <= REQUESTS
    assert worst(sent, 60) <= TOKENS
    assert sent


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 59, 600])
def test_limits_of_every_size_are_used_and_kept(limit: int, clock: Clock) -> None:
    budget = Budget("", "embedding:test", requests_per_minute=limit)
    sent = []
    began = clock.now
    while clock.now < began + 600:
        wait = budget.take(5)
        if wait:
            clock.now += wait
        else:
            sent.append((clock.now, 1))
    assert worst(sent, 60) <= limit
    assert len(sent) >= 0.85 * 10 * limit


@pytest.mark.parametrize("limit", [1, 2, 34, 100, 1_000, 10**9])
@pytest.mark.parametrize("unit", ["requests_per_minute", "tokens_per_minute"])
def test_the_provider_check_fits_into_every_budget_within_the_lease(
    unit: str, limit: int, clock: Clock
) -> None:
    """Otherwise a provider that was not even asked would count as down."""
    budget = Budget("", "embedding:test", **{unit: limit})
    clock.now += budget.take(10**9, max_wait_seconds=1_000)  # the largest, and it fails at once
    with budget.reserve(PROBE_TOKENS, max_wait_seconds=LEASE_MARGIN_SECONDS):
        pass


def test_redis_and_a_single_process_decide_alike(broker_url: str, clock: Clock) -> None:
    """The rule exists in Lua and in Python, and both return the same waits on the same clock."""
    shared, alone = limited(broker_url), limited()
    text = shared._script.script.replace(
        "redis.call('TIME')", "{math.floor(ARGV[7] / 1000000), ARGV[7] % 1000000}"
    )
    assert text != shared._script.script
    assert shared._client
    on_clock = shared._client.register_script(text)
    shared._script = lambda keys, args: on_clock(keys=keys, args=[*args, int(clock.now * 1e6)])  # type: ignore[assignment]
    chance = random.Random(7)
    for _ in range(500):
        clock.now += chance.expovariate(1.0)
        tokens, patience = chance.choice([1, 30, 50, 200]), chance.choice([0.0, 4.0])
        if chance.random() < 0.02:
            assert shared.pause(3.0) == alone.pause(3.0)
        waits = [budget.take(tokens, max_wait_seconds=patience) for budget in (shared, alone)]
        assert waits[0] == pytest.approx(waits[1], abs=1e-4)
        if waits[0] <= patience:
            for budget in (shared, alone):
                budget.refund(tokens=tokens // 2, held_seconds=0.001)


def test_many_workers_share_one_budget_and_use_most_of_it(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four workers for three windows of a second; a fifth of a window is reserved for threads that run late."""
    monkeypatch.setattr(budgets, "WINDOW_SECONDS", 1.2)
    limit, sent = 100, list[tuple[float, float]]()
    until = time.monotonic() + 3

    def work(budget: Budget) -> None:
        while time.monotonic() < until:
            if wait := budget.take(1):
                time.sleep(wait)
            else:
                sent.append((time.monotonic(), 1.0))

    workers = [
        threading.Thread(target=work, args=[Budget(broker_url, "embedding:one", requests_per_minute=limit)])
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert worst(sent, 1.0) <= limit
    assert len(sent) >= 0.5 * 3 * (limit * 0.9 / 1.2)


def test_a_pause_applies_to_every_process_and_only_to_its_backend(broker_url: str) -> None:
    told, other = Budget(broker_url, "embedding:one"), Budget(broker_url, "embedding:one")
    stranger = Budget(broker_url, "embedding:two")
    assert other.take(10) == 0
    assert told.pause(250) == 250
    assert 150 < other.take(10) <= 250
    assert stranger.take(10) == 0
    told.pause(50)  # a later pause does not shorten it
    assert other.take(10) > 100


def test_a_pause_is_at_most_the_maximum() -> None:
    assert Budget("", "embedding:one").pause(float("inf")) == budgets.MAX_PAUSE_SECONDS


def test_a_request_that_a_caller_waits_for_precedes_the_drainers(clock: Clock) -> None:
    """With an exhausted budget, a drainer must wait longer than a caller that asks after it."""
    budget = Budget("", "embedding:one", requests_per_minute=100)
    while not budget.take(1):
        pass
    drainer = budget.take(1)
    began = clock.now
    with budget.reserve(1):
        waited = clock.now - began
    assert waited == pytest.approx(drainer)
    assert budget.take(1) > drainer / 2  # the place is reserved


def test_a_long_wait_is_reported_and_a_retry_after_starts_a_pause(broker_url: str) -> None:
    budget, other = (Budget(broker_url, "chat:default") for _ in range(2))
    with (
        pytest.raises(ProviderUnavailable),
        budget.reserve(1),
    ):
        raise ProviderUnavailable("too many requests", retry_after_seconds=300, rate_limited=True)
    with (
        pytest.raises(
            ProviderUnavailable,
            match=r"the chat:default backend may send again in \d\d\d s \(rate limit or Retry-After\): ask again then",
        ) as told,
        other.reserve(1),
    ):
        pytest.fail("it was sent")
    assert told.value.rate_limited
    assert told.value.retry_after_seconds == pytest.approx(250, abs=50)


def test_without_redis_each_process_keeps_the_limit_and_returns_to_the_shared_one(
    broker_url: str, clock: Clock
) -> None:
    """Requests under the shared budget count, so the change allows no new burst."""
    before, _, rest = broker_url.rpartition(":")
    port, _, database = rest.partition("/")
    with Proxy(int(port)) as proxy:
        budget = limited(f"{before}:{proxy.port}/{database}")
        sent = [(clock.now, 10.0) for _ in range(3) if not budget.take(10)]
        assert sent
        proxy.cut()
        for _ in range(600):
            clock.now += 0.1
            if not budget.take(10):
                sent.append((clock.now, 10.0))
        assert worst([(at, 1) for at, _ in sent], 60) <= REQUESTS
        assert len(sent) > REQUESTS / 2
        proxy.restore()
        limited(broker_url).pause(60)
        clock.now += budgets.REDIS_RETRY_SECONDS
        assert budget.take(10) > 50


def stage(url: str, index: IndexSettings, backend: HashBackend, *texts: str) -> None:
    documents = [{"id": at, "text": text} for at, text in enumerate(texts)]
    staging.stage(make_index(url, index, backend), "task", documents, max_bytes=1_000_000)


def queued(url: str) -> list[tuple[int, bool]]:
    """The attempts of each pending content, and whether it is leased."""
    with connection.checkout(url) as conn:
        query = "SELECT attempts, visible_at > clock_timestamp() FROM vector_index.pending_1"
        return [(attempts, held) for attempts, held in conn.execute(query)]


def test_a_drainer_waiting_for_the_budget_holds_no_lease_counts_no_attempt_and_stops_at_once(
    url: str, index: IndexSettings, backend: HashBackend
) -> None:
    budget = Budget("", "embedding:one", requests_per_minute=1)
    stage(url, index, backend, "Some words.")
    assert not budget.take(1)
    drainer = Drainer(url, index.embedding_backend, backend, budget)
    drainer.start()
    drainer.provider.failure = None  # as if it had answered a probe
    time.sleep(0.5)
    assert not backend.requests
    assert queued(url) == [(0, False)]
    assert drainer.stop(30)  # the next request would come after a minute


def test_a_request_takes_its_share_of_tokens_and_refunds_the_unused_ones(
    url: str, index: IndexSettings, backend: HashBackend
) -> None:
    """With 1,000 tokens per minute, a request takes 30, and most of a refund is available again."""
    budget = Budget("", "embedding:one", tokens_per_minute=1_000)
    stage(url, index, backend, *(f"{at} " + "word " * 11 for at in range(6)))
    Drainer(url, index.embedding_backend, backend, budget).drain()
    assert [len(request) for request in backend.requests] == [2, 2, 2]
    assert budget.take(30) < 61 * (6 * 12 + 30 - 60) / 941 + 0.5


def test_an_input_above_the_share_is_sent_after_its_tokens_were_saved_up(
    url: str, index: IndexSettings, backend: HashBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "WINDOW_SECONDS", 2.0)
    budget = Budget("", "embedding:one", tokens_per_minute=60)  # 1 per request, 3 in a burst
    stage(url, index, backend, "word " * 16)
    began = time.monotonic()
    assert Drainer(url, index.embedding_backend, backend, budget).drain() == 1
    assert time.monotonic() - began > 2.0 * (16 - 3) / 58 - 0.05


def test_a_retry_after_pauses_the_drainers_of_all_processes(
    url: str, broker_url: str, index: IndexSettings, backend: HashBackend
) -> None:
    stage(url, index, backend, "Some words.")
    limited, other = (Budget(broker_url, "embedding:one") for _ in range(2))
    drainer = Drainer(url, index.embedding_backend, backend, limited)

    def answer(texts: object) -> None:
        drainer.stop(0.0)
        raise ProviderUnavailable("too many", retry_after_seconds=200, rate_limited=True)

    backend.embed = answer  # type: ignore[method-assign,assignment]
    drainer.drain()
    assert 100 < other.take(1) <= 200
    assert queued(url) == [(0, True)]


class Timed(Provider):
    """Records the time and the tokens of each request."""

    def __init__(self, **options: Any) -> None:
        self.arrived: list[tuple[float, list[str]]] = []
        super().__init__(**options)

    def handle(self, request: Request) -> Reply:
        if request.path == "/embeddings":
            self.arrived.append((time.monotonic(), request.body["input"]))
        return super().handle(request)


LIMITED = """
CONFIG = {
    "MODEL_ID": "3-small",
    "EMBEDDING_OUTPUT_DIMENSIONS": 64,
    "BATCH_SIZE": 1,
    "CONCURRENCY": 4,
    "REQUESTS_PER_MINUTE": 600,
    "TOKENS_PER_MINUTE": 100_000,
}
VECTOR_INDEX = {
    "EMBEDDING_BACKENDS": {"default": {"CLASS": "worker.backends.llm.LLMEmbeddingBackend", "CONFIG": CONFIG}}
}
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_four_processes_keep_both_limits_and_use_most_of_them(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    """With one text of 165 tokens per request, both limits are equally near. No window of 60 s exceeds either."""
    (tmp_path / "ours.py").write_text(LIMITED)
    count = counter("cl100k_base")
    texts = [f"{at} " + "word " * 162 for at in range(1_000)]
    assert max(map(count, texts)) <= 166
    with Timed(dimensions=64, latency_seconds=0.2) as provider:
        variables = {"OPENAI_API_KEY": "sk-of-the-stand-in", "OPENAI_BASE_URL": provider.url}
        settings = {"VECTOR_INDEX_SETTINGS": str(tmp_path / "ours.py")}
        embed = {f"embed{at}": ["worker", "--queues", "embed", "--name", f"embed{at}"] for at in range(4)}
        processes = {"staging": ["worker", "--queues", "staging"], "chat": ["worker", "--queues", "chat"]}
        with start_system(tmp_path, processes | embed, **variables, **settings) as system:
            documents = [{"id": at, "text": text} for at, text in enumerate(texts)]
            system.send("tasks.index_documents", documents=documents)
            eventually(lambda: len(provider.arrived) > 20)
            time.sleep(80)
            arrived = list(provider.arrived)
    requests = [(at, 1.0) for at, _ in arrived]
    tokens = [(at, float(sum(map(count, texts)))) for at, texts in arrived]
    began, ended = arrived[20][0], arrived[-1][0]
    minutes = (ended - began) / 60
    a_minute = [sum(amount for _, amount in sent[20:]) / minutes for sent in (requests, tokens)]
    print(
        f"{len(arrived)} requests in {ended - arrived[0][0]:.0f} s; worst 60 s: {worst(requests, 60):.0f} requests, "
        f"{worst(tokens, 60):,.0f} tokens; a minute: {a_minute[0]:.0f} requests, {a_minute[1]:,.0f} tokens"
    )
    assert worst(requests, 60) <= 600
    assert worst(tokens, 60) <= 100_000
    assert a_minute[1] >= 70_000  # 90,000 and more on an idle machine


def test_a_budget_leaves_nothing_behind_in_redis(broker_url: str) -> None:
    budget = limited(broker_url)
    budget.take(40)
    budget.refund(tokens=40, requests=1, held_seconds=0.0)
    with redis.Redis.from_url(broker_url) as client:
        assert 0 < client.pttl(BUDGET + budget.name) <= 120_000
        assert client.keys("*") == [(BUDGET + budget.name).encode()]


def test_a_limit_below_one_question_waits_a_minute_and_not_hours(clock: Clock) -> None:
    """TOKENS_PER_MINUTE may be wrong by a factor of a thousand. A question then counts as a whole minute."""
    budget = Budget("", "chat:test", tokens_per_minute=10, burst=0.5)
    with budget.reserve(8_000):
        pass
    assert 0 < budget.take(1) < 100


def test_a_refund_never_exceeds_the_amount_taken(clock: Clock) -> None:
    """An input above the limit takes one minute of tokens, and its refund leaves those of other requests."""
    budget = Budget("", "embedding:test", tokens_per_minute=10)
    budget.take(500, max_wait_seconds=600.0)
    budget.refund(tokens=500, held_seconds=0.0)
    assert budget.take(1) > 0
