"""`live` and `ready` for workers that are idle, busy, disconnected, stopped, hung and killed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.fixtures.proxy import Proxy
from tests.fixtures.system import EMBED, PATIENCE_SECONDS, STAGING, System, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

# the workers send a heartbeat each second instead of every 10 s
SILENT_SECONDS = 14
# TEST_BUSY_SECONDS=60 also tests a broker that hangs, which blocks the loop of a worker for up to 30 s
BUSY_SECONDS = int(os.environ.get("TEST_BUSY_SECONDS", "16"))
LONG = BUSY_SECONDS >= 60

BACKEND = """
import time
import numpy as np
import worker.celery.heartbeat
from kombu.asynchronous import get_event_loop

worker.celery.heartbeat.HEARTBEAT_SECONDS = 1

class Odd:
    model_id, tokenizer, token_limit, batch_token_limit, batch_size = "odd", "words", 100, 1000, 10
    chunk_tokens, dimensions, document_prefix, query_prefix = 50, 8, "", ""

    def __init__(self, **_):
        pass

    def count_tokens(self, text):
        return len(text.split()) + text.count("\\n")

    def embed(self, texts):
        for text in texts:
            if text.startswith("hang"):
                get_event_loop().call_soon(time.sleep, 3600)
            busy_until = time.monotonic() + (float(text.split()[1]) if text.startswith("busy") else 0)
            while time.monotonic() < busy_until:
                sum(range(100_000))
        return np.full((len(texts), 8), 0.5, dtype=np.float32)
"""
SETTINGS = """
CONFIG = {"TIMEOUT_SECONDS": 300}
VECTOR_INDEX = {"EMBEDDING_BACKENDS": {"default": {"CLASS": "odd_backend.Odd", "CONFIG": CONFIG}}}
"""


@pytest.fixture
def started(start_system: Callable[..., Any], tmp_path: Path) -> Iterator[tuple[System, Proxy]]:
    """Start a worker for all queues, whose connection to the broker goes through a proxy; the test's does not."""
    (tmp_path / "odd_backend.py").write_text(BACKEND)
    (tmp_path / "ours.py").write_text(SETTINGS)
    with ExitStack() as stack:
        variables = {"VECTOR_INDEX_SETTINGS": str(tmp_path / "ours.py"), "PYTHONPATH": str(tmp_path)}
        system = stack.enter_context(start_system(tmp_path, {}, **variables))
        port = urlsplit(system.environment["BROKER_URL"]).port
        assert port
        proxy = stack.enter_context(Proxy(port))
        behind = system.environment["BROKER_URL"].replace(f":{port}/", f":{proxy.port}/")
        replace(system, environment={**system.environment, "BROKER_URL": behind}).start("all", ["worker"])
        system.await_queues(STAGING, EMBED)
        try:
            yield system, proxy
        finally:
            for process in system.processes.values():
                process.send_signal(signal.SIGCONT)
            proxy.restore()


def live(system: System, seconds: float = SILENT_SECONDS) -> tuple[int, str]:
    done = system.command("live", "--seconds", str(seconds))
    return done.returncode, done.stdout + done.stderr


def test_a_busy_worker_is_live_and_a_stopped_or_killed_one_is_not(
    started: tuple[System, Proxy],
) -> None:
    system, _ = started
    assert live(system)[0] == 0
    assert system.command("ready").returncode == 0
    busy = [{"id": str(number), "text": f"busy {BUSY_SECONDS} and {number}"} for number in range(3)]
    job = system.send("tasks.index_documents", documents=busy)
    until = time.monotonic() + BUSY_SECONDS
    while time.monotonic() < until:
        assert live(system)[0] == 0
        time.sleep(2)
    assert job.get(timeout=8 * BUSY_SECONDS)["indexed"] == 3

    worker = system.processes["all"]
    os.kill(worker.pid, signal.SIGSTOP)
    code, printed = eventually(lambda: (now := live(system))[0] and now)
    assert (code, "has been unresponsive for" in printed, str(worker.pid) in printed) == (1, True, True)
    assert system.command("ready").returncode == 3
    os.kill(worker.pid, signal.SIGCONT)
    eventually(lambda: live(system)[0] == 0)

    system.kill("all")
    code, printed = live(system)
    assert (code, "is gone" in printed) == (1, True)


def test_a_worker_without_its_broker_is_live_but_not_ready(
    started: tuple[System, Proxy],
) -> None:
    """It reconnects by itself, so killing it would not help; the readiness check reports the outage."""
    system, proxy = started
    for away, silent in [(proxy.cut, SILENT_SECONDS), (proxy.stall, 60)][: 1 + LONG]:
        away()
        until = time.monotonic() + silent + 4
        while time.monotonic() < until:
            assert live(system, silent)[0] == 0
            time.sleep(2)
        done = system.command("ready")
        assert (done.returncode, "no worker consumes" in done.stderr) == (3, True)
        proxy.restore()
        eventually(lambda: system.command("ready").returncode == 0)


def test_a_worker_whose_event_loop_hangs_is_not_live(started: tuple[System, Proxy]) -> None:
    system, _ = started
    system.send("tasks.index_documents", documents=[{"id": "1", "text": "hang the loop"}])
    code, printed = eventually(lambda: (now := live(system))[0] and now)
    assert (code, "has been unresponsive for" in printed) == (1, True)
    system.kill("all")


def test_clean_shutdown_removes_heartbeat(started: tuple[System, Proxy]) -> None:
    system, _ = started
    worker = system.processes["all"]
    worker.terminate()
    assert worker.wait(PATIENCE_SECONDS) == 0
    del system.processes["all"]
    code, printed = live(system)
    assert (code, "is running: start it with `vector-index worker`" in printed) == (1, True)


def test_live_mentions_the_broker_if_a_worker_has_not_reached_it_yet(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    with start_system(tmp_path, {}) as system:
        variables = {**system.environment, "BROKER_URL": "redis://127.0.0.1:1/0"}
        replace(system, environment=variables).start("all", ["worker"])
        eventually(lambda: "127.0.0.1:1" in system.log("all"), 60)
        code, printed = live(system)
        assert (code, "or not have reached its broker yet" in printed) == (1, True)
