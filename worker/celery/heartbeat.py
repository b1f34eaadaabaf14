"""Heartbeat thread of a worker: renews leases, reports liveness, and ends a worker whose consumer is stuck."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import redis
from celery import bootsteps
from celery.worker.consumer.tasks import Tasks

from worker.celery import leases
from worker.celery.stuck_consumer import StuckConsumerDetector
from worker.observability.logs import log_fields

HEARTBEAT_SECONDS = 10

logger = logging.getLogger("vector_index.broker")


class HeartbeatThread(bootsteps.StartStopStep):
    """Runs from the first connection of a worker to its end.

    Renewed leases allow a short visibility timeout: a long task runs once, and the messages of a dead worker are
    redelivered after a minute instead of hours. This is a thread because the event loop is blocked during a warm
    shutdown.
    """

    requires = (Tasks,)
    on_stuck: ClassVar[Callable[[], None] | None] = None  # ends the process
    on_alive: ClassVar[Callable[[], None] | None] = (
        None  # called while the loop runs, or waits for the broker
    )
    _loop_ran: ClassVar[bool] = True  # since the last heartbeat
    _connected: ClassVar[bool] = False  # while it is False, the loop is blocked until the broker answers
    _consumer: ClassVar[Any] = None
    _thread: ClassVar[threading.Thread | None] = None

    def start(self, consumer: Any) -> None:
        """Start the thread, or give it the channel of a new connection."""
        cls = type(self)
        cls._consumer, cls._connected = consumer, True
        # a lost connection clears the timers of the loop
        consumer.timer.call_repeatedly(HEARTBEAT_SECONDS / 2, self._note_loop)
        if cls._thread is None or not cls._thread.is_alive():
            client = leases.connect(consumer.app)
            cls._thread = threading.Thread(
                target=self._run, args=(client,), name="lease-heartbeat", daemon=True
            )
            cls._thread.start()

    def stop(self, consumer: Any) -> None:
        """Mark the connection as lost."""
        type(self)._connected = False

    @classmethod
    def release_in_flight(cls) -> None:
        """Return the messages of this worker to their queues."""
        if cls._consumer is not None and cls._consumer.task_consumer is not None:
            leases.release(leases.connect(cls._consumer.app), cls._consumer.task_consumer.channel)

    @classmethod
    def _note_loop(cls) -> None:
        cls._loop_ran = True

    @classmethod
    def _run(cls, client: "redis.Redis") -> None:
        detector = StuckConsumerDetector()
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            connected = cls._connected
            if cls.on_alive is not None and (cls._loop_ran or not connected):
                cls._loop_ran = False
                cls.on_alive()
            if not connected or (task_consumer := cls._consumer.task_consumer) is None:
                detector.reset()
            elif cls._beat(client, task_consumer, detector) and cls.on_stuck is not None:
                logger.critical(
                    "this worker is idle and takes none of the messages that wait: it ends, to be started again"
                )
                cls.on_stuck()

    @staticmethod
    def _beat(client: "redis.Redis", task_consumer: Any, detector: StuckConsumerDetector) -> bool:
        """Renew the leases; return whether the consumer is stuck."""
        held = leases.held(task_consumer.channel)
        try:
            leases.renew(client, task_consumer.channel)
            return detector.is_stuck(client, task_consumer, holds_messages=bool(held))
        except redis.RedisError as error:
            detector.reset()
            logger.warning("leases_not_renewed", extra=log_fields(messages=len(held), error=str(error)))
            return False
