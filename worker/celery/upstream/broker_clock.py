"""The broker's clock: the clocks of machines differ, so that times in messages are by the clock of the broker.

A message in the broker has the times when it may start (`eta`) and when it expires (`expires`) by the broker's clock.
They are converted as it is sent and as it is received, and Celery sees them by the clock of its machine.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from time import monotonic, time
from typing import Any

from redis.exceptions import RedisError

MEASURED_SECONDS = 10.0  # until the difference of the clocks is measured again
TIMES = ("eta", "expires")  # headers with a time in ISO 8601
AHEAD_HEADER = "vector_index_broker_ahead"  # of a received message: seconds that the broker's clock is ahead


class BrokerClock:
    """The difference between the clocks of the broker and of this machine, measured at most once in 10 s."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._ahead_seconds = 0.0
        self._measured_at = float("-inf")

    def ahead_seconds(self) -> float:
        """Return how far the broker's clock is ahead. While the broker does not answer, the last known difference."""
        if monotonic() - self._measured_at > MEASURED_SECONDS:
            try:
                with self._channel.conn_or_acquire() as client:
                    began = time()
                    self._ahead_seconds = read(client) - (began + time()) / 2
                self._measured_at = monotonic()
            except RedisError:
                pass  # the command that the caller is about to send says so
        return self._ahead_seconds

    def sent(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the message as it is sent. The given one stays as it is: kombu sends it again after an error."""
        headers = message.get("headers") or {}
        if not any(headers.get(name) for name in TIMES):
            return message
        return message | {"headers": _shifted(headers, self.ahead_seconds())}

    def received(self, message: dict[str, Any]) -> None:
        """Convert the times of a message that was received, and add AHEAD_HEADER."""
        ahead = self.ahead_seconds()
        message["headers"] = _shifted(message.get("headers") or {}, -ahead) | {AHEAD_HEADER: ahead}


def read(client: Any) -> float:
    """Read the broker's clock, in seconds since 1970."""
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


def _shifted(headers: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Move the times of the headers. One that cannot be read stays as it is, for Celery to refuse."""
    moved = {}
    for name in TIMES:
        try:
            moved[name] = (datetime.fromisoformat(headers[name]) + timedelta(seconds=seconds)).isoformat()
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return {**headers, **moved}
