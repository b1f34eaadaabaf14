"""What a worker still writes where the broker is full (`maxmemory` with `noeviction`), so that it can be emptied.

Redis refuses all that takes memory: a task could neither tell its result nor become the next one, and Celery 5.7 would
acknowledge it without having run it. Whatever takes the place of a message in hand may pass, as that message goes: no
more than what had been accepted before. Other messages are refused, as those of every sender. Redis 6.2 and 7.0 refuse
every command of a transaction there, so kombu has none: it reads, binds and acknowledges by the command.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from celery.backends.redis import RedisBackend
from kombu.transport import redis as transport
from kombu.transport.redis import Channel
from kombu.utils.json import dumps
from redis import Redis
from redis.exceptions import OutOfMemoryError

from worker.keyspace import NOTHING

# A script that has begun with a command that needs no memory is let go on
BEGIN = f"redis.call('DEL', '{NOTHING}')\n"
PAST_LIMIT = BEGIN + "return redis.call(unpack(ARGV))"

_in_place: ContextVar[bool] = ContextVar("in_place", default=False)


@contextmanager
def in_place() -> Iterator[None]:
    """Around what sends the successor of the message in hand."""
    token = _in_place.set(True)
    try:
        yield
    finally:
        _in_place.reset(token)


def insist(client: Any, *command: Any) -> None:
    """Run a command, though the server be full."""
    client.eval(PAST_LIMIT, 0, *command)


class CommandByCommand(Redis):
    """Whose pipelines are no transactions."""

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> Any:
        return super().pipeline(transaction, shard_hint)


def guard_full() -> None:
    """Let results, successors, and the names of the queues that a worker writes as it starts pass."""
    Channel._get_client = lambda channel: CommandByCommand  # type: ignore[method-assign]
    _let_pass(RedisBackend, "_set", _keep)
    _let_pass(Channel, "_put", _put)
    _let_pass(Channel, "_queue_bind", _bind)
    if not transport.REFRESH_BINDING.startswith(BEGIN):  # of queues that expire
        transport.REFRESH_BINDING = BEGIN + transport.REFRESH_BINDING


def _let_pass(cls: Any, name: str, insisting: Any) -> None:
    original = getattr(cls, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        except OutOfMemoryError:
            if not insisting(self, *args, **kwargs):
                raise

    if not hasattr(original, "guarded"):
        method.guarded = True  # type: ignore[attr-defined]
        setattr(cls, name, method)


def _keep(backend: Any, key: Any, value: Any, expires: float | None = None) -> bool:
    """A result, and who waits for it is told."""
    seconds = backend.expires if expires is None else expires
    insist(backend.client, "SET", key, value, *(["EX", int(seconds)] if seconds else []))
    backend.client.publish(key, value)
    return True


def _put(channel: Any, queue: str, message: Any, **_: Any) -> bool:
    if not _in_place.get():
        return False
    priority = channel._get_message_priority(message, reverse=False)
    with channel.conn_or_acquire() as client:
        insist(client, "LPUSH", channel._q_for_pri(queue, priority), dumps(message))  # type: ignore[no-untyped-call]
    return True


def _bind(channel: Any, exchange: str, routing_key: str, pattern: str, queue: str) -> bool:
    member = channel.sep.join([routing_key or "", pattern or "", queue or ""])
    with channel.conn_or_acquire() as client:
        for key in (channel.keyprefix_queue, channel.keyprefix_binding_permanent):
            insist(client, "SADD", key % (exchange,), member)
    return True
