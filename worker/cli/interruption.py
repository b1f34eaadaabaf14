"""Ctrl-C and the other termination signals: recorded when they arrive, handled where the program waits."""

import signal
import time
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Interruption:
    """A request to end, raised as KeyboardInterrupt by `check` and `sleep`. A second signal raises it at once.

    Python's own handler raises between any two instructions. In the hooks of a fork Python prints and drops the
    exception; while a child process starts, it orphans the child.
    """

    requested: bool = False
    _sleeping: bool = False

    def install(self) -> None:
        """Handle the signals, except those that the caller ignores (nohup, or a shell's background job)."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._record)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived."""
        if self.requested:
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """Sleep as `time.sleep` does; a signal ends the sleep with KeyboardInterrupt."""
        self._sleeping = True  # before the check: a signal between the two ends the sleep
        try:
            self.check()
            time.sleep(seconds)
        finally:
            self._sleeping = False

    def _record(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if again or self._sleeping:
            raise KeyboardInterrupt
