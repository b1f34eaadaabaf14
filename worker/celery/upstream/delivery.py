"""How a worker takes messages off its queues and gives them back, so that none is lost: a mend for kombu 5.7 on Redis.

kombu takes a message with BRPOP, and only then notes it as not acknowledged. When the connection ends in between, as
it does when the broker is restarted, or the worker dies, nobody has the message: one in 10 restarts under load lost
one. Here the server moves it in one step, and notes it under a number of this look, which is its delivery tag from
then on: a copy that is delivered again has another one, so that who has it acknowledges that copy only.

A message goes back in one step, too, by whoever is first: no lock that a killed worker leaves behind. Both steps begin
with a command that gives memory back: a server that is full (`maxmemory`, `noeviction`) lets such a script go on.
"""

import json
import logging
from collections.abc import Sequence
from queue import Empty
from time import monotonic, time
from typing import Any, cast
from uuid import uuid4

from kombu.transport import virtual
from kombu.transport.redis import Channel, QoS
from kombu.utils.json import dumps, loads
from redis.exceptions import OutOfMemoryError

from worker.keyspace import NOTHING
from worker.observability.logs import log_fields

WAIT_SECONDS = 1.0  # of the server, for a message in an empty queue
TURN_SECONDS = 0.05  # the same for each of several queues in turn: it can wait for one only

logger = logging.getLogger("vector_index.broker")

# KEYS: the lists to look at, in this order, then the hash and the sorted set of messages that are not acknowledged.
# ARGV: the number of this look, the time in seconds, and the queue of each list as JSON.
TAKE = """
for at = 1, #KEYS - 2 do
    local message = redis.call('RPOP', KEYS[at])
    if message then
        redis.call('HSET', KEYS[#KEYS - 1], ARGV[1], '[' .. message .. ',"",' .. ARGV[at + 2] .. ']')
        redis.call('ZADD', KEYS[#KEYS], ARGV[2], ARGV[1])
        return {ARGV[at + 2], message}
    end
end
return false
"""


# KEYS: the hash and the sorted set of messages that are not acknowledged, then the lists that get the message.
# ARGV: the delivery tag, LPUSH or RPUSH, and the message.
GIVE_BACK = """
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
    for at = 3, #KEYS do
        redis.call(ARGV[2], KEYS[at], ARGV[3])
    end
end
"""

UNREADABLE = (AttributeError, LookupError, TypeError, ValueError)  # what kombu did not send


def take_whole() -> None:
    """Let all channels to the broker take messages, and give them back, in one step."""
    Channel._brpop_start = start  # type: ignore[method-assign]
    Channel._brpop_read = read  # type: ignore[assignment, method-assign]
    Channel.QoS = InHand


