"""How Celery is set: a long task runs once, a deadly one ends, and a worker that is stuck gives way."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import CHAT, PATIENCE_SECONDS, STAGING, eventually

pytestmark = pytest.mark.slow

VISIBILITY_SECONDS, LONG_SECONDS = 5, 16
STUCK_SECONDS = 4  # more than STUCK_HEARTBEATS

# `vector-index`, with times that a test can wait for and tasks of its own
PROGRAM = f"""
import os, sys, time
from worker.celery import heartbeat
heartbeat.HEARTBEAT_SECONDS = 0.3
from worker.celery import application, shutdown
shutdown.STOP_SECONDS = 2.0
options = application.STATIC["broker_transport_options"]
options.update(visibility_timeout={VISIBILITY_SECONDS}, unacked_restore_interval=1)

@application.app.task(name="tasks.long", ignore_result=True)
def long(name, seconds):
    open("started", "a").write(name + " ")
    time.sleep(seconds)
    open("ended", "a").write(name + " ")

@application.app.task(name="tasks.deadly", max_retries=None, default_retry_delay=1)
def deadly():
    open("deaths", "a").write("x")
    os._exit(9)

from kombu.transport.redis import QoS
can_consume = QoS.can_consume

def can_consume_now(self):
    if os.path.exists("broken"):
        raise ZeroDivisionError
    return not os.path.exists("stuck") and can_consume(self)

QoS.can_consume = can_consume_now

from worker.cli import main
sys.exit(main())
"""


def program(name: str, *arguments: str) -> list[str]:
    return ["-c", PROGRAM, "worker", "--queues", name, *arguments]


def words(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def test_a_task_of_three_visibility_timeouts_runs_once_on_both_pools(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    """Two workers stand by on each queue, and would take it up; one of those that run it is asked to end meanwhile."""
    with start_system(tmp_path, {}) as system:
        for name, queues in {"one": "chat", "two": "chat", "three": "staging", "four": "staging"}.items():
            system.start(name, program(queues, "--name", name, "--concurrency", "2"), sys.executable)
        system.await_queues(STAGING, CHAT)
        system.send("tasks.long", CHAT, name="threads", seconds=LONG_SECONDS)
        system.send("tasks.long", STAGING, name="processes", seconds=LONG_SECONDS)
        eventually(lambda: sorted(words(tmp_path / "ended")) == ["processes", "threads"])
        time.sleep(VISIBILITY_SECONDS + 1)
        assert sorted(words(tmp_path / "started")) == ["processes", "threads"]


def test_a_task_that_kills_its_process_ends_as_a_failure_with_a_sentence(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    with start_system(tmp_path, {}) as system:
        system.start("staging", program("staging", "--concurrency", "1"), sys.executable)
        system.await_queues(STAGING)
        with pytest.raises(
            Exception, match=r"tasks\.deadly ended its process 3 times: give it more memory, or send"
        ):
            system.send("tasks.deadly").get(timeout=PATIENCE_SECONDS)
        assert (tmp_path / "deaths").read_text() == "xxx"
        time.sleep(2)
        assert (tmp_path / "deaths").read_text() == "xxx"
        system.call("tasks.status")  # the worker works on


def test_a_worker_that_meets_an_error_of_celery_ends_and_another_does_what_it_had_in_hand(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    with start_system(tmp_path, {}) as system:
        system.start("staging", program("staging", "--concurrency", "1"), sys.executable)
        system.await_queues(STAGING)
        system.send("tasks.long", name="a", seconds=20)
        eventually(lambda: words(tmp_path / "started") == ["a"])
        (tmp_path / "broken").touch()
        worker = system.processes.pop("staging")
        assert worker.wait(PATIENCE_SECONDS) == 1
        assert "Unrecoverable error: ZeroDivisionError" in system.log("staging")
        (tmp_path / "broken").unlink()
        system.start("staging", program("staging", "--concurrency", "1"), sys.executable)
        eventually(lambda: words(tmp_path / "started") == ["a", "a"])


def test_a_worker_that_is_connected_and_consumes_nothing_ends_to_be_started_again(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    """Neither a busy worker, nor one that was stopped, nor an idle one does."""
    with start_system(tmp_path, {}) as system:
        system.start("chat", program("chat", "--concurrency", "1"), sys.executable)
        system.await_queues(CHAT)
        worker = system.processes["chat"]
        time.sleep(STUCK_SECONDS)
        for name in ("busy", "waits"):
            system.send("tasks.long", CHAT, name=name, seconds=STUCK_SECONDS)
        eventually(lambda: words(tmp_path / "ended") == ["busy", "waits"])
        worker.send_signal(signal.SIGSTOP)
        system.send("tasks.long", CHAT, name="stopped", seconds=0)
        time.sleep(STUCK_SECONDS)
        worker.send_signal(signal.SIGCONT)
        eventually(lambda: "stopped" in words(tmp_path / "ended"))
        assert worker.poll() is None

        (tmp_path / "stuck").touch()
        time.sleep(1.5)  # what was asked of the broker before has been answered
        system.send("tasks.long", CHAT, name="one", seconds=0)
        system.send("tasks.long", CHAT, name="two", seconds=0)
        del system.processes["chat"]
        assert worker.wait(PATIENCE_SECONDS) == 75
        assert system.log("chat").count("takes none of the messages that wait: it ends") == 1
        assert "Traceback" not in system.log("chat")
        (tmp_path / "stuck").unlink()
        system.start("chat", program("chat"), sys.executable)
        eventually(lambda: "two" in words(tmp_path / "ended"))
