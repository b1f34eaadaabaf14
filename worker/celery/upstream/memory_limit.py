"""Writes that pass a broker over its memory limit (`maxmemory` with `noeviction`), so that its queues can drain.

Such a broker refuses every command that takes memory: a task could store no result and send no successor, and Celery
5.7 would still acknowledge the message. These writes pass, because the message in hand goes in their place. All other
messages are refused, as those of every sender.

Redis 6.2 and 7.0 then refuse every transaction, whatever is in it, so the client sends its commands one by one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from kombu.transport.redis import PrefixedStrictRedis
from kombu.utils.json import dumps
from redis import Redis

from worker.celery.upstream.scripts import run_past_limit

_past_limit: ContextVar[bool] = ContextVar("past_limit", default=False)


@contextmanager
def past_memory_limit() -> Iterator[None]:
    """Let the messages that are sent inside pass: successors of the message in hand."""
    token = _past_limit.set(True)
    try:
        yield
    finally:
        _past_limit.reset(token)


class NonTransactional(Redis):
    """A client whose pipelines run without a transaction, unless its caller asks for one."""

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> Any:
        return super().pipeline(transaction, shard_hint)


class PrefixedNonTransactional(PrefixedStrictRedis):
    """The same, for the transport option `global_keyprefix`."""

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> Any:
        return super().pipeline(transaction, shard_hint)  # type: ignore[no-untyped-call]


def put_past_limit(channel: Any, queue: str, message: Any) -> bool:
    """Send a successor, and renew the expiry of its queue as kombu does. Returns False for any other message."""
    if not _past_limit.get():
        return False
    priority = channel._get_message_priority(message, reverse=False)
    with channel.conn_or_acquire() as client:
        run_past_limit(client, "LPUSH", channel._q_for_pri(queue, priority), dumps(message))  # type: ignore[no-untyped-call]
        channel._maybe_update_queues_expire(client, queue)
    return True


def bind_past_limit(channel: Any, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
    """Record a queue without expiry in the binding table of its exchange: a worker does so as it starts."""
    member = channel.sep.join([routing_key or "", pattern or "", queue or ""])
    with channel.conn_or_acquire() as client:
        for key in (channel.keyprefix_queue, channel.keyprefix_binding_permanent):
            run_past_limit(client, "SADD", key % (exchange,), member)
