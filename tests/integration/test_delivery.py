"""Delivery of messages to workers: claimed in one step, and delivered again if the worker dies."""

import time
from collections.abc import Iterator
from datetime import date
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import redis
from kombu import Connection as StockConnection
from kombu import Consumer, Message, Queue

from tests.fixtures.system import eventually
from worker.celery import leases
from worker.celery.heartbeat import HeartbeatThread
from worker.celery.upstream import consuming
from worker.celery.upstream.channel import Connection
from worker.celery.upstream.payloads import MAX_LEVELS
from worker.documents import MAX_DIGITS, LongNumber

QUEUES = [Queue("first"), Queue("second")]


@pytest.fixture
def client(broker_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(broker_url) as client:
        yield client


@pytest.fixture
def connection(broker_url: str) -> Iterator[Connection]:
    with Connection(broker_url, transport_options={"visibility_timeout": 0}) as connection:
        yield connection


@pytest.fixture
def got() -> list[Any]:
    return []


@pytest.fixture
def consumer(connection: Connection, got: list[Any]) -> Iterator[Consumer]:
    """A consumer of both queues; it appends each body and its message to `got`."""

    def keep(body: Any, message: Message) -> None:
        got.append((body, message))

    with Consumer(connection.default_channel, QUEUES, callbacks=[keep], accept=["json"]) as consumer:
        yield consumer


def send(connection: Connection, body: Any, queue: str = "first", priority: int = 0) -> None:
    with connection.Producer() as producer:
        producer.publish(body, routing_key=queue, priority=priority, serializer="json")


def publish_once(broker_url: str, body: Any) -> None:
    """As docs/how-to/application.md does: the body is part of the message, and no JSON in a string of it."""
    options = {"body_encoding": "utf-8"}
    with StockConnection(broker_url, transport_options=options) as connection:
        once = {"content_type": "application/json", "content_encoding": "utf-8"}
        connection.Producer().publish(body, routing_key="first", **once)


def drain(connection: Connection, got: list[Any], number: int) -> list[Any]:
    """Wait for this many messages, and return the bodies of all so far."""
    while len(got) < number:
        connection.drain_events(timeout=10)
    return [body for body, _ in got]


def test_a_message_whose_claim_is_never_read_is_delivered_again(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis"
) -> None:
    send(connection, "a text — тест")
    lost = connection.default_channel
    lost.connection.cycle._register_BRPOP(lost)
    eventually(lambda: client.llen("first") == 0)
    assert client.hlen("unacked") == client.zcard("unacked_index") == 1
    lost.client.connection.disconnect()
    lost._in_poll = None

    lost.qos.restore_visible()
    assert client.hlen("unacked") == client.zcard("unacked_index") == 0
    assert drain(connection, got, 1) == ["a text — тест"]


def test_an_acknowledgement_covers_its_own_delivery_only(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis"
) -> None:
    """Else the second delivery would be lost if its worker dies."""
    send(connection, "x")
    drain(connection, got, 1)
    connection.default_channel.qos.restore_visible()
    drain(connection, got, 2)
    [(_, first), (_, second)] = got
    assert not first.headers.get("redelivered")
    assert second.headers["redelivered"]
    first.ack()
    assert client.hkeys("unacked") == client.zrange("unacked_index", 0, -1) == [second.delivery_tag.encode()]


@pytest.mark.parametrize(("leftmost", "order"), [(False, ["x", "other"]), (True, ["other", "x"])])
def test_a_message_returns_to_the_front_or_the_end_of_its_queue(
    connection: Connection, consumer: Consumer, got: list[Any], leftmost: bool, order: list[str]
) -> None:
    send(connection, "x", priority=3)
    drain(connection, got, 1)
    send(connection, "other", priority=3)
    [(_, message)] = got
    connection.default_channel.qos.restore_by_tag(message.delivery_tag, leftmost=leftmost)
    assert drain(connection, got, 3)[1:] == order


def test_a_held_message_is_recorded_once_until_it_is_acknowledged(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis"
) -> None:
    send(connection, {"a": 1})
    drain(connection, got, 1)
    [(_, message)] = got
    assert client.hkeys("unacked") == client.zrange("unacked_index", 0, -1) == [message.delivery_tag.encode()]
    message.ack()
    assert client.keys("unacked*") == []


def test_messages_come_by_priority_then_by_age_and_queues_take_turns(
    connection: Connection, consumer: Consumer, got: list[Any]
) -> None:
    for body in ("old", "new"):
        send(connection, body, "first")
    send(connection, "other", "second")
    send(connection, "late", "first", priority=9)
    bodies = drain(connection, got, 4)
    assert bodies[-1] == "late"  # in Redis 0 is the most urgent
    assert bodies.index("old") < bodies.index("new")
    assert bodies.index("other") < 2


@pytest.mark.parametrize("queue", ["first", "second"])
def test_a_new_message_wakes_a_waiting_worker(
    connection: Connection,
    consumer: Consumer,
    got: list[Any],
    client: "redis.Redis",
    monkeypatch: pytest.MonkeyPatch,
    queue: str,
) -> None:
    channel = connection.default_channel
    if queue == "first":  # the server waits for this one: only the message ends the wait
        monkeypatch.setattr(consuming, "TURN_SECONDS", 300.0)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.2)
    channel.connection.cycle._register_BRPOP(channel)  # sends the request
    send(connection, "x", queue)
    assert drain(connection, got, 1) == ["x"]
    assert client.llen(queue) == 0


