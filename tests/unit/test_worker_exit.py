"""The end of a process that cannot start, and the immediate end of a worker process."""

import subprocess
import sys

import pytest
from celery.utils.dispatch import Signal

from worker.celery.exits import ends_on_error
from worker.errors import ServiceUnreachable, SettingsError

ALREADY_REAPED_CHILD = """
import os
import billiard
from worker.celery import shutdown

child = billiard.Process(target=int)
child.start()
os.waitpid(child.pid, 0)
assert child in billiard.active_children()
shutdown.leave(7)
"""


def test_a_worker_ends_although_its_pool_has_reaped_a_process_already() -> None:
    """Both run at once. An error in the thread that ends the worker would keep it for ever."""
    code = ALREADY_REAPED_CHILD
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (SettingsError("X is 0; set it to 1"), 2, "vector-index: X is 0; set it to 1\n"),
        (ServiceUnreachable("Postgres is away"), 3, "vector-index: Postgres is away\n"),
        (
            KeyError("key sk-12345678 of\nshelf"),
            2,
            "the process cannot start: KeyError: 'key … of\\nshelf'; ",
        ),
    ],
)
def test_any_error_of_a_start_check_ends_the_process_in_a_sentence(
    error: Exception, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Celery logs what the receiver of a signal raises, and goes on."""
    started = Signal(name="started")

    @started.connect(weak=False)
    @ends_on_error
    def check(**_: object) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        started.send(sender=None)
    assert ended.value.code == code
    shown = capsys.readouterr().err
    assert sentence in shown
    assert shown.count("\n") == 1
