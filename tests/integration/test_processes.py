"""Programs that `up` forks from one process, on Linux."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fixtures.system import eventually
from worker.cli.preloading import apart
from worker.errors import SettingsError
from worker.exit_codes import ExitCode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the fork server"),
]

# a process that starts programs as `up` does, runs the lines of a test, and prints one line of JSON
SCRIPT = """
import json, os, signal, socket, sys
from worker.cli.processes import programs
with open(sys.argv[1], "a+") as log, programs(log) as ours:
    def start(*arguments, **variables):
        return ours.start(arguments, {{**os.environ, **variables}})
    def start_waiting():
        "A program without children, which waits for a server that never answers."
        return start('schema', DATABASE_URL=f'postgresql://u:p@127.0.0.1:{{silent.getsockname()[1]}}/d')
    silent = socket.create_server(('127.0.0.1', 0))
    {lines}
"""


@contextmanager
def run(log: Path, *lines: str) -> Iterator[subprocess.Popen[str]]:
    code = SCRIPT.format(lines="\n    ".join(lines))
    command = [sys.executable, "-c", code, str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def printed(process: subprocess.Popen[str]) -> Any:
    assert process.stdout
    return json.loads(process.stdout.readline())


def ended(pids: Sequence[int]) -> bool:
    return not any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids
    )


def test_a_forked_program_has_its_own_arguments_environment_log_and_exit_code(tmp_path: Path) -> None:
    with run(
        tmp_path / "log",
        "codes = [",
        "    start('worker', '--queues', 'wrong').wait(),",
        "    start('addresses', VECTOR_INDEX_HOME='/proc/none').wait(),",
        "    start('--version').wait(60),",
        "]",
        "print(json.dumps(codes))",
    ) as script:
        assert printed(script) == [ExitCode.REFUSED, ExitCode.UNREACHABLE, ExitCode.DONE]
        assert script.wait() == 0
        log = (tmp_path / "log").read_text()
        assert "'wrong' is not one of" in log
        assert "/proc/none" in log


@pytest.mark.parametrize("killed", ["server", "parent"])
def test_programs_die_with_the_server_and_with_its_parent(tmp_path: Path, killed: str) -> None:
    with run(
        tmp_path / "log",
        "program = start_waiting()",
        "print(json.dumps([program.pid, ours._pid]), flush=True)",
        "sys.stdin.readline()",
    ) as script:
        pids = printed(script)
        os.kill(script.pid if killed == "parent" else pids[1], signal.SIGKILL)
        eventually(lambda: ended(pids))
        script.kill()


def test_a_program_starts_after_the_server_was_killed(tmp_path: Path) -> None:
    with run(
        tmp_path / "log",
        "first = start('worker', '--queues', 'wrong')",
        "os.kill(ours._pid, signal.SIGKILL)",
        "codes = [first.wait(60), start('worker', '--queues', 'wrong').wait(60)]",
        "print(json.dumps(codes))",
    ) as script:
        assert printed(script)[1] == ExitCode.REFUSED
        assert script.wait() == 0


def test_a_signal_reaches_a_forked_program_and_its_end_is_seen(tmp_path: Path) -> None:
    with run(
        tmp_path / "log",
        "program = start_waiting()",
        "before = program.poll()",
        "program.send_signal(signal.SIGKILL)",
        "print(json.dumps([before, program.wait(60), program.poll()]))",
    ) as script:
        assert printed(script) == [None, -signal.SIGKILL, -signal.SIGKILL]
        assert script.wait() == 0


def test_a_function_runs_apart_and_its_error_is_raised_here() -> None:
    def wrong() -> None:
        raise SettingsError("MODEL_ID is wrong")

    assert apart(os.getpid)() != os.getpid()
    with pytest.raises(SettingsError, match="MODEL_ID is wrong"):
        apart(wrong)()


@pytest.mark.parametrize("before", ["", "os.kill(ours._pid, signal.SIGKILL)"])
def test_a_wrong_model_is_reported_once_with_and_without_the_server(tmp_path: Path, before: str) -> None:
    with run(
        tmp_path / "log",
        "os.environ['EMBEDDING_MODEL'] = 'nope'",
        before,
        "wait = ours.prepare(os.environ)",
        "try: wait()",
        "except Exception as error: print(json.dumps([type(error).__name__, str(error)]))",
    ) as script:
        name, sentence = printed(script)
        assert name == "SettingsError"
        assert "MODEL_ID 'nope'" in sentence


def test_what_programs_need_is_imported_by_the_server_alone(tmp_path: Path) -> None:
    with run(
        tmp_path / "log",
        "ours.prepare(os.environ)()",
        "print(json.dumps(sorted({'celery', 'llm', 'tokenizers'} & sys.modules.keys())))",
    ) as script:
        assert printed(script) == []
