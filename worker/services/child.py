"""A child process that is restarted when it dies, with exponential backoff, until it dies too often in a row.

The embedded servers and the programs of `vector-index up` are such children. How a child ends when its parent is
killed is up to whoever starts it: it depends on the program and on its user.
"""

import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from signal import Signals
from typing import Protocol

STEADY_SECONDS = 60  # a process that ran this long starts a new series of deaths
MAX_DEATHS = 5  # in a row, until the owner gives up


class Process(Protocol):
    """A running process, as `subprocess.Popen` has it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Death:
    """The unexpected end of a child process."""

    code: int  # exit code; below 0: minus the number of the signal
    in_a_row: int  # 1: the process ran for STEADY_SECONDS, or it is the first death
    backoff_seconds: float  # until the next start

    @property
    def cause(self) -> str:
        if self.code < 0:
            return f"was killed by {Signals(-self.code).name}"
        return f"ended with exit code {self.code}"


class Child:
    """One program and its current process.

    `start` starts the process. The wait before a restart is `backoff_seconds`, doubled with each death in a row.
    """

    def __init__(self, start: Callable[[], Process], *, backoff_seconds: float) -> None:
        self.process: Process | None = None
        self._start, self._backoff_seconds = start, backoff_seconds
        self._started_at = self._start_at = 0.0  # monotonic seconds; the next start is not before `_start_at`
        self.deaths = 0  # in a row

    def check(self) -> Death | None:
        """Start the process if it has ended and its backoff has passed; report a death once.

        Raises the errors of `start`.
        """
        death = None
        if self.process is not None and (code := self.process.poll()) is not None:
            self.process, death = None, self._record(code)
        if self.process is None and time.monotonic() >= self._start_at:
            self.process = self._start()
            self._started_at = time.monotonic()
        return death

    def _record(self, code: int) -> Death:
        steady = time.monotonic() - self._started_at >= STEADY_SECONDS
        self.deaths = 1 if steady else self.deaths + 1
        backoff_seconds = self._backoff_seconds * 2 ** (self.deaths - 1)
        self._start_at = time.monotonic() + backoff_seconds
        return Death(code=code, in_a_row=self.deaths, backoff_seconds=backoff_seconds)

    def forget(self) -> None:
        """Forget the process and its deaths, after it has been stopped on purpose: the next `check` starts another."""
        self.process, self.deaths, self._start_at = None, 0, 0.0


def end(
    children: Iterable[Child], *, signal: Signals, grace_seconds: float, kill: Callable[[Process], object]
) -> None:
    """Send a stop signal to all children, wait for them, and kill those that outlive the common grace period.

    Ctrl-C ends the grace period.
    """
    children = list(children)
    processes = [child.process for child in children if child.process is not None]
    for process in processes:
        process.send_signal(signal)
    deadline = time.monotonic() + grace_seconds
    try:
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in processes:
            if process.poll() is None:
                kill(process)
                process.wait()
    for child in children:
        child.forget()
