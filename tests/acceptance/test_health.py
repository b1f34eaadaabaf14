"""What `live` and `ready` say of workers that are well, busy, cut off, stopped, hung and killed."""

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

# a pulse every second in place of every tenth
SILENT_SECONDS = 14
# TEST_BUSY_SECONDS=60: the long form, with a broker that hangs, which blocks the loop of a worker for up to 30 s
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
    """A worker of all queues on threads, whose broker is behind a proxy; the test itself reaches it directly."""
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
            proxy.mend()


def live(system: System, seconds: float = SILENT_SECONDS) -> tuple[int, str]:
    done = system.command("live", "--seconds", str(seconds))
    return done.returncode, done.stdout + done.stderr


def test_a_worker_is_alive_while_it_is_busy_and_dead_once_it_is_stopped(
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
    code, said = eventually(lambda: (now := live(system))[0] and now)
    assert (code, "does not turn" in said, str(worker.pid) in said) == (1, True, True)
    assert system.command("ready").returncode == 3
    os.kill(worker.pid, signal.SIGCONT)
    eventually(lambda: live(system)[0] == 0)

    system.kill("all")
    code, said = live(system)
    assert (code, "is gone" in said) == (1, True)


def test_a_worker_that_is_cut_off_from_its_broker_is_alive_and_not_ready(
    started: tuple[System, Proxy],
) -> None:
    """It reconnects by itself: whoever kills it gains nothing. Readiness tells that its work stands still."""
    system, proxy = started
    for away, silent in [(proxy.cut, SILENT_SECONDS), (proxy.stall, 60)][: 1 + LONG]:
        away()
        until = time.monotonic() + silent + 4
        while time.monotonic() < until:
            assert live(system, silent)[0] == 0
            time.sleep(2)
        done = system.command("ready")
        assert (done.returncode, "no worker consumes" in done.stderr) == (3, True)
        proxy.mend()
        eventually(lambda: system.command("ready").returncode == 0)


def test_a_worker_whose_loop_hangs_is_dead_though_its_threads_run(started: tuple[System, Proxy]) -> None:
    system, _ = started
    system.send("tasks.index_documents", documents=[{"id": "1", "text": "hang the loop"}])
    code, said = eventually(lambda: (now := live(system))[0] and now)
    assert (code, "does not turn" in said) == (1, True)
    system.kill("all")


def test_a_worker_that_ends_as_it_should_is_missed_by_nobody(started: tuple[System, Proxy]) -> None:
    system, _ = started
    worker = system.processes["all"]
    worker.terminate()
    assert worker.wait(PATIENCE_SECONDS) == 0
    del system.processes["all"]
    code, said = live(system)
    assert (code, "serves: none was started, it has ended, or it" in said) == (1, True)


def test_a_worker_that_has_not_reached_its_broker_yet_is_not_said_to_have_been_forgotten(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    with start_system(tmp_path, {}) as system:
        variables = {**system.environment, "BROKER_URL": "redis://127.0.0.1:1/0"}
        replace(system, environment=variables).start("all", ["worker"])
        eventually(lambda: "127.0.0.1:1" in system.log("all"), 60)
        code, said = live(system)
        assert (code, "or it has not reached its broker yet, which its log says" in said) == (1, True)