class InHand(QoS):
    """The messages that a channel has taken and not acknowledged."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Keep a message. The look that found it has noted it in the broker."""
        if delivery_tag == getattr(self.channel, "look", None):
            virtual.QoS.append(self, message, delivery_tag)  # type: ignore[no-untyped-call]
        else:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        # kombu does it the other way round: cut off in between it leaves a note that nobody ever looks at
        with self.pipe_or_acquire(pipe) as commands:
            return commands.hdel(self.unacked_key, delivery_tag).zrem(self.unacked_index_key, delivery_tag)

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:
        """Give back what nobody has renewed for the visibility timeout: its worker is dead."""
        with self.channel.conn_or_acquire() as client:
            until = time() - self.visibility_timeout
            for tag in client.zrange(self.unacked_index_key, until, 0, desc=True, byscore=True):
                self.restore_by_tag(tag, client)

    def restore_by_tag(self, tag: str | bytes, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back into its queue, in front, or (`leftmost`) at the end. One that is no message goes."""
        channel = self.channel
        with channel.conn_or_acquire(client) as connected:
            note = connected.hget(self.unacked_key, tag)
            try:
                lists, message = _destination(channel, note) if note else ([], "")
            except UNREADABLE as error:  # it would come back for ever, and hold up what is behind it
                _tell_unreadable(note, error)
                lists, message = [], ""
            push = "LPUSH" if leftmost else "RPUSH"
            keys = [self.unacked_key, self.unacked_index_key, *lists]
            connected.eval(GIVE_BACK, len(keys), *keys, tag, push, message)


def start(channel: Any, timeout: float | None = None) -> None:
    """Ask for a message. After a look that found none, the server waits before it looks."""
    queues = channel._queue_cycle.consume(len(channel.active_queues))
    if not queues:
        return
    lists = [
        (channel._q_for_pri(queue, step), json.dumps(queue))
        for step in channel.priority_steps
        for queue in queues
    ]
    channel.look = str(uuid4())
    keys = [*(key for key, _ in lists), channel.unacked_key, channel.unacked_index_key]
    take = ["EVAL", TAKE, len(keys), *keys, channel.look, time(), *(queue for _, queue in lists)]
    waits = _waits(channel, queues) if getattr(channel, "found_none", True) else []
    channel.asked = [*waits, take]
    channel._in_poll = connection = channel.client.connection
    channel._brpop_sent_at = monotonic()
    connection.send_packed_command(connection.pack_commands(channel.asked))


def _waits(channel: Any, queues: Sequence[str]) -> list[list[Any]]:
    seconds = WAIT_SECONDS if len(queues) == 1 else TURN_SECONDS
    # from its end to its end: nothing moves, and whoever waits for the list is woken
    waits: list[list[Any]] = [["BLMOVE", queues[0], queues[0], "RIGHT", "RIGHT", seconds]]
    if getattr(
        channel, "is_full", False
    ):  # which refuses it at once; this one it allows, and nothing wakes it
        waits.append(["BRPOP", NOTHING, WAIT_SECONDS])
    return waits


def read(channel: Any, **options: Any) -> bool:
    """Hand the message that was found on. Raises Empty where there is none, and errors of the connection."""
    connection = channel.client.connection
    try:
        found = [_answer(channel, name, **options) for name, *_ in channel.asked][-1]
    except (*channel.connection_errors, channel.ResponseError):
        connection.disconnect()  # the next look connects again, and finds no answer to this one
        raise
    finally:
        channel._in_poll = None
        channel._flush_brpop_reauth()  # as kombu does: the connection is idle now
    channel.found_none = found is None
    if found is None:
        raise Empty
    queue, look = json.loads(found[0]), channel.look
    try:
        message = _readable(channel, loads(found[1]))  # type: ignore[no-untyped-call]
        message["properties"]["delivery_tag"] = look
    except UNREADABLE as error:
        channel.qos._remove_from_indices(look).execute()
        _tell_unreadable(found[1], error, queue=queue)
        raise Empty from error
    channel._queue_cycle.rotate(queue)
    channel.connection._deliver(message, queue)
    if look not in channel.qos._delivered:  # its consumer wants no acknowledgement
        channel.qos._remove_from_indices(look).execute()
    return True


def _answer(channel: Any, name: str, **options: Any) -> Any:
    """The next answer of the server; None where it is too full for this way to wait."""
    was_full = getattr(channel, "is_full", False)
    try:
        answer = channel.client.parse_response(channel.client.connection, name, **options)
    except OutOfMemoryError as error:
        if name != "BLMOVE":
            raise
        channel.is_full, answer = True, None
        if not was_full:
            mend = "raise the broker's maxmemory, or remove what else it holds"
            logger.error("broker_full", extra=log_fields(error=str(error), mend=mend))
    else:
        if name == "BLMOVE" and was_full:
            channel.is_full = False
            logger.info("broker_has_room")
    return answer


def _readable(channel: Any, message: Any) -> dict[str, Any]:
    """A message as kombu sends it. Raises one of UNREADABLE for anything else."""
    delivery = channel.Message(message, channel=channel).delivery_info
    _ = delivery["exchange"], delivery["routing_key"]
    return cast("dict[str, Any]", message)


def _destination(channel: Any, note: bytes) -> tuple[list[str], str]:
    """The lists that a noted message goes back to, and the message. Raises one of UNREADABLE."""
    message, exchange, routing_key = loads(note)  # type: ignore[no-untyped-call]
    _readable(channel, message).setdefault("headers", {})["redelivered"] = True
    message["properties"]["delivery_info"]["redelivered"] = True
    priority = channel._get_message_priority(message, reverse=False)
    queues = channel._lookup(exchange, routing_key)
    return [channel._q_for_pri(queue, priority) for queue in queues], dumps(message)  # type: ignore[no-untyped-call]


def _tell_unreadable(raw: bytes, error: Exception, **fields: str) -> None:
    said = log_fields(bytes=len(raw), error=type(error).__name__, mend="see who sends it", **fields)
    logger.error("message_unreadable", extra=said)
