"""Leases: how long a worker keeps the messages that it holds, and how it returns them early.

Redis stores for each unacknowledged message when its lease was last renewed. Any worker redelivers a message whose
lease is older than VISIBILITY_TIMEOUT_SECONDS (`upstream/redelivery.py`).
"""

from contextlib import suppress
from typing import Any

import redis
from kombu.transport.redis import PrefixedStrictRedis

from worker.celery.upstream import scripts
from worker.configuration.addresses import redis_url

VISIBILITY_TIMEOUT_SECONDS = 60  # without renewal, until other workers redeliver a message
RESTORE_SECONDS = 10  # between two searches for expired leases
TIMEOUT_SECONDS = 5  # of a command

# KEYS: the sorted set of unacknowledged messages. ARGV: delivery tags. Leases are by the clock of the broker.
RENEW = (
    scripts.PAST_LIMIT
    + """
local now = redis.call('TIME')[1]
for at = 1, #ARGV do
    redis.call('ZADD', KEYS[1], 'XX', now, ARGV[at])
end
"""
)


def connect(app: Any) -> "redis.Redis":
    """Connect to the broker with short timeouts, independently of kombu's connections.

    The attributes of Celery's configuration are not used: CELERY_BROKER_URL of the environment changes them.
    """
    pool = redis.ConnectionPool.from_url(
        redis_url(app.conf["broker_url"]),
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
    )
    prefix = app.conf["broker_transport_options"].get("global_keyprefix", "")
    return PrefixedStrictRedis(connection_pool=pool, global_keyprefix=prefix)  # type: ignore[no-untyped-call]


def held(channel: Any) -> list[str]:
    """List the delivery tags of the messages that this worker holds.

    kombu forgets acknowledged messages only when it asks for the next one.
    """
    return [tag for tag in list(channel.qos._delivered) if tag not in channel.qos._dirty]


def renew(client: "redis.Redis", channel: Any) -> None:
    """Renew the leases of this worker; a message that was returned meanwhile stays returned."""
    if tags := _leased(channel):
        scripts.run(client, RENEW, [channel.unacked_index_key], *tags)


def release(client: "redis.Redis", channel: Any) -> None:
    """Return everything that this worker holds to the front of its queues, for other workers to take at once."""
    for tag in _leased(channel):
        with suppress(redis.RedisError):  # its lease expires
            channel.qos.restore_by_tag(tag, client)


def _leased(channel: Any) -> list[str]:
    """Include the message of the current request: it waits in the socket until a slot of the pool is free."""
    return [*held(channel), *([channel.claim] if channel._in_poll else [])]
