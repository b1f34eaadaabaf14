"""`vector-index demo`, as `make demo` runs it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.fixtures.system import PATIENCE_SECONDS, VECTOR_INDEX

# the demo must ignore all of these; each would make it fail
HOSTILE = {
    "DATABASE_URL": "postgresql://nobody:wrong@127.0.0.1:1/none",
    "BROKER_URL": "redis://:wrong@127.0.0.1:1/0",
    "RESULT_BACKEND": "redis://:wrong@127.0.0.1:1/1",
    "CELERY_BROKER_URL": "amqp://127.0.0.1:1",
    "CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/2",
    "CELERY_CONFIG_MODULE": "there_is_none",
    "EMBEDDING_MODEL": "there-is-none",
    "MAX_DOCUMENT_BYTES": "1",
    "TIMEZONE": "Mars",
    "VECTOR_INDEX": "{not JSON",
    "VECTOR_INDEX_HOME": "/dev/null/home",
    "VECTOR_INDEX_SETTINGS": "/nowhere/settings.py",
    "LLM_USER_PATH": "/dev/null/llm",
    "PGSSLMODE": "verify-full",
    "PGOPTIONS": "-c nonsense=1",
}


# `demo` that gets a SIGTERM while it forks for the first time
STOPPED = """
import os, signal, sys
signals = [signal.SIGTERM]
os.register_at_fork(before=lambda: signals and os.kill(os.getpid(), signals.pop()))
sys.argv[1:] = ["demo"]
from worker.cli import main
main()
"""


def start(
    folder: Path, command: Sequence[str] = (VECTOR_INDEX, "demo"), **variables: str
) -> "subprocess.Popen[str]":
    """Start the demo; everything that it writes is below `folder`."""
    folder.chmod(0o755)  # Postgres may run as another user
    environment = {**os.environ, "TMPDIR": str(folder), "COLUMNS": "80", **variables}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def users_of(folder: Path) -> Iterator[psutil.Process]:
    """Yield the processes with the folder in their command line or environment."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if str(folder) in " ".join([*process.cmdline(), *process.environ().values()]):
                yield process


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder; fail if a file in it or a process that uses it is left."""
    yield tmp_path
    left = list(users_of(tmp_path))
    for process in left:
        process.kill()
    assert not left
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(360)
def test_demo_embeds_nothing_twice_leaves_nothing_and_ignores_the_environment(
    folder: Path,
) -> None:
    process = start(folder, **HOSTILE)
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, ""), output

    pattern = (
        r"(\d+) indexed, (\d+) unchanged, 0 failed: ([\d,]+) chunks, ([\d,]+) embedded in (\d+) requests? "
    )
    first, again, edit = (
        [int(number.replace(",", "")) for number in match] for match in re.findall(pattern, output)
    )
    documents, unchanged, chunks, embedded, requests = first
    assert unchanged == 0
    assert documents > 70
    assert 500 < embedded <= chunks  # some topics share paragraphs
    assert 0 < requests < 40  # full requests, across documents and messages
    assert again == [0, documents, 0, 0, 0]
    assert edit[0] == 1
    assert edit[2] > 50
    assert 1 <= edit[3] <= 3  # of the chunks of the longest topic
    assert edit[4] == 1

    assert re.search(r"\n\[1\] Lambdas  lambda, \d+-\d+ \*\n", output)
    assert 'When the iterator is exhausted, the suite in the "else" clause, if present, is executed' in output
    assert "emits no code for an assert statement when optimization is requested" in output
    assert f"documents: 0 pending, {documents} live, 0 failed; pending chunks: 0\n" in output
    assert "\x1b" not in output  # no colours outside a terminal
    assert "EMBEDDING_MODEL=3-small CHAT_MODEL=gpt-4o-mini OPENAI_API_KEY=... vector-index up" in output


def test_demo_stopped_while_its_workers_start_leaves_nothing(folder: Path) -> None:
    """The signal arrives in the fork of the first worker, where Python would drop an exception."""
    process = start(folder, [sys.executable, "-c", STOPPED])
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, errors.strip()) == (130, "")
    assert "Ready" not in output
