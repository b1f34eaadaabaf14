"""Times in messages are by the clock of the broker, whatever the clock of the machine that sends or takes them."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from kombu import Consumer, Message, Queue

from worker.celery.upstream import broker_clock
from worker.celery.upstream.channel import Connection

AHEAD = 120.0


@pytest.fixture
def connection(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """A connection of a machine whose clock is ahead."""
    monkeypatch.setattr(broker_clock, "time", lambda: time.time() + AHEAD)
    with Connection(broker_url) as connection:
        yield connection


def local(seconds: float) -> datetime:
    """A time from now, by the clock of that machine."""
    return datetime.now(UTC) + timedelta(seconds=AHEAD + seconds)


def near(text: str, expected: datetime) -> bool:
    return abs(datetime.fromisoformat(text) - expected) < timedelta(seconds=5)


@pytest.mark.parametrize("name", ["expires", "eta"])
def test_times_are_converted_when_a_message_is_sent_and_received(
    connection: Connection, broker_url: str, name: str
) -> None:
    with connection.Producer() as producer:
        producer.publish("x", routing_key="first", serializer="json", headers={name: local(30).isoformat()})
    with redis.Redis.from_url(broker_url) as client:
        stored = json.loads(client.lindex("first", 0))
    assert near(stored["headers"][name], datetime.now(UTC) + timedelta(seconds=30))

    got: list[Message] = []

    def keep(body: Any, message: Message) -> None:
        got.append(message)

    with Consumer(connection.default_channel, [Queue("first")], callbacks=[keep], accept=["json"]):
        while not got:
            connection.drain_events(timeout=10)
    assert near(got[0].headers[name], local(30))
    assert abs(got[0].headers[broker_clock.AHEAD_HEADER] + AHEAD) < 5


@pytest.mark.parametrize("value", ["soon", 7, None])
def test_a_time_that_cannot_be_read_is_left_to_celery(connection: Connection, value: object) -> None:
    message = {"headers": {"eta": value, "task": "x"}}
    assert connection.default_channel.broker_clock.sent(message) == message


def test_a_message_that_is_sent_again_is_converted_once(connection: Connection) -> None:
    """kombu passes the same message once more after an error of the connection."""
    message = {"headers": {"expires": local(30).isoformat()}}
    clock = connection.default_channel.broker_clock
    assert clock.sent(message) == clock.sent(message)
