"""Queue lengths: the number of messages that wait in the broker."""

from collections.abc import Sequence

import redis
from kombu.transport.redis import PRIORITY_STEPS, Channel

from worker.configuration.addresses import redis_url
from worker.errors import ServiceUnreachable

TIMEOUT_SECONDS = 5


def queue_lengths(url: str, queues: Sequence[str]) -> dict[str, int]:
    """Count the waiting messages of each queue, over all priorities.

    Raises ServiceUnreachable within 5 seconds.
    """
    try:
        with redis.Redis.from_url(
            redis_url(url), socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
        ) as client:
            return {queue: sum(client.llen(key) for key in _keys(queue)) for queue in queues}
    except redis.RedisError as error:
        raise ServiceUnreachable(f"the broker does not answer: {error}") from error


def _keys(queue: str) -> list[str]:
    """One list per priority step, named as kombu does."""
    return [f"{queue}{Channel.sep}{step}" if step else queue for step in PRIORITY_STEPS]
