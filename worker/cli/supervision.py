"""The supervisor of our own programs: workers, beat and Flower as children of `up`."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from signal import SIGKILL, SIGTERM
from types import TracebackType
from typing import IO, Any

from worker.errors import ServiceUnreachable, SettingsError
from worker.exit_codes import ExitCode
from worker.services.child import MAX_DEATHS, Child, Death, Process, end

GRACE_SECONDS = 15  # from SIGTERM to SIGKILL, for all children together
FIRST_BACKOFF_SECONDS = 1

PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass
class Supervisor:
    """Runs commands by name until the block ends. Then sends SIGTERM to all, and SIGKILL after the grace period.

    Call `check` each second. On Linux the kernel kills the children when their parent is killed.
    """

    commands: Mapping[str, Sequence[str]]
    environment: Mapping[str, str]
    grace_seconds: float = GRACE_SECONDS
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    notify: Callable[[str], None] = lambda sentence: None  # called with a sentence about each death
    output: IO[Any] | None = None  # for the children's stderr; None: ours
    children: dict[str, Child] = field(init=False)

    def __enter__(self) -> "Supervisor":
        self.children = {
            name: Child(
                partial(_spawn, command, self.environment, self.output), backoff_seconds=self.backoff_seconds
            )
            for name, command in self.commands.items()
        }
        self.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(
            self.children.values(),
            signal=SIGTERM,
            grace_seconds=self.grace_seconds,
            kill=lambda process: os.killpg(process.pid, SIGKILL),  # its own children too
        )

    def check(self) -> None:
        """Restart each child that died and whose backoff has passed.

        Raises ServiceUnreachable when a program died MAX_DEATHS times in a row, and SettingsError when it ended
        because of its settings.
        """
        for name, child in self.children.items():
            if death := child.check():
                self._report(name, death)

    def _report(self, name: str, death: Death) -> None:
        if death.code == ExitCode.REFUSED:
            raise SettingsError(
                f"{name} cannot start with these settings: correct the error that it printed above"
            )
        if death.in_a_row >= MAX_DEATHS:
            raise ServiceUnreachable(
                f"{name} died {death.in_a_row} times in a row, the last time it {death.cause}: see the errors that "
                "it printed above"
            )
        self.notify(f"{name} {death.cause}; restarting in {death.backoff_seconds:g} s")


def command_line(arguments: Sequence[str]) -> list[str]:
    """Return a command of ours as a program to run in a process of its own."""
    # -P: a file worker.py in the working folder must not hide our package
    return [sys.executable, "-P", "-m", "worker.cli", *arguments]


def _spawn(command: Sequence[str], environment: Mapping[str, str], output: IO[Any] | None) -> Process:
    """Start a process in a group of its own, so that Ctrl-C on the terminal reaches only the parent."""
    return subprocess.Popen(  # noqa: S603 - programs and arguments are our own
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # Celery's messages while it stops; logs and errors go to stderr
        stderr=output or sys.stderr,
        process_group=0,
        preexec_fn=_die_with_parent(os.getpid()) if sys.platform == "linux" else None,
    )


def _die_with_parent(parent: int) -> Callable[[], None]:
    # The embedded servers use setpriv instead: it also changes the user, which clears the death signal.
    libc = ctypes.CDLL(None)  # before the fork: importing after it is unsafe

    def request_signal() -> None:
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(ExitCode.FAILED)

    return request_signal
