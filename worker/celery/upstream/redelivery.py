"""Redelivery: the messages that workers hold, and the return of those of dead workers to their queues.

A message returns in one atomic step, by whichever worker is first. kombu guards this search with a lock, which a
killed worker leaves behind for five minutes. The script begins with a command that frees memory, so that it also
runs on a broker over its memory limit.
"""

from collections.abc import Sequence
from typing import Any

from kombu.transport import virtual
from kombu.transport.redis import QoS
from kombu.utils.json import dumps

from worker.celery.upstream import broker_clock, payloads, scripts, unreadable

# KEYS: the hash and the sorted set of unacknowledged messages, then the lists that get the message.
# ARGV: the delivery tag, LPUSH or RPUSH, and the message.
RETURN_TO_QUEUE = """
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
    for at = 3, #KEYS do
        redis.call(ARGV[2], KEYS[at], ARGV[3])
    end
end
"""


class UnackedMessages(QoS):
    """The messages that a channel has taken and has yet to acknowledge."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Hold a message. The script that took it from its queue has recorded it in the broker already."""
        if delivery_tag == getattr(self.channel, "claim", None):
            virtual.QoS.append(self, message, delivery_tag)  # type: ignore[no-untyped-call]
        else:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        # kombu removes from the index first: if it is cut off in between, the hash keeps an entry for ever
        with self.pipe_or_acquire(pipe) as commands:
            return commands.hdel(self.unacked_key, delivery_tag).zrem(self.unacked_index_key, delivery_tag)

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:
        """Return every message whose lease has expired: its worker is dead."""
        with self.channel.conn_or_acquire() as client:
            until = broker_clock.read(client) - self.visibility_timeout
            for tag in client.zrange(self.unacked_index_key, until, 0, desc=True, byscore=True):
                self.restore_by_tag(tag, client)

    def restore_by_tag(self, tag: str | bytes, client: Any = None, leftmost: bool = False) -> None:
        """Return a message to the front of its queue, or (`leftmost`) to the end. Drop an unreadable one."""
        channel = self.channel
        with channel.conn_or_acquire(client) as connected:
            entry = connected.hget(self.unacked_key, tag)
            try:
                lists, message = _destination(channel, entry) if entry else ([], "")
            except unreadable.UNREADABLE as error:  # else it would come back for ever, and block the others
                unreadable.log(entry, error)
                lists, message = [], ""
            push = "LPUSH" if leftmost else "RPUSH"
            keys = [self.unacked_key, self.unacked_index_key, *lists]
            scripts.run(connected, RETURN_TO_QUEUE, keys, tag, push, message)


def acknowledge(messages: Sequence[Any]) -> None:
    """Acknowledge messages of one channel, in one transmission. Raises an error of the connection."""
    if messages:
        held = messages[0].channel.qos
        try:
            with held.pipe_or_acquire() as commands:
                for message in messages:
                    held._remove_from_indices(message.delivery_tag, commands)
                commands.execute()
        finally:  # else their leases would be renewed, and nobody would get them again
            _forget(held, messages)


def return_to_front(messages: Sequence[Any]) -> None:
    """Return messages of one channel to the front of their queues, in their order. Raises as `acknowledge` does."""
    if messages:
        held = messages[0].channel.qos
        try:
            for message in reversed(messages):
                held.restore_by_tag(message.delivery_tag)
        finally:
            _forget(held, messages)


def _forget(held: Any, messages: Sequence[Any]) -> None:
    for message in messages:
        virtual.QoS.ack(held, message.delivery_tag)  # type: ignore[no-untyped-call]


def _destination(channel: Any, entry: bytes) -> tuple[list[str], str]:
    """Read the lists that a message returns to, and the message. Raises one of UNREADABLE."""
    message, exchange, routing_key = payloads.read(entry)
    unreadable.check(channel, message).setdefault("headers", {})["redelivered"] = True
    message["properties"]["delivery_info"]["redelivered"] = True
    priority = channel._get_message_priority(message, reverse=False)
    queues = channel._lookup(exchange, routing_key)
    return [channel._q_for_pri(queue, priority) for queue in queues], dumps(message)  # type: ignore[no-untyped-call]
