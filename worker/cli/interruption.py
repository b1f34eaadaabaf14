"""Ctrl-C and the other signals that ask a program to end: noted whenever they come, obeyed where it waits."""

import signal
import time
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Interruption:
    """The wish to end, raised as KeyboardInterrupt by `check` and `sleep`; a second signal raises it anywhere.

    Python's own handler raises between any two instructions: in the hooks of a fork the exception is printed and
    lost, and while a child starts it leaves one behind that nobody knows of.
    """

    wished: bool = False
    _sleeping: bool = False

    def install(self) -> None:
        """Take the signals over, but for those that the caller ignores: nohup, or a shell's background."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def check(self) -> None:
        if self.wished:
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        """As `time.sleep`."""
        self._sleeping = True  # before the look: a signal between the two ends the sleep
        try:
            self.check()
            time.sleep(seconds)
        finally:
            self._sleeping = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.wished = self.wished, True
        if again or self._sleeping:
            raise KeyboardInterrupt
