"""Ctrl-C, SIGTERM and SIGHUP at any moment."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from worker.cli.interruption import SIGNALS, Interruption

SIGNAL_IN_A_FORK = """
import os, signal, subprocess
from worker.cli.interruption import Interruption

interruption = Interruption()
interruption.install()
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.{name}))
subprocess.run(["true"], preexec_fn=int)
print("started", flush=True)
try:
    interruption.{wait}
except KeyboardInterrupt:
    print("noted")
"""


@pytest.fixture
def interruption() -> Iterator[Interruption]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    interruption = Interruption()
    interruption.install()
    yield interruption
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("wait", ["check()", "sleep(60)"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_during_a_fork_is_recorded_and_the_fork_succeeds(name: str, wait: str) -> None:
    """Python ignores an exception that is raised in the hooks of a fork."""
    code = SIGNAL_IN_A_FORK.format(name=name, wait=wait)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("started\nnoted\n", "")


def test_a_signal_ends_a_sleep_at_once(interruption: Interruption) -> None:
    began = time.monotonic()
    child = subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -TERM {os.getpid()}"])
    with pytest.raises(KeyboardInterrupt):
        interruption.sleep(120)
    assert time.monotonic() - began < 60
    child.wait()


def test_the_first_signal_is_deferred_and_the_second_raises_at_once(interruption: Interruption) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interruption.check()


def test_signals_that_the_caller_ignores_stay_ignored() -> None:
    code = (
        "import signal; from worker.cli.interruption import Interruption; Interruption().install(); "
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    )
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-c", code]
    assert subprocess.check_output(command, text=True) == "True\n"
