"""Why each change to a library is needed: every test passes with it, and must fail without it.

Where one passes without it, the library has been fixed: remove the change from `worker/celery/upstream`.
"""

import asyncio
import inspect
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from celery import current_app, signals
from celery.app import trace as celery_trace
from celery.apps import worker as celery_worker
from celery.beat import BeatLazyFunc
from celery.concurrency.asynpool import ResultHandler
from celery.exceptions import Ignore, InvalidTaskError, QueueNotFound
from celery.utils.dispatch import Signal
from kombu import Connection as StockConnection
from kombu import Consumer, Message, Queue, pools
from kombu.exceptions import DecodeError, EncodeError, OperationalError
from redis.exceptions import OutOfMemoryError, ResponseError

from tests.fixtures.proxy import Proxy
from tests.fixtures.services import BROKERS, own_valkey
from tests.fixtures.system import eventually
from tests.fixtures.upstream import NEEDED, Library, needs
from worker.celery.upstream.memory_limit import past_memory_limit
from worker.celery.upstream.registry import CHANGES
from worker.documents import LongNumber

CLAIMING = ("Channel._brpop_start", "Channel._brpop_read", "QoS.append")  # one mechanism


@pytest.fixture
def client(broker_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(broker_url) as client:
        yield client


@pytest.fixture
def connection(library: Library, broker_url: str) -> Iterator[Any]:
    """Its leases expire at once, so that a search for expired ones finds every message that is held."""
    with library.connect(broker_url, visibility_timeout=0) as connection:
        yield connection


@pytest.fixture(scope="module", params=BROKERS)
def own_url(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    with own_valkey(tmp_path_factory.mktemp("home"), request.param) as valkey:
        yield valkey.url


@pytest.fixture
def own(own_url: str) -> Iterator["redis.Redis"]:
    """A broker that a test may fill."""
    with redis.Redis.from_url(own_url) as client:
        client.config_set("maxmemory", 0)
        client.flushall()
        yield client


def fill(client: "redis.Redis") -> None:
    client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)


def consume(connection: Any, got: list[Message]) -> Consumer:
    return Consumer(connection.default_channel, [Queue("first")], on_message=got.append, accept=["json"])


@pytest.fixture
def own_pools(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pools of connections for one test: the apps of other tests keep theirs open."""
    groups = [pools.Connections(limit=10), pools.Producers(limit=10)]
    monkeypatch.setattr(pools, "_groups", groups)
    monkeypatch.setattr(pools, "connections", groups[0])
    monkeypatch.setattr(pools, "producers", groups[1])
    yield
    pools.reset()


def send(connection: Any, body: str) -> None:
    connection.Producer().publish(body, routing_key="first", serializer="json")


@needs("Channel._connparams", raises=AttributeError)
def test_a_channel_that_outlives_its_connection_closes_with_a_connection_error(
    library: Library, broker_url: str
) -> None:
    """As in a worker that holds a message and waits for others on two channels: any other error would end it."""
    got: list[Message] = []
    with Proxy(urlsplit(broker_url).port or 0) as proxy:
        connection = library.connect(broker_url.replace(f":{urlsplit(broker_url).port}/", f":{proxy.port}/"))
        channel = connection.default_channel
        consume(connection, got).consume()
        send(connection, "x")
        connection.drain_events(timeout=10)
        Consumer(connection.channel(), [Queue("second")]).consume()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        proxy.cut()
        connection.collect()
        with pytest.raises(redis.ConnectionError):
            channel.close()


def test_a_channel_has_one_client_for_its_commands_until_its_pool_goes(
    library: Library, broker_url: str
) -> None:
    with library.connect(broker_url) as connected:
        channel = connected.default_channel
        client = channel._create_client()
        assert channel._create_client() is client
        assert channel._create_client(asynchronous=True) is not channel._create_client(asynchronous=True)
        channel._disconnect_pools()
        assert channel._create_client() is not client
        assert channel._create_client().ping()


def test_a_message_that_was_sent_without_base64_is_read(
    connection: Any, broker_url: str, client: "redis.Redis"
) -> None:
    body = [[], {"documents": [{"id": 1, "text": 'Zoë \\ "quoted" \U0001f600\n'}]}, {}]
    got: list[Message] = []
    with consume(connection, got), StockConnection(broker_url) as application:
        application.transport_options = {"body_encoding": "utf-8"}
        application.Producer().publish(body, routing_key="first", serializer="json")
        assert b"documents" in client.lindex("first", 0)
        connection.drain_events(timeout=10)
    assert [message.payload for message in got] == [body]


@needs("Channel._brpop_start", *CLAIMING, raises=AssertionError)
def test_a_message_that_left_its_queue_is_recorded_at_once(connection: Any, client: "redis.Redis") -> None:
    """So another worker delivers it again if this one dies before it reads the answer."""
    with consume(connection, []):
        send(connection, "x")
        channel = connection.default_channel
        channel.connection.cycle._register_BRPOP(channel)
        eventually(lambda: client.llen("first") == 0)
        assert client.hlen("unacked") == client.zcard("unacked_index") == 1


@needs("Channel._brpop_read", *CLAIMING, raises=ValueError)
def test_an_unreadable_message_is_skipped(connection: Any, client: "redis.Redis") -> None:
    got: list[Message] = []
    client.lpush("first", "no JSON")
    with consume(connection, got):
        send(connection, "x")
        while not got:
            connection.drain_events(timeout=10)
    assert [message.payload for message in got] == ["x"]


@needs("QoS.append", *CLAIMING, raises=OutOfMemoryError)
def test_a_full_broker_delivers_messages(library: Library, own_url: str, own: "redis.Redis") -> None:
    got: list[Message] = []
    with library.connect(own_url) as connection, consume(connection, got):
        send(connection, "x")
        fill(own)
        connection.drain_events(timeout=10)
    assert [message.payload for message in got] == ["x"]


@needs("QoS._remove_from_indices", raises=AssertionError)
def test_an_acknowledgement_that_is_cut_off_leaves_nothing_behind(
    connection: Any, client: "redis.Redis"
) -> None:
    got: list[Message] = []
    with consume(connection, got):
        send(connection, "x")
        connection.drain_events(timeout=10)
    qos = connection.default_channel.qos
    commands = qos._remove_from_indices(got[0].delivery_tag)
    del commands.command_stack[1:]
    commands.execute()
    qos.restore_visible()
    assert (client.hlen("unacked"), client.zcard("unacked_index")) == (0, 0)


@needs("QoS.restore_visible", raises=AssertionError)
def test_the_lock_of_a_killed_worker_does_not_delay_redelivery(
    connection: Any, client: "redis.Redis"
) -> None:
    got: list[Message] = []
    with consume(connection, got):
        send(connection, "x")
        connection.drain_events(timeout=10)
    channel = connection.default_channel
    client.set(channel.unacked_mutex_key, "a killed worker", ex=300)
    channel.qos.restore_visible()
    assert client.llen("first") == 1


@needs("QoS.restore_by_tag", raises=ValueError)
def test_an_unreadable_entry_of_a_dead_worker_is_dropped(connection: Any, client: "redis.Redis") -> None:
    client.hset("unacked", "tag", "no JSON")
    client.zadd("unacked_index", {"tag": 1})
    connection.default_channel.qos.restore_visible()
    assert client.keys("unacked*") == []


@needs("Channel._get_client", raises=ResponseError)
def test_a_full_broker_takes_acknowledgements(library: Library, own_url: str, own: "redis.Redis") -> None:
    if [int(part) for part in own.info()["redis_version"].split(".")] >= [7, 2]:
        pytest.skip("this broker takes transactions that free memory: Redis 6.2 and 7.0 do not")
    got: list[Message] = []
    with library.connect(own_url) as connection, consume(connection, got):
        send(connection, "x")
        connection.drain_events(timeout=10)
        fill(own)
        got[0].ack()
    assert own.keys("unacked*") == []


@needs("Channel._put", raises=OutOfMemoryError)
def test_a_full_broker_takes_the_successor_of_a_task(
    library: Library, own_url: str, own: "redis.Redis"
) -> None:
    """Into a queue that expires, which it still does."""
    with library.connect(own_url) as connection:
        producer = connection.Producer()
        Queue("first", expires=60, channel=connection.default_channel).declare()
        fill(own)
        with past_memory_limit():
            producer.publish("x", routing_key="first", serializer="json")
    assert own.llen("first") == 1
    assert 0 < own.ttl("first") <= 60


@needs("ConnectionPool.new", raises=OperationalError)
@pytest.mark.usefixtures("own_pools")
def test_a_full_broker_takes_the_successor_that_an_app_sends(
    library: Library, own_url: str, own: "redis.Redis"
) -> None:
    """An app sends through a pool of connections, which must have our channel like a connection by itself."""
    app = library.app(own_url)
    with app.connection_for_write() as connection:
        Queue("celery", channel=connection.default_channel).declare()
    fill(own)
    with past_memory_limit():
        app.send_task("tasks.any", retry=False)
    assert own.llen("celery") == 1


MESSAGE = {
    "body": "[]",
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {"task": "tasks.any", "id": "1"},
    "properties": {"delivery_info": {"exchange": "", "routing_key": "first"}, "delivery_tag": "1"},
}


def received(connection: Any, **changes: Any) -> Any:
    """A message that a channel has received."""
    channel = connection.default_channel
    message = channel.Message({**MESSAGE, **changes}, channel=channel)
    message.accept = {"application/json"}
    message.ack = lambda **_: None
    return message


@needs("Message._decode", raises=DecodeError)
@pytest.mark.parametrize(
    ("body", "read"),
    [
        ('[{"__type__": "Point", "__value__": 1}]', [{"__type__": "Point", "__value__": 1}]),
        (f"[{'7' * 5000}]", [LongNumber(5000)]),
    ],
)
def test_a_value_that_kombu_cannot_read_stays_in_its_place(connection: Any, body: str, read: Any) -> None:
    assert received(connection, body=body).payload == read


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery
@needs("Consumer.create_task_handler", raises=TypeError)
def test_a_header_of_another_type_ends_no_worker(library: Library, broker_url: str, connection: Any) -> None:
    consumer = library.consumer(broker_url)
    handle = consumer.create_task_handler()
    handle(received(connection, headers={"task": [], "id": "1"}))
    assert consumer.app.AsyncResult("1").state == "FAILURE"


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery
@needs("Consumer.on_decode_error", raises=AssertionError)
def test_a_body_that_cannot_be_decoded_fails_its_task(
    library: Library, broker_url: str, connection: Any
) -> None:
    consumer = library.consumer(broker_url)
    consumer.on_decode_error(received(connection), DecodeError("x"))
    assert consumer.app.AsyncResult("1").state == "FAILURE"


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery
@needs("Consumer.on_invalid_task", raises=AssertionError)
def test_an_invalid_task_fails(library: Library, broker_url: str, connection: Any) -> None:
    consumer = library.consumer(broker_url)
    consumer.on_invalid_task(None, received(connection), InvalidTaskError("x"))
    assert consumer.app.AsyncResult("1").state == "FAILURE"


def callbacks_app(library: Library, url: str) -> Any:
    """An app with one queue of its own, like ours."""
    app = library.app(url)
    app.conf.update(
        task_queues=[Queue("ours")],
        task_default_queue="ours",
        task_create_missing_queues=False,
        result_backend=None,
    )
    return app


@needs("Router.route", "AMQP.Router", raises=AssertionError)
def test_a_callback_without_a_queue_goes_to_the_default_queue_of_celery(
    library: Library, broker_url: str, client: "redis.Redis"
) -> None:
    app = callbacks_app(library, broker_url)
    for name in ("shop.note", "celery.accumulate"):
        app.signature(name).apply_async()
    assert (client.llen("celery"), client.llen("ours")) == (2, 0)


@needs("AMQP.Router", "Router.route", raises=QueueNotFound)
@pytest.mark.parametrize(
    ("options", "queue"),
    [
        ({"queue": "shop"}, "shop"),
        ({"queue": "vector_index.chat"}, "celery"),  # we have no such task
    ],
)
def test_a_callback_goes_to_the_queue_that_it_names_unless_that_is_ours(
    library: Library, broker_url: str, client: "redis.Redis", options: dict[str, str], queue: str
) -> None:
    app = callbacks_app(library, broker_url)
    app.signature("shop.note").set(**options).apply_async()
    assert client.llen(queue) == 1


@needs("Router.route", "AMQP.Router", raises=AssertionError)
@pytest.mark.parametrize(
    "options",
    [{"exchange": "", "routing_key": "ours"}, {"exchange": "vector_index", "routing_key": "vector_index"}],
)
def test_no_exchange_leads_a_callback_into_a_queue_of_ours(
    library: Library, broker_url: str, client: "redis.Redis", options: dict[str, str]
) -> None:
    app = callbacks_app(library, broker_url)
    app.signature("shop.note").set(**options).apply_async()
    assert client.llen("celery") == 1


def test_a_callback_goes_to_the_exchange_that_it_names(
    library: Library, broker_url: str, client: "redis.Redis"
) -> None:
    with library.connect(broker_url) as connection:
        bound = Queue("orders", exchange="shop", routing_key="new")
        bound(connection.default_channel).declare()
    app = callbacks_app(library, broker_url)
    app.signature("shop.note").set(exchange="shop", routing_key="new").apply_async()
    assert client.llen("orders") == 1


@needs("AMQP._retry_publish", raises=OperationalError)
@pytest.mark.usefixtures("own_pools")
def test_a_full_broker_takes_the_callbacks_of_a_task_that_is_done(
    library: Library, own_url: str, own: "redis.Redis"
) -> None:
    app = callbacks_app(library, own_url)
    app.signature("shop.note").apply_async()  # declares the queue
    fill(own)
    app.amqp._retry_publish(app.signature("shop.note").apply_async)
    assert own.llen("celery") == 2


def test_a_callback_waits_for_a_broker_that_is_away(
    library: Library, broker_url: str, client: "redis.Redis"
) -> None:
    """Celery tries for 0.6 s, and then fails the task that is done."""
    port = urlsplit(broker_url).port or 0
    with Proxy(port) as proxy:
        app = callbacks_app(library, broker_url.replace(f":{port}/", f":{proxy.port}/"))
        app.signature("shop.note").apply_async()
        proxy.cut()
        timer = Timer(3, proxy.restore)
        timer.start()
        app.amqp._retry_publish(app.signature("shop.note").apply_async)
        timer.join()
    assert client.llen("celery") == 2


def test_a_callback_that_cannot_be_sent_fails_its_task_in_a_sentence(
    library: Library, broker_url: str
) -> None:
    app = callbacks_app(library, broker_url)
    signature = app.signature("shop.note", kwargs={"text": "secret"}).set(serializer="none such")
    with pytest.raises(
        EncodeError,
        match=r"^the task is done, but its callback shop\.note cannot be sent \(\w+\): correct the options of its",
    ):
        app.amqp._retry_publish(signature.apply_async)


@needs("Channel._queue_bind", raises=OutOfMemoryError)
def test_a_worker_declares_its_queues_on_a_full_broker(
    library: Library, own_url: str, own: "redis.Redis"
) -> None:
    with library.connect(own_url) as connection:
        channel = connection.default_channel
        fill(own)
        Queue("first", exchange="one", routing_key="first", channel=channel).declare()
    assert own.scard("_kombu.binding.one") == 1


@needs("Channel._refresh_binding", raises=ResponseError)
def test_a_worker_renews_the_binding_of_a_queue_that_expires_on_a_full_broker(
    library: Library, own_url: str, own: "redis.Redis"
) -> None:
    with library.connect(own_url) as connection:
        channel = connection.default_channel
        queue = Queue("first", exchange="one", routing_key="first", expires=10, channel=channel)
        queue.declare()
        before = own.zincrby("_kombu.binding_deadlines", -1_000, "one")  # as if it were declared a second ago
        fill(own)
        channel._refresh_bindings(["first"])
    assert own.zscore("_kombu.binding_deadlines", "one") > before
    assert own.ttl("_kombu.binding.one") == -1


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery
@needs("RedisBackend._set", raises=(ResponseError, RuntimeError))
def test_a_full_broker_stores_results(library: Library, own_url: str, own: "redis.Redis") -> None:
    app = library.app(own_url)
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 0}}
    fill(own)
    app.backend.store_result("id", {"indexed": 1}, "SUCCESS")
    assert app.AsyncResult("id").get(timeout=60) == {"indexed": 1}
    assert 0 < own.ttl("celery-task-meta-id") <= 86_400


@needs("ResultHandler._recv_message", raises=(pickle.UnpicklingError, EOFError))
def test_a_result_that_is_half_read_when_the_broker_goes_away_is_read_to_its_end(library: Library) -> None:
    """The event loop forgets its readers then, and asks for the next result."""
    out, into = os.pipe()
    os.set_blocking(out, False)
    got: list[Any] = []
    pool: Any = SimpleNamespace(fileno_to_outq={out: SimpleNamespace()}, handle_event=None)

    def waits_for_more() -> bool:
        """As the event loop asks after it has lost its readers."""
        reading = ResultHandler._recv_message(pool, lambda *_: None, out, got.append)
        return next(reading, "ended") is None

    try:
        for number in (1, 2):
            # the second part holds a length, where a new reader would expect one
            message = pickle.dumps((number, b"\0\0\0\x08" * 5_000))
            os.write(into, len(message).to_bytes(4, "big"))
            assert waits_for_more()
            os.write(into, message[:9_000])
            assert waits_for_more()
            os.write(into, message[9_000:])
            assert not waits_for_more()
    finally:
        os.close(out)
        os.close(into)
    assert [number for number, _ in got] == [1, 2]


@needs("celery.app.trace.ExceptionInfo", raises=AssertionError)
def test_a_replaced_task_sends_no_traceback_to_the_parent_of_its_process(library: Library) -> None:
    def replace() -> None:
        raise Ignore("replaced")

    try:
        replace()
    except Ignore:
        sent = pickle.dumps(celery_trace.ExceptionInfo(internal=True))
    assert isinstance(pickle.loads(sent).exception, Ignore)
    assert len(sent) < 500


@needs("celery.apps.worker.safe_say", raises=AssertionError)
def test_a_signal_prints_nothing_beside_the_log(library: Library, tmp_path: Path) -> None:
    with (tmp_path / "printed").open("w") as printed:
        celery_worker.safe_say("worker: Warm shutdown (MainProcess)", printed)
    assert (tmp_path / "printed").read_text() == ""


@needs("Beat.install_sync_handler", raises=AssertionError)
def test_a_signal_ends_the_beat_while_it_sends(
    library: Library, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "beat_init", Signal())  # the receiver of our app would look for Postgres
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    sent = count(1)

    def stop() -> None:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        proxy.restore()

    def interrupt() -> str:
        """Send the first task. Stop the beat while the second one waits for the broker, at the latest at the third."""
        match next(sent):
            case 2:
                proxy.stall()
                stopping.start()
            case 3:
                raise KeyboardInterrupt
        return "x"

    stopping = threading.Thread(target=stop)
    with Proxy(urlsplit(broker_url).port or 0) as proxy:
        app = library.app(broker_url.replace(f":{urlsplit(broker_url).port}/", f":{proxy.port}/"))
        app.conf.beat_schedule = {"t": {"task": "t", "schedule": 0.05, "args": (BeatLazyFunc(interrupt),)}}
        beat = app.Beat(scheduler_cls="celery.beat:Scheduler")
        service = beat.Service(app=app, max_interval=0.05, scheduler_cls=beat.scheduler_cls)
        try:
            beat.install_sync_handler(service)
            service.start()
            stopping.join()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert next(sent) == 3


@needs("EventReceiver.event_from_message", raises=AssertionError)
def test_a_monitor_gets_no_arguments_from_the_sender(library: Library, broker_url: str) -> None:
    app = library.app(broker_url)
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection)
        sent = {"type": "task-sent", "uuid": "7", "args": "('Marrakesh',)", "kwargs": "{'text': 'heron'}"}
        kind, event = receiver.event_from_message(sent)
    assert (kind, event["uuid"]) == ("task-sent", "7")
    assert not {"args", "kwargs"} & event.keys()


@needs("TaskResult.get", raises=AssertionError)
def test_flower_serves_no_results(library: Library, broker_url: str) -> None:
    pytest.importorskip("flower")
    before = current_app._get_current_object()
    library.app(broker_url).set_current()  # Flower asks the current app for its result backend
    answered: list[Any] = []

    async def stored(*_: Any, **__: Any) -> Any:
        return {"result": "a passage"}

    handler = SimpleNamespace(
        current_user="operator",
        get_argument=lambda *_, **__: None,
        backend_configured=lambda _: True,
        backend_connection_errors=lambda _: (),
        read_result=None,
        run_blocking=stored,
        set_status=answered.append,
        finish=answered.append,
        write=answered.append,
    )
    try:
        answer = library.attribute("TaskResult.get")(handler, "7")
        if inspect.isawaitable(answer):
            asyncio.run(answer)  # type: ignore[arg-type]
    finally:
        before.set_current()
    assert answered[0] == 404


def test_each_change_has_such_a_test() -> None:
    assert {change.label for change in CHANGES} == NEEDED
