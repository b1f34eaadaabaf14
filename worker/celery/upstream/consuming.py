"""Consuming: take a message from a queue and record it as unacknowledged, in one atomic step.

kombu takes a message with BRPOP and records it afterwards. If the connection or the worker dies in between, the
message is lost: one in 10 restarts of the broker under load lost one. Here a script does both. The id of the claim
becomes the delivery tag, so each delivery of a message has its own: an acknowledgement of the first delivery leaves
the second one alone.

The script begins with a command that frees memory, so that it also runs on a broker over its memory limit.
"""

import json
import logging
from collections.abc import Sequence
from queue import Empty
from time import monotonic
from typing import Any
from uuid import uuid4

from redis.exceptions import OutOfMemoryError

from worker.celery.upstream import payloads, unreadable
from worker.keyspace import NOTHING
from worker.observability.logs import log_fields

WAIT_SECONDS = 1.0  # that the server waits for a message in an empty queue
TURN_SECONDS = 0.05  # the same if there are several queues: a command can wait for one only

logger = logging.getLogger("vector_index.broker")

# KEYS: the lists to look at, in this order, then the hash and the sorted set of unacknowledged messages.
# ARGV: the id of the claim, and the queue of each list as JSON. Leases are by the clock of the broker.
CLAIM = """
for at = 1, #KEYS - 2 do
    local message = redis.call('RPOP', KEYS[at])
    if message then
        redis.call('HSET', KEYS[#KEYS - 1], ARGV[1], '[' .. message .. ',"",' .. ARGV[at + 1] .. ']')
        redis.call('ZADD', KEYS[#KEYS], redis.call('TIME')[1], ARGV[1])
        return {ARGV[at + 1], message}
    end
end
return false
"""


def start_claim(channel: Any, timeout: float | None = None) -> None:
    """Ask for a message. After a claim that found none, the server waits before it looks."""
    queues = channel._queue_cycle.consume(len(channel.active_queues))
    if not queues:
        return
    lists = [
        (channel._q_for_pri(queue, step), json.dumps(queue))
        for step in channel.priority_steps
        for queue in queues
    ]
    channel.claim = str(uuid4())
    # the commands go out without kombu's client, which would add the prefix
    prefix = channel.global_keyprefix
    keys = [
        prefix + key for key in (*(key for key, _ in lists), channel.unacked_key, channel.unacked_index_key)
    ]
    claim = ["EVAL", CLAIM, len(keys), *keys, channel.claim, *(queue for _, queue in lists)]
    waits = _waits(channel, prefix, queues) if channel.found_none else []
    channel.asked = [*waits, claim]
    channel._in_poll = connection = channel.client.connection
    channel._brpop_sent_at = monotonic()
    connection.send_packed_command(connection.pack_commands(channel.asked))


def _waits(channel: Any, prefix: str, queues: Sequence[str]) -> list[list[Any]]:
    seconds = WAIT_SECONDS if len(queues) == 1 else TURN_SECONDS
    first = prefix + queues[0]
    # From the end of a list to its own end: nothing moves, and a new message wakes whoever waits.
    waits: list[list[Any]] = [["BLMOVE", first, first, "RIGHT", "RIGHT", seconds]]
    if channel.is_full:
        # A full broker refuses BLMOVE at once. It allows this command, and nothing wakes it.
        waits.append(["BRPOP", prefix + NOTHING, WAIT_SECONDS])
    return waits


def read_claim(channel: Any, **options: Any) -> bool:
    """Deliver the message that was found. Raises Empty if there is none, and errors of the connection."""
    connection = channel.client.connection
    try:
        found = [_answer(channel, name, **options) for name, *_ in channel.asked][-1]
    except (*channel.connection_errors, channel.ResponseError):
        connection.disconnect()  # the next claim must not read the answers of this one
        raise
    finally:
        channel._in_poll = None
        channel._flush_brpop_reauth()  # as kombu does: the connection is idle now
    channel.found_none = found is None
    if found is None:
        raise Empty
    queue, claim = json.loads(found[0]), channel.claim
    try:
        message = unreadable.check(channel, payloads.read(found[1]))
        message["properties"]["delivery_tag"] = claim
        message["size_bytes"] = len(found[1])
        channel.broker_clock.received(message)
    except unreadable.UNREADABLE as error:
        channel.qos._remove_from_indices(claim).execute()
        unreadable.log(found[1], error, queue=queue)
        raise Empty from error
    channel._queue_cycle.rotate(queue)
    channel.connection._deliver(message, queue)
    if claim not in channel.qos._delivered:  # its consumer needs no acknowledgement
        channel.qos._remove_from_indices(claim).execute()
    return True


def _answer(channel: Any, name: str, **options: Any) -> Any:
    """Read the next answer. A BLMOVE that is refused for lack of memory counts as `None`."""
    was_full = channel.is_full
    try:
        answer = channel.client.parse_response(channel.client.connection, name, **options)
    except OutOfMemoryError as error:
        if name != "BLMOVE":
            raise
        channel.is_full, answer = True, None
        if not was_full:
            fix = "raise the broker's maxmemory, or remove what else it holds"
            logger.error("broker_full", extra=log_fields(error=str(error), fix=fix))
    else:
        if name == "BLMOVE" and was_full:
            channel.is_full = False
            logger.info("broker_has_room")
    return answer
