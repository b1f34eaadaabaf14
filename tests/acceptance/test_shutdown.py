"""A worker that is asked to end does so within the grace of `up`: nothing is lost, and nothing stays leased."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from tests.fixtures.system import CHAT, EMBED, PATIENCE_SECONDS, PROCESSES, STAGING, System, eventually
from tests.provider import Provider
from worker.celery.shutdown import STOP_SECONDS
from worker.cli.supervision import GRACE_SECONDS
from worker.recipes import PROBE

DOCUMENTS, CONCURRENCY = 20, 4
SETTINGS = f"""
CONFIG = {{
    "MODEL_ID": "3-small",
    "EMBEDDING_OUTPUT_DIMENSIONS": 64,
    "BATCH_SIZE": 1,
    "CONCURRENCY": {CONCURRENCY},
}}
VECTOR_INDEX = {{
    "EMBEDDING_BACKENDS": {{"default": {{"CLASS": "worker.backends.llm.LLMEmbeddingBackend", "CONFIG": CONFIG}}}},
    "CHAT_BACKENDS": {{
        "default": {{"CLASS": "worker.backends.llm.LLMChatBackend", "CONFIG": {{"MODEL_ID": "gpt-4o-mini"}}}}
    }},
}}
"""
LIVE = "SELECT count(*) FROM vector_index.served_1 WHERE live_rev IS NOT NULL"
LEASED = "SELECT count(*) FROM vector_index.pending_1 WHERE visible_at > clock_timestamp()"
ATTEMPTS = "SELECT coalesce(max(attempts), 0) FROM vector_index.pending_1"
PENDING = "SELECT count(*) FROM vector_index.pending_1"


@pytest.fixture
def slow() -> Iterator[Provider]:
    with Provider(dimensions=64) as provider:
        yield provider


@pytest.fixture
def start(start_system: Callable[..., Any], slow: Provider, tmp_path: Path) -> Callable[..., Any]:
    @contextmanager
    def start(processes: dict[str, list[str]]) -> Iterator[System]:
        (tmp_path / "ours.py").write_text(SETTINGS)
        variables = {"OPENAI_API_KEY": "sk-of-the-stand-in", "OPENAI_BASE_URL": slow.url}
        settings = str(tmp_path / "ours.py")
        with start_system(tmp_path, processes, VECTOR_INDEX_SETTINGS=settings, **variables) as system:
            yield system

    return start


def load(system: System, slow: Provider, latency_seconds: float | None = None) -> None:
    """Documents of a request each, and as many requests under way as there are slots; None: they are not answered."""
    # the first document makes the index, for which the provider is asked
    system.call("tasks.index_documents", documents=[{"id": "first", "text": "Cats chase mice."}])
    if latency_seconds is None:
        slow.inject("hang", times=None, but_for=PROBE)
    else:
        slow.latency_seconds = latency_seconds
    documents = [{"id": at, "text": f"The story of number {at}."} for at in range(DOCUMENTS)]
    system.send("tasks.index_documents", documents=documents)
    eventually(lambda: in_flight(system) == CONCURRENCY)


def in_flight(system: System) -> int:
    try:
        return number_of(system, LEASED)
    except psycopg.errors.UndefinedTable:
        return 0


def number_of(system: System, query: Any) -> int:
    with psycopg.connect(system.environment["DATABASE_URL"]) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def repeated(provider: Provider) -> int:
    """Inputs that were embedded again, but for the word that asks for the length of a vector."""
    return provider.stats().repeated - max(0, provider.times_embedded(PROBE) - 1)


def seconds_to_end(process: "subprocess.Popen[bytes]", *signals: signal.Signals) -> float:
    began = time.monotonic()
    for at in signals:
        process.send_signal(at)
        time.sleep(0.3)
    process.wait(PATIENCE_SECONDS)
    return time.monotonic() - began


@pytest.mark.slow
def test_what_returns_within_the_grace_is_saved_and_the_rest_is_free_at_once(
    start: Callable[..., Any], slow: Provider
) -> None:
    """3 s a request: those under way are saved, no other is sent; the next worker repeats none of them."""
    with start(PROCESSES) as system:
        load(system, slow, 3.0)
        embed = system.processes.pop("embed")
        took = seconds_to_end(embed, signal.SIGTERM)
        assert embed.returncode == 0
        assert took < STOP_SECONDS, "nothing was under way any more"
        saved = number_of(system, LIVE) - 1
        assert CONCURRENCY <= saved < DOCUMENTS, "those under way, and what had ended as the signal came"
        assert (number_of(system, PENDING), number_of(system, LEASED)) == (DOCUMENTS - saved, 0)
        assert number_of(system, ATTEMPTS) == 0
        slow.latency_seconds = 0.0
        system.start("embed", PROCESSES["embed"])
        eventually(lambda: number_of(system, LIVE) == 1 + DOCUMENTS)
        assert repeated(slow) == 0
        assert "Traceback" not in system.logs()
        print(f"3 s a request: ended after {took:.1f} s")


@pytest.mark.slow
def test_what_takes_longer_than_the_grace_or_than_patience_is_given_back_uncounted(
    start: Callable[..., Any], slow: Provider
) -> None:
    """A provider answers neither texts nor a question. One signal ends a worker in time, a second at once."""
    with start(PROCESSES) as system:
        load(system, slow)
        system.send("tasks.chat", CHAT, question="What do cats chase?")
        broker = redis.Redis.from_url(system.environment["BROKER_URL"])
        eventually(lambda: broker.zcard("vector_index:unacked_index") and not broker.llen(CHAT))
        ended = [system.processes.pop(name) for name in ("embed", "chat")]
        for process in ended:
            process.send_signal(signal.SIGTERM)
        took = [seconds_to_end(process) for process in ended]
        assert [process.returncode for process in ended] == [0, 0]
        assert sum(took) < GRACE_SECONDS
        assert number_of(system, LIVE) == 1
        assert_given_back(system)
        assert broker.llen(CHAT) == 1
        broker.close()
        print(f"no answer: ended after {sum(took):.1f} s")

        for number in (signal.SIGTERM, signal.SIGINT):
            system.start("embed", PROCESSES["embed"])
            eventually(lambda: in_flight(system) == CONCURRENCY)
            embed = system.processes.pop("embed")
            assert seconds_to_end(embed, number, number) < STOP_SECONDS
            assert embed.returncode == 0
            assert_given_back(system)
        assert "Traceback" not in system.logs()


def assert_given_back(system: System) -> None:
    assert (number_of(system, PENDING), number_of(system, LEASED), number_of(system, ATTEMPTS)) == (
        DOCUMENTS,
        0,
        0,
    )


@pytest.mark.slow
def test_up_ends_in_time_with_requests_under_way(start: Callable[..., Any], slow: Provider) -> None:
    with start({}) as system:
        system.start("up", ["up", "--loglevel", "INFO"])
        system.await_queues(STAGING, EMBED, CHAT)
        load(system, slow)
        up = system.processes.pop("up")
        took = seconds_to_end(up, signal.SIGTERM)
        assert up.returncode == 0
        assert took < GRACE_SECONDS
        assert "grace period over; returning unfinished work to the queue" in system.log("up")
        assert_given_back(system)
        print(f"up, no answer: ended after {took:.1f} s")