def test_one_of_many_waiting_workers_gets_the_message(
    connection: Connection, consumer: Consumer, got: list[Any], broker_url: str
) -> None:
    others = [Connection(broker_url) for _ in range(5)]
    consumers = [Consumer(other.default_channel, QUEUES[:1], on_message=got.append) for other in others]
    for other, waiting in zip(others, consumers, strict=True):
        waiting.consume()
        other.default_channel.connection.cycle._register_BRPOP(other.default_channel)
    send(connection, "x")

    def look() -> list[Any]:
        for other in others:
            try:
                other.drain_events(timeout=0.01)
            except TimeoutError:
                continue
        return got

    eventually(look)
    for _ in range(3):
        look()
    assert len(got) == 1
    for other in others:
        other.close()


def test_a_claim_that_is_not_read_yet_is_renewed_and_released(
    connection: Connection,
    consumer: Consumer,
    client: "redis.Redis",
    broker_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits for a slot of the pool, perhaps for longer than the visibility timeout."""
    send(connection, "x")
    channel = connection.default_channel
    channel.connection.cycle._register_BRPOP(channel)
    eventually(lambda: client.llen("first") == 0)
    client.zadd("unacked_index", {channel.claim: 1})
    leases.renew(client, channel)
    assert client.zscore("unacked_index", channel.claim) > 1

    conf = {"broker_url": broker_url, "broker_transport_options": {}}
    holder = SimpleNamespace(app=SimpleNamespace(conf=conf), task_consumer=SimpleNamespace(channel=channel))
    monkeypatch.setattr(HeartbeatThread, "_consumer", holder)
    HeartbeatThread.release_in_flight()
    assert client.llen("first") == 1
    assert client.keys("unacked*") == []


def test_a_body_that_was_written_with_its_message_is_read_and_delivered_again(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis", broker_url: str
) -> None:
    values = [UUID(int=7), date(1994, 2, 14), {"__type__": "Point", "__value__": [1]}]
    document = {"id": 1, "text": 'Zoë \\ "quoted" \U0001f600\n', "metadata": {"values": values}}
    publish_once(broker_url, ([], {"documents": [document, {"id": 10**MAX_DIGITS}]}, {"chain": None}))
    [sent] = client.lrange("first", 0, -1)
    read = [[], {"documents": [document, {"id": LongNumber(MAX_DIGITS + 1)}]}, {"chain": None}]
    assert drain(connection, got, 1) == [read]
    connection.default_channel.qos.restore_visible()
    assert drain(connection, got, 2) == [read, read]
    assert got[0][1].size_bytes == len(sent)


def test_a_body_that_was_written_with_its_message_has_no_more_levels_than_a_pool_of_processes_takes(
    connection: Connection, consumer: Consumer, got: list[Any], broker_url: str
) -> None:
    nested: Any = "words"
    for _ in range(500):
        nested = [nested]
    publish_once(broker_url, ([nested], {}, {}))
    [body] = drain(connection, got, 1)
    levels, found = 0, body[0]
    while isinstance(found, list):
        levels, found = levels + 1, found[0]
    assert found is None
    assert levels <= MAX_LEVELS


@pytest.mark.parametrize(
    "garbage",
    [
        "no JSON",
        "7",
        "{}",
        '{"properties": {"delivery_tag": "x"}}',
        '{"properties": {"delivery_tag": "x", "body_encoding": "?"}, "body": "a"}',
    ],
)
def test_an_unreadable_message_is_dropped(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis", garbage: str
) -> None:
    """It could not be restored either: one worker after the other would end."""
    client.lpush("first", garbage)
    send(connection, "x")
    assert drain(connection, got, 1) == ["x"]
    [(_, message)] = got
    message.ack()
    assert client.keys("unacked*") == []


@pytest.mark.parametrize(
    "garbage",
    [
        '[no JSON secret,"","first"]',
        "7",
        '["secret"]',
        '[null,"","first"]',
        '[{"secret": 1},"","first"]',
        '[{"properties": {"delivery_tag": "secret", "delivery_info": []}},"","first"]',
    ],
)
def test_an_unreadable_entry_of_a_dead_worker_is_dropped_and_others_are_restored(
    connection: Connection,
    consumer: Consumer,
    got: list[Any],
    client: "redis.Redis",
    garbage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    send(connection, "x")
    drain(connection, got, 1)
    for tag, age in (("older", 2), ("newer", 0)):  # than the message
        client.hset("unacked", tag, garbage)
        client.zadd("unacked_index", {tag: time.time() - age})
    connection.default_channel.qos.restore_visible()
    assert client.keys("unacked*") == []
    assert drain(connection, got, 2) == ["x", "x"]
    said = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.getMessage() for record in said] == ["message_unreadable"] * 2
    assert "secret" not in str([vars(record) for record in said])


def test_a_refused_claim_leaves_no_answer_for_the_next_one(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis"
) -> None:
    """If an access rule forbids BLMOVE, the claim behind it still takes a message."""
    client.set("first", "no list")
    with pytest.raises(redis.ResponseError):
        connection.drain_events(timeout=10)
    client.delete("first")
    send(connection, "x")
    assert drain(connection, got, 1) == ["x"]


def test_a_global_key_prefix_is_part_of_every_key(
    broker_url: str, got: list[Any], client: "redis.Redis"
) -> None:
    """From the queue to the lease, its renewal, its return and the acknowledgement."""

    def keep(body: Any, message: Message) -> None:
        got.append((body, message))

    options = {"visibility_timeout": 0, "global_keyprefix": "ours:"}
    with (
        Connection(broker_url, transport_options=options) as connection,
        Consumer(connection.default_channel, QUEUES, callbacks=[keep], accept=["json"]),
    ):
        channel = connection.default_channel
        channel.is_full = True  # so that it waits in both ways
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.2)
        send(connection, "x", "first")
        assert drain(connection, got, 1) == ["x"]
        [tag] = client.zrange("ours:unacked_index", 0, -1)
        client.zadd("ours:unacked_index", {tag: 1})
        conf = {"broker_url": broker_url, "broker_transport_options": options}
        with leases.connect(SimpleNamespace(conf=conf)) as heartbeat:
            leases.renew(heartbeat, channel)
            assert client.zscore("ours:unacked_index", tag) > 1
            leases.release(heartbeat, channel)
        assert client.llen("ours:first") == 1
        assert drain(connection, got, 2) == ["x", "x"]
        channel.qos.restore_visible()
        assert drain(connection, got, 3) == ["x", "x", "x"]
        got[-1][1].ack()
        assert client.keys("ours:unacked*") == []
    assert [key for key in client.keys("*") if not key.startswith(b"ours:")] == []
