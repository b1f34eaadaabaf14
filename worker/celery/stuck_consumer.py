"""Detection of a stuck consumer: connected to the broker, idle, and leaving the waiting messages there."""

from typing import Any

import redis
from celery.worker import state

STUCK_HEARTBEATS = 9  # longer than kombu needs to notice that its connection is dead


class StuckConsumerDetector:
    """Counts heartbeats at which messages wait and this worker takes none.

    A worker that is busy, disconnected, suspended or shutting down is not stuck. Heartbeats are counted, not
    seconds: a process that was suspended for an hour has had one.

    Known upstream: https://github.com/celery/celery/issues/8030, 8091, 10205, 10302.
    """

    def __init__(self) -> None:
        self._idle_heartbeats = 0
        self._received = 0  # messages since the start of the process

    def reset(self) -> None:
        self._idle_heartbeats = 0

    def is_stuck(self, client: "redis.Redis", task_consumer: Any, *, holds_messages: bool) -> bool:
        """Count this heartbeat. Raises redis.RedisError."""
        received, before = state.all_total_count[0], self._received
        self._received = received
        shutting_down = not {state.should_stop, state.should_terminate} <= {None, False}
        idle = not holds_messages and received == before and not shutting_down
        self._idle_heartbeats = (
            self._idle_heartbeats + 1 if idle and _messages_wait(client, task_consumer) else 0
        )
        return self._idle_heartbeats >= STUCK_HEARTBEATS


def _messages_wait(client: "redis.Redis", task_consumer: Any) -> bool:
    channel = task_consumer.channel
    return any(
        client.llen(channel._q_for_pri(queue.name, priority))
        for queue in task_consumer.queues
        for priority in channel.priority_steps
    )
