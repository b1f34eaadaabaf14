"""The supervisor of our own programs: workers and Flower as children of `up`."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from signal import SIGKILL, SIGTERM
from types import TracebackType

from worker.errors import ServiceUnreachable, SettingsError
from worker.exit_codes import ExitCode
from worker.services.child import MAX_DEATHS, Child, Death, Process, end

GRACE_SECONDS = 15  # from SIGTERM to SIGKILL, for all children together
FIRST_BACKOFF_SECONDS = 1


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

    def __enter__(self) -> "Supervisor":
        self.children = {
            name: Child(start, backoff_seconds=self.backoff_seconds) for name, start in self.programs.items()
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
