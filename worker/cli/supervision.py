"""Child processes that are started again when they die, and end with their parent."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any

from worker.errors import ServiceUnreachable, SettingsError

GRACE_SECONDS = 15  # from the stop signal to the kill signal, for all children together
FIRST_BACKOFF_SECONDS = 1  # doubled with each death in a row
STEADY_SECONDS = 60  # who lived this long did not die in a row
MAX_DEATHS = 5
BAD_SETTINGS = 2  # the exit code of our commands that a further start cannot change

PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass
class Child:
    """One program, its present process and its record."""

    name: str
    command: Sequence[str]
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    start_at: float = 0.0  # not earlier: the backoff
    deaths: int = 0  # in a row


@dataclass
class Supervisor:
    """Runs commands by name until the block ends: then a stop signal to all, and a kill after the grace."""

    commands: Mapping[str, Sequence[str]]
    environment: Mapping[str, str]
    grace_seconds: float = GRACE_SECONDS
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    say: Callable[[str], None] = lambda sentence: None  # told of each death
    output: IO[Any] | None = None  # what the children log; None: stderr
    children: list[Child] = field(init=False)

    def __enter__(self) -> "Supervisor":
        self.children = [Child(name, command) for name, command in self.commands.items()]
        self.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check(self) -> None:
        """Start what does not run and is due. Call it each second.

        Raises ServiceUnreachable for a program that died MAX_DEATHS times in a row, and SettingsError for one
        that ended because of its settings.
        """
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                self._note_death(child, child.process.returncode)
            if child.process is None and time.monotonic() >= child.start_at:
                child.process = _spawn(child.command, self.environment, self.output or sys.stderr)
                child.started_at = time.monotonic()

    def stop(self) -> None:
        """End all children; a second Ctrl-C meanwhile ends the grace."""
        processes = [child.process for child in self.children if child.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self.grace_seconds
        try:
            for process in processes:
                process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # its own children too
                    process.wait()

    def _note_death(self, child: Child, code: int) -> None:
        lived_seconds = time.monotonic() - child.started_at
        child.deaths = child.deaths + 1 if lived_seconds < STEADY_SECONDS else 1
        child.process = None
        if code == BAD_SETTINGS:
            raise SettingsError(f"{child.name} cannot start with these settings: mend what it said above")
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if child.deaths >= MAX_DEATHS:
            raise ServiceUnreachable(
                f"{child.name} died {child.deaths} times in a row, at last it {ended}: mend what it said above"
            )
        backoff_seconds = self.backoff_seconds * 2 ** (child.deaths - 1)
        child.start_at = time.monotonic() + backoff_seconds
        self.say(f"{child.name} {ended}: it starts again in {backoff_seconds:g} s")


def _spawn(
    command: Sequence[str], environment: Mapping[str, str], output: IO[Any]
) -> "subprocess.Popen[bytes]":
    """A child in a process group of its own: Ctrl-C on the terminal reaches only the parent."""
    return subprocess.Popen(  # noqa: S603 - programs and arguments are our own
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # Celery's remarks while it stops; logs and errors go to stderr
        stderr=output,
        process_group=0,
        preexec_fn=_die_with_parent(os.getpid()) if sys.platform == "linux" else None,
    )


def _die_with_parent(parent: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None)  # before the fork: nothing may be imported after it

    def tie() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return tie
