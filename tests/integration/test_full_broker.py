"""Messages and results on a broker over its memory limit: queues drain, and new work is refused."""

import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Consumer, Message, Queue
from redis.exceptions import OutOfMemoryError

from tests.fixtures.services import BROKERS, own_valkey
from worker.celery import leases
from worker.celery.upstream.channel import Connection
from worker.celery.upstream.memory_limit import past_memory_limit
from worker.chat.stream import AnswerStream
from worker.errors import ServiceUnreachable


@pytest.fixture(scope="module", params=BROKERS)
def url(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    with own_valkey(tmp_path_factory.mktemp("home"), request.param) as valkey:
        yield valkey.url


@pytest.fixture
def client(url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory", 0)
        client.flushall()
        yield client


@pytest.fixture
def channel(url: str, client: "redis.Redis") -> Iterator[Any]:
    with Connection(url, transport_options={"visibility_timeout": 0}) as connection:
        yield connection.default_channel


def fill(client: "redis.Redis") -> None:
    client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)


def send(channel: Any, body: str) -> None:
    channel.connection.client.Producer().publish(body, routing_key="first", serializer="json")


@pytest.fixture
def got(channel: Any) -> Iterator[list[Message]]:
    got: list[Message] = []
    with Consumer(channel, [Queue("first")], on_message=got.append, accept=["json"]):
        yield got


def test_messages_are_claimed_renewed_returned_and_acknowledged(
    channel: Any, client: "redis.Redis", got: list[Message]
) -> None:
    send(channel, "x")
    fill(client)
    channel.connection.client.drain_events(timeout=10)
    [tag] = client.hkeys("unacked")
    client.config_set("maxmemory", 0)
    client.zadd("unacked_index", {tag: 1})
    fill(client)
    leases.renew(client, channel)
    assert client.zscore("unacked_index", tag) > 1

    channel.qos.restore_visible()
    assert client.llen("first") == 1
    assert client.keys("unacked*") == []
    channel.connection.client.drain_events(timeout=10)
    got[-1].ack()
    assert [message.payload for message in got] == ["x", "x"]
    assert got[-1].headers["redelivered"]
    assert client.keys("*first*") == client.keys("unacked*") == []


@pytest.mark.slow
def test_a_waiting_worker_polls_once_a_second_and_logs_it_once_until_there_is_room(
    channel: Any, client: "redis.Redis", got: list[Message], caplog: pytest.LogCaptureFixture
) -> None:
    connection = channel.connection.client
    caplog.set_level("INFO", "vector_index.broker")
    fill(client)

    def claims(seconds: float) -> int:
        client.config_resetstat()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=seconds)
        return int(client.info("commandstats")["cmdstat_eval"]["calls"])

    assert claims(3.5) <= 5
    client.config_set("maxmemory", 0)
    claims(3)
    assert not channel.is_full
    said = [record.getMessage() for record in caplog.records if record.name == "vector_index.broker"]
    assert said == ["broker_full", "broker_has_room"]
    send(channel, "x")
    connection.drain_events(timeout=10)
    assert [message.payload for message in got] == ["x"]


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery
def test_results_and_successors_pass_and_nothing_else(channel: Any, client: "redis.Redis", url: str) -> None:
    loader = "worker.celery.upstream.results:Loader"
    app = Celery(broker=url, backend=url, loader=loader, set_as_current=False)
    fill(client)
    app.backend.store_result("id", {"indexed": 1}, "SUCCESS")
    assert app.AsyncResult("id").get(timeout=60) == {"indexed": 1}
    assert 0 < client.ttl("celery-task-meta-id") <= 86_400
    with pytest.raises(OutOfMemoryError, match="maxmemory"):
        send(channel, "new")
    with past_memory_limit():
        send(channel, "instead")
    with pytest.raises(OutOfMemoryError, match="maxmemory"):
        send(channel, "new")
    assert client.llen("first") == 1


def test_a_worker_can_declare_its_queues(channel: Any, client: "redis.Redis") -> None:
    fill(client)
    Queue("first", exchange="one", routing_key="first", channel=channel).declare()
    Queue("second", exchange="two", routing_key="second", expires=10, channel=channel).declare()
    assert client.scard("_kombu.binding.one") == client.scard("_kombu.binding.two") == 1


def test_a_stream_that_cannot_be_written_quotes_no_text(client: "redis.Redis", url: str) -> None:
    """redis-py quotes the command of a pipeline that was refused."""
    text = "Marrakesh"
    fill(client)
    with pytest.raises(ServiceUnreachable, match="maxmemory") as caught:
        AnswerStream(url, "7").write("token", text)
    assert "Marrakesh" not in "".join(traceback.format_exception(caught.value))
    assert "XADD" not in str(caught.value)
