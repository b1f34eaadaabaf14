"""Messages on their way from the broker to a worker: taken in one step, delivered again where the way ends."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Message, Queue
from kombu.transport.redis import Channel, Mutex

from tests.fixtures.system import eventually
from worker.celery import broker
from worker.celery.upstream import delivery

QUEUES = [Queue("first"), Queue("second")]


@pytest.fixture
def client(broker_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(broker_url) as client:
        yield client


@pytest.fixture
def connection(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    monkeypatch.setattr(Channel, "_brpop_start", delivery.start)
    monkeypatch.setattr(Channel, "_brpop_read", delivery.read)
    monkeypatch.setattr(Channel, "QoS", delivery.InHand)
    monkeypatch.setattr(Channel, "QoS", delivery.InHand)
    with Connection(broker_url, transport_options={"visibility_timeout": 0}) as connection:
        yield connection


@pytest.fixture
def got() -> list[Any]:
    return []


@pytest.fixture
def consumer(connection: Connection, got: list[Any]) -> Iterator[Consumer]:
    """Of both queues; what comes is kept in `got`, each body behind its message."""

    def keep(body: Any, message: Message) -> None:
        got.append((body, message))

    with Consumer(connection.default_channel, QUEUES, callbacks=[keep], accept=["json"]) as consumer:
        yield consumer


def send(connection: Connection, body: Any, queue: str = "first", priority: int = 0) -> None:
    with connection.Producer() as producer:
        producer.publish(body, routing_key=queue, priority=priority, serializer="json")


def drain(connection: Connection, got: list[Any], number: int) -> list[Any]:
    """The bodies of the messages so far, once there are so many."""
    while len(got) < number:
        connection.drain_events(timeout=10)
    return [body for body, _ in got]


def test_a_message_that_was_taken_and_never_arrived_is_delivered_again(
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


def test_no_lock_of_a_killed_worker_holds_up_who_gives_messages_back(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis"
) -> None:
    channel = connection.default_channel
    Mutex(channel.client, channel.unacked_mutex_key, 300).__enter__()  # kombu's, and it comes to no end
    send(connection, "x")
    drain(connection, got, 1)
    channel.qos.restore_visible()
    assert client.llen("first") == 1


def test_who_has_the_first_copy_of_a_message_acknowledges_that_copy_only(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis"
) -> None:
    """Else the second copy would be lost with the worker that has it."""
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
def test_a_message_goes_back_in_front_or_at_the_end(
    connection: Connection, consumer: Consumer, got: list[Any], leftmost: bool, order: list[str]
) -> None:
    send(connection, "x", priority=3)
    drain(connection, got, 1)
    send(connection, "other", priority=3)
    [(_, message)] = got
    connection.default_channel.qos.restore_by_tag(message.delivery_tag, leftmost=leftmost)
    assert drain(connection, got, 3)[1:] == order


def test_a_message_in_hand_is_noted_once_and_gone_when_it_is_acknowledged(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis"
) -> None:
    send(connection, {"a": 1})
    drain(connection, got, 1)
    [(_, message)] = got
    assert client.hkeys("unacked") == client.zrange("unacked_index", 0, -1) == [message.delivery_tag.encode()]
    message.ack()
    assert client.keys("unacked*") == []


def test_the_urgent_come_first_then_the_old_and_queues_take_turns(
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
def test_who_waits_is_woken_and_changes_nothing(
    connection: Connection,
    consumer: Consumer,
    got: list[Any],
    client: "redis.Redis",
    monkeypatch: pytest.MonkeyPatch,
    queue: str,
) -> None:
    channel = connection.default_channel
    if queue == "first":  # which the server waits for, and nothing but the message ends it
        monkeypatch.setattr(delivery, "TURN_SECONDS", 300.0)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.2)
    channel.connection.cycle._register_BRPOP(channel)  # asks, and waits
    send(connection, "x", queue)
    assert drain(connection, got, 1) == ["x"]
    assert client.llen(queue) == 0


def test_of_many_who_wait_one_gets_the_message(
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


def test_what_was_found_and_waits_to_be_read_is_leased_and_given_back_at_the_end(
    connection: Connection,
    consumer: Consumer,
    client: "redis.Redis",
    broker_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where all slots filled meanwhile: it waits for one, for longer than the visibility timeout too."""
    send(connection, "x")
    channel = connection.default_channel
    channel.connection.cycle._register_BRPOP(channel)
    eventually(lambda: client.llen("first") == 0)
    client.zadd("unacked_index", {channel.look: 1})
    broker._renew(client, channel)
    assert client.zscore("unacked_index", channel.look) > 1

    app = SimpleNamespace(conf=SimpleNamespace(broker_url=broker_url))
    holder = SimpleNamespace(app=app, task_consumer=SimpleNamespace(channel=channel))
    monkeypatch.setattr(broker.LeaseHeartbeat, "_consumer", holder)
    broker.LeaseHeartbeat.let_go()
    assert client.llen("first") == 1
    assert client.keys("unacked*") == []


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
def test_what_is_no_message_ends_no_worker_and_does_not_come_back(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis", garbage: str
) -> None:
    """Its note could not be restored: each worker would end at that, one after the other."""
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
def test_a_note_of_a_dead_worker_that_is_no_message_ends_no_worker_and_holds_up_no_other(
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


def test_what_the_server_refuses_leaves_no_answer_for_the_next_look(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis"
) -> None:
    """BLMOVE is refused where a rule forbids it, and the message has been taken none the less."""
    client.set("first", "no list")
    with pytest.raises(redis.ResponseError):
        connection.drain_events(timeout=10)
    client.delete("first")
    send(connection, "x")
    assert drain(connection, got, 1) == ["x"]


def test_an_acknowledgement_that_is_cut_off_half_way_leaves_nothing_for_ever(
    connection: Connection, consumer: Consumer, got: list[Any], client: "redis.Redis"
) -> None:
    send(connection, "x")
    drain(connection, got, 1)
    channel = connection.default_channel
    commands = channel.qos._remove_from_indices(got[0][1].delivery_tag)
    del commands.command_stack[1:]
    commands.execute()
    channel.qos.restore_visible()
    assert (client.hlen("unacked"), client.zcard("unacked_index"), client.llen("first")) == (0, 0, 0)
