"""The signals that end Celery's beat."""

import signal
from types import FrameType
from typing import Any


def end_at_signals(beat: Any, service: Any) -> None:
    """Let SIGTERM and SIGINT end the beat. Its own handler first closes the connection that a message is sent on.

    The sending then fails with an error of the closed connection, the error takes the place of SystemExit, and beat
    logs it and goes on. Nothing needs that early close: the service closes its connection as it ends.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
