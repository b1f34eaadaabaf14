"""Mends for Celery 5.7 and kombu 5.7 on Redis, each with the defect that it answers."""

import logging
import threading
import time
from typing import Any, ClassVar

import redis
from celery import Task, bootsteps
from celery.exceptions import Reject
from celery.worker.consumer import consumer
from celery.worker.consumer.tasks import Tasks
from celery.worker.request import Request
from kombu.transport.redis import Channel

from worker.errors import VectorIndexError

VISIBILITY_TIMEOUT_SECONDS = 60  # after which the messages of a dead worker are taken by another
HEARTBEAT_SECONDS = 10

logger = logging.getLogger("vector_index.broker")


class LeaseHeartbeat(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Renew the visibility of every message that this worker holds.

    Without it a message that is held for longer than the visibility timeout is delivered again while it runs,
    and a timeout of hours would be needed, after which a dead worker's messages would be taken up. A thread, as
    the event loop stands still during a warm shutdown.
    """

    requires = (Tasks,)
    _channel: ClassVar[Any] = None
    _thread: ClassVar[threading.Thread | None] = None

    def start(self, consumer: Any) -> None:
        cls = type(self)
        cls._channel = consumer.task_consumer.channel  # a new one after each reconnect
        if cls._thread is None or not cls._thread.is_alive():
            url = consumer.app.conf.broker_url
            cls._thread = threading.Thread(
                target=self._renew, args=(url,), name="lease-heartbeat", daemon=True
            )
            cls._thread.start()

    def _renew(self, url: str) -> None:
        client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            channel = type(self)._channel
            held = list(channel.qos._delivered)
            if held:
                now = time.time()
                try:
                    client.zadd(channel.unacked_index_key, dict.fromkeys(held, now), xx=True)
                except redis.RedisError as error:
                    logger.warning("leases of %d messages not renewed: %s", len(held), error)


def guard_reconnect() -> None:
    """Let a worker survive a restart of the broker.

    kombu 5.7.0: while a lost connection is closed, messages are restored on a channel whose transport has lost
    its client; the AttributeError ends the worker (23 of 50 restarts). A connection error is handled.
    """
    original: Any = Channel._connparams

    def connparams(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self.connection, "client", None) is None:
            raise redis.exceptions.ConnectionError("the connection to the broker was lost")
        return original(self, *args, **kwargs)

    if not hasattr(original, "guarded"):
        connparams.guarded = True  # type: ignore[attr-defined]
        Channel._connparams = connparams  # type: ignore[method-assign]


class HiddenArguments(Request):  # type: ignore[misc]  # celery has no types
    """A request whose arguments no event, log line or result shows, whoever sent it."""

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        self._argsrepr = ""
        self._kwargsrepr = f"{len(message.body) / 1000:.1f} kB"


class HideBodies(logging.Filter):
    """Celery logs the whole body of a message that it cannot take: keep the reason only."""

    # by message: how many of its values may be shown
    SHOWN: ClassVar = {
        consumer.UNKNOWN_FORMAT: 0,
        consumer.UNKNOWN_TASK_ERROR: 1,
        consumer.INVALID_TASK_ERROR: 1,
        consumer.MESSAGE_DECODE_ERROR: 1,
    }

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg in self.SHOWN and isinstance(record.args, tuple):
            shown = self.SHOWN[record.msg]
            record.args = (*record.args[:shown], *["(hidden)"] * (len(record.args) - shown))
        return True


class HiddenTask(Task):  # type: ignore[misc]
    """The base of all our tasks."""

    abstract = True
    throws = (VectorIndexError,)  # said in one line of the log; any other error is a bug, with its traceback
    Request = "worker.broker:HiddenArguments"

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's; but when the broker does not take the retry, the message stays, where Celery drops it."""
        try:
            return super().retry(*args, **kwargs)
        except Reject as rejected:
            raise Reject(rejected.reason, requeue=True) from rejected
