"""How a worker process ends that does not wait any longer."""

import subprocess
import sys
from pathlib import Path

import pytest

from worker.celery import lifecycle, liveness

A_CHILD_THAT_WAS_WAITED_FOR = """
import os
import billiard
from worker.celery import lifecycle

child = billiard.Process(target=int)
child.start()
os.waitpid(child.pid, 0)
assert child in billiard.active_children()
lifecycle.leave(7)
"""


def test_a_process_of_the_pool_that_has_ended_keeps_nobody_from_leaving() -> None:
    """Pool and leaving run at once: the thread that leaves ended of it, and the worker stayed for ever."""
    code = A_CHILD_THAT_WAS_WAITED_FOR
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_worker_that_has_removed_its_pulse_writes_none_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat goes on to the last moment; what it left would be missed for ever."""
    monkeypatch.setenv("VECTOR_INDEX_HOME", str(tmp_path))
    monkeypatch.setattr(lifecycle, "_nodes", ["embed@host"])
    lifecycle.beat()
    assert [found.worker for found in liveness.read(tmp_path)] == ["embed@host"]
    lifecycle.clean_up()
    lifecycle.beat()
    assert list(liveness.read(tmp_path)) == []
