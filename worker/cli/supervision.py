"""The supervisor of our own programs: workers and Flower as children of `up`."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM
from types import TracebackType

from worker.celery import liveness
from worker.errors import ServiceUnreachable, SettingsError
from worker.exit_codes import ExitCode
from worker.services.child import MAX_DEATHS, Child, Death, Process, end

GRACE_SECONDS = 15  # from SIGTERM to SIGKILL, for all children together
FIRST_BACKOFF_SECONDS = 1
READY_SECONDS = 60  # for workers to start
POLL_SECONDS = 0.02


@dataclass
class Supervisor:
    """Runs programs by name until the block ends. Then sends SIGTERM to all, and SIGKILL after the grace period.

    Call `check` each second.
    """

    programs: Mapping[str, Callable[[], Process]]  # functions that start them
    grace_seconds: float = GRACE_SECONDS
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    notify: Callable[[str], None] = lambda sentence: None  # called with a sentence about each death
    children: dict[str, Child] = field(init=False)
    _started_at: float = field(init=False)  # monotonic seconds

    def __enter__(self) -> "Supervisor":
        self._started_at = time.monotonic()
        self.children = {}
        for name, start in self.programs.items():
            self.add(name, start)
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

    def add(self, name: str, start: Callable[[], Process]) -> None:
        """Start one more program."""
        self.children[name] = Child(start, backoff_seconds=self.backoff_seconds)
        self.check()

    def await_workers(self, home: Path, checks: Iterable[Callable[[], object]]) -> None:
        """Return when each program consumes its queues: a worker then writes its first heartbeat.

        Raises ServiceUnreachable, or the errors of `checks`.
        """
        checks = list(checks)
        deadline = time.monotonic() + READY_SECONDS
        while not self._beat(home):
            if time.monotonic() > deadline:
                raise ServiceUnreachable(
                    f"the workers are not ready after {READY_SECONDS} s: see the errors that they printed above"
                )
            for check in checks:
                check()
            time.sleep(POLL_SECONDS)

    def _beat(self, home: Path) -> bool:
        # a heartbeat from before may be of a dead process with the same id
        beating = {last.pid for last in liveness.read(home) if last.at >= self._started_at}
        return all(
            child.process is not None and child.process.pid in beating for child in self.children.values()
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
