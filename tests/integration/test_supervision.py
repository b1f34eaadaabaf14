"""The supervisor of `up`, with small real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.fixtures.system import eventually
from worker.celery import liveness
from worker.cli.processes import spawn
from worker.cli.supervision import Supervisor
from worker.errors import ServiceUnreachable, SettingsError
from worker.services.child import MAX_DEATHS, Child, Process, end

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "open(sys.argv[1], 'w').close(); time.sleep(300)",
]


def start_of(command: list[str]) -> Callable[[], Process]:
    return partial(spawn, command, os.environ)


def supervise(supervisor: Supervisor) -> None:
    """Check for up to a minute, long enough for every death that a test expects."""
    for _ in range(6_000):
        supervisor.check()
        time.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if sys.platform == "linux" else True


def test_a_dead_process_is_restarted() -> None:
    notices: list[str] = []
    with Supervisor({"sleeper": start_of(SLEEP)}, backoff_seconds=0.01, notify=notices.append) as supervisor:
        child = supervisor.children["sleeper"]
        assert child.process is not None
        first = child.process.pid
        os.kill(first, signal.SIGKILL)

        def replaced() -> bool:
            supervisor.check()
            return child.process is not None and child.process.pid != first

        eventually(replaced)
    assert notices == ["sleeper was killed by SIGKILL; restarting in 0.01 s"]


def test_a_process_that_is_stopped_on_purpose_has_not_died() -> None:
    child = Child(lambda: subprocess.Popen(SLEEP), backoff_seconds=300)
    for _ in range(MAX_DEATHS):
        assert child.check() is None
        assert child.process is not None
        assert child.process.poll() is None
        end([child], signal=signal.SIGTERM, grace_seconds=60, kill=subprocess.Popen.kill)


def test_supervisor_gives_up_after_max_deaths_in_a_row(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    code = f"open({str(starts)!r}, 'a').write('x'); raise SystemExit(7)"
    with (
        pytest.raises(
            ServiceUnreachable, match=r"broken died 5 times in a row, the last time it ended with exit code 7"
        ),
        Supervisor({"broken": start_of([sys.executable, "-c", code])}, backoff_seconds=0.01) as supervisor,
    ):
        supervise(supervisor)
    assert len(starts.read_text()) == MAX_DEATHS


def test_workers_are_ready_with_their_own_first_heartbeat(tmp_path: Path) -> None:
    """A heartbeat from before may be of another process with the same id."""
    code = (
        "import sys, time; from pathlib import Path; from worker.celery import liveness; "
        "time.sleep(0.5); liveness.write(Path(sys.argv[1]), 'slow@here'); time.sleep(300)"
    )
    with Supervisor({"slow": start_of([sys.executable, "-c", code, str(tmp_path)])}) as supervisor:
        process = supervisor.children["slow"].process
        assert process is not None
        before = {"worker": "slow@here", "pid": process.pid, "at": time.monotonic() - 60}
        (tmp_path / "alive").mkdir()
        (tmp_path / "alive" / "slow@here.json").write_text(json.dumps(before))
        supervisor.await_workers(tmp_path, [])
        (last,) = liveness.read(tmp_path)
        assert last.at > before["at"]


def test_waiting_for_workers_ends_with_the_error_of_a_check(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with Supervisor({"sleeper": start_of(SLEEP)}) as supervisor, pytest.raises(KeyboardInterrupt):
        supervisor.await_workers(tmp_path, [stop])


def test_wrong_settings_are_not_retried() -> None:
    command = [sys.executable, "-c", "raise SystemExit(2)"]
    with (
        pytest.raises(SettingsError, match="wrong cannot start with these settings"),
        Supervisor({"wrong": start_of(command)}) as supervisor,
    ):
        supervise(supervisor)


def test_children_that_ignore_sigterm_are_killed_after_the_grace_period(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    starts = {"sleeper": start_of(SLEEP), "stubborn": start_of([*STUBBORN, str(ready)])}
    with Supervisor(starts, grace_seconds=0.3) as supervisor:
        processes = [child.process for child in supervisor.children.values()]
        eventually(ready.exists)
        started = time.monotonic()
    assert time.monotonic() - started < 30
    assert [process.poll() for process in processes if process] == [-signal.SIGTERM, -signal.SIGKILL]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ties children to their parent on Linux only")
def test_children_die_when_their_parent_is_killed(tmp_path: Path) -> None:
    kept = tmp_path / "pid"
    code = (
        "import os, sys, time\n"
        "from worker.cli.processes import spawn\n"
        "from worker.cli.supervision import Supervisor\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(300)']\n"
        "with Supervisor({'sleeper': lambda: spawn(sleep, os.environ)}) as s:\n"
        f"    open({str(kept)!r}, 'w').write(str(s.children['sleeper'].process.pid))\n"
        "    time.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    eventually(lambda: kept.exists() and kept.read_text())
    child = int(kept.read_text())
    assert lives(child)
    parent.kill()
    parent.wait()
    eventually(lambda: not lives(child))
