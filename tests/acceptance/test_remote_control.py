"""Remote control: commands of an application reach its own workers only; a node name is used once on a machine."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import CELERY, CHAT, EMBED, STAGING, System, eventually

pytestmark = pytest.mark.slow

OURS = {"embed", "chat"}


def names(replies: dict[str, Any]) -> set[str]:
    return {node.partition("@")[0] for node in replies}


def celery(system: System, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Celery's command on our app, as an operator does."""
    return subprocess.run(
        [CELERY, "-A", "worker", *arguments],
        cwd=system.folder,
        env=dict(system.environment),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_shutdown_by_an_application_leaves_our_workers_alone(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    processes = {name: ["worker", "--queues", name, "--concurrency", "2"] for name in sorted(OURS)}
    with start_system(tmp_path, {}) as system:
        for name, arguments in processes.items():
            system.start(name, arguments)
        system.await_queues(EMBED, CHAT)
        control = system.app.control
        control.shutdown()
        control.broadcast("pool_shrink", arguments={"n": 1})
        control.cancel_consumer(CHAT)
        time.sleep(3)
        assert all(process.poll() is None for process in system.processes.values())
        assert system.call("tasks.status", CHAT)["paused"] is None
        assert names(system.inspect("ping", 2)) == OURS  # questions are answered

        assert all(f"{name}@" in celery(system, "inspect", "ping").stdout for name in OURS)
        assert system.command("ready").returncode != 2
        embed = system.processes.pop("embed")
        node = next(node for node in system.inspect("ping", 2) if node.startswith("embed@"))
        celery(system, "control", "shutdown", "--destination", node)
        assert embed.wait(60) == 0
        assert system.processes["chat"].poll() is None


def test_a_second_worker_of_one_node_name_ends_with_a_sentence(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    with start_system(tmp_path, {}) as system:
        system.start("staging", ["worker", "--queues", "staging", "--concurrency", "1"])
        system.await_queues(STAGING)
        done = system.command("worker", "--queues", "staging")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "a worker named staging@" in done.stderr
        assert "pass another --name, or stop that one" in done.stderr
        system.start("other", ["worker", "--queues", "staging", "--name", "other", "--concurrency", "1"])
        eventually(lambda: len(system.inspect("ping", 2)) == 2)
        system.kill("staging")  # the kernel releases its name
        system.start("staging", ["worker", "--queues", "staging", "--concurrency", "1"])
        eventually(lambda: "staging" in names(system.inspect("ping", 2)))
