"""How a worker takes messages off its queues, so that none is lost on the way: a mend for kombu 5.7 on Redis.

kombu takes a message with BRPOP, and only then notes it as not acknowledged. When the connection ends in between, as
it does when the broker is restarted, or the worker dies, nobody has the message: one in 10 restarts under load lost
one. Here the server moves it in one step, under a number of this look; once kombu has noted it under its own, the
note of the look goes. One that stays is a message on its way to nobody: it is delivered again, as every message that
was not acknowledged in time.
"""

import json
import logging
from queue import Empty
from time import monotonic, time
from typing import Any
from uuid import uuid4

from kombu.transport.redis import Channel
from kombu.utils.json import loads

from worker.logs import keys as log_keys

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


def take_whole() -> None:
    """Let all channels to the broker take messages in one step."""
    Channel._brpop_start = start  # type: ignore[method-assign]
    Channel._brpop_read = read  # type: ignore[assignment, method-assign]


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
    seconds = WAIT_SECONDS if len(queues) == 1 else TURN_SECONDS
    # from its end to its end: nothing moves, and whoever waits for the list is woken
    wait = ["BLMOVE", queues[0], queues[0], "RIGHT", "RIGHT", seconds]
    channel.asked = [wait, take] if getattr(channel, "found_none", True) else [take]
    channel._in_poll = connection = channel.client.connection
    channel._brpop_sent_at = monotonic()
    connection.send_packed_command(connection.pack_commands(channel.asked))


def read(channel: Any, **options: Any) -> bool:
    """Hand the message that was found on. Raises Empty where there is none, and errors of the connection."""
    connection = channel.client.connection
    try:
        found = [channel.client.parse_response(connection, name, **options) for name, *_ in channel.asked][-1]
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
        message = _message(channel, found[1])
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # its note must not stay: to restore it would end each worker, one after the other
        channel.qos._remove_from_indices(look).execute()
        said = log_keys(queue=queue, bytes=len(found[1]), error=type(error).__name__, mend="see who sends it")
        logger.error("message_unreadable", extra=said)
        raise Empty from error
    channel._queue_cycle.rotate(queue)
    channel.connection._deliver(message, queue)
    channel.qos._remove_from_indices(look).execute()
    return True


def _message(channel: Any, raw: bytes) -> dict[str, Any]:
    """What kombu delivers. Raises AttributeError, LookupError, TypeError, ValueError for what kombu did not send."""
    message: dict[str, Any] = loads(raw)  # type: ignore[no-untyped-call]
    delivery = channel.Message(message, channel=channel).delivery_info
    _ = delivery["exchange"], delivery["routing_key"]  # its note is made of them
    return message
