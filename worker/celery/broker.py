"""Mends for Celery 5.7 and kombu 5.7 on Redis, each with the defect that it answers."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from inspect import signature
from typing import Any, ClassVar

import redis
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery import Task, bootsteps
from celery.beat import SchedulingError
from celery.concurrency.asynpool import ResultHandler
from celery.exceptions import CeleryError, Reject
from celery.worker import state
from celery.worker.consumer import consumer
from celery.worker.consumer.tasks import Tasks
from celery.worker.request import Request
from kombu.exceptions import KombuError, OperationalError
from kombu.transport.redis import PRIORITY_STEPS, Channel

from worker import configuration
from worker.celery.argument_summary import summary
from worker.celery.upstream.full_broker import in_place, insist
from worker.configuration.addresses import redis_url
from worker.errors import Bug, InputError, InvalidQuery, ServiceUnreachable, VectorIndexError
from worker.observability.logs import log_fields

VISIBILITY_TIMEOUT_SECONDS = 60  # after which the messages of a dead worker are taken by another
RESTORE_SECONDS = 10  # between two looks for such messages
HEARTBEAT_SECONDS = 10
STUCK_LOOKS = 9  # in a row, a heartbeat apart: longer than kombu takes to find that its connection is dead
MAX_DEATHS = 3  # of pool processes on one message
DEATHS_HEADER = "vector_index_deaths"
JOB_HEADER = (
    "vector_index_job"  # of a task that stands for another: when that began, and its arguments' summary
)

# what a command raises where the broker is away or full: kombu wraps it in most places, and Celery in none
BROKER_ERRORS = (OperationalError, redis.RedisError)

logger = logging.getLogger("vector_index.broker")


class LeaseHeartbeat(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Renew the visibility of every message that this worker holds, and notice when it takes no more.

    Without it a message that is held for longer than the visibility timeout is delivered again while it runs,
    and a timeout of hours would be needed, after which a dead worker's messages would be taken up. A thread, as
    the event loop stands still during a warm shutdown.

    A worker can stay connected and yet consume nothing (Celery's issues 8030, 8091, 10205, 10302): messages wait,
    it has none in hand, and takes none. A worker that is busy, that waits for the broker, that is stopped for a
    while or that ends is not stuck.
    """

    requires = (Tasks,)
    on_stuck: ClassVar[Callable[[], None] | None] = None  # ends the process
    on_turn: ClassVar[Callable[[], None] | None] = (
        None  # called while the loop turns, or waits for the broker
    )
    _turned: ClassVar[bool] = True  # the loop, since the last look
    _connected: ClassVar[bool] = False  # else the loop stands still until the broker answers again
    _consumer: ClassVar[Any] = None
    _thread: ClassVar[threading.Thread | None] = None
    _looks: ClassVar[int] = 0  # that found messages waiting and nobody taking them
    _taken: ClassVar[int] = 0  # messages since the start

    def start(self, consumer: Any) -> None:
        cls = type(self)
        cls._consumer, cls._connected = consumer, True  # its channel is a new one after each reconnect
        consumer.timer.call_repeatedly(
            HEARTBEAT_SECONDS / 2, self._turn
        )  # a lost connection clears its timers
        if cls._thread is None or not cls._thread.is_alive():
            client = _client(consumer.app.conf.broker_url)
            cls._thread = threading.Thread(
                target=self._beat, args=(client,), name="lease-heartbeat", daemon=True
            )
            cls._thread.start()

    def stop(self, consumer: Any) -> None:
        """Between two connections."""
        type(self)._connected = False

    @classmethod
    def _turn(cls) -> None:
        cls._turned = True

    @classmethod
    def let_go(cls) -> None:
        """Put what this worker holds back into its queues, in front, for others to take at once."""
        if cls._consumer is None or cls._consumer.task_consumer is None:
            return
        channel = cls._consumer.task_consumer.channel
        client = _client(cls._consumer.app.conf.broker_url)
        for tag in _leased(channel):
            with suppress(redis.RedisError):  # its lease ends by itself
                channel.qos.restore_by_tag(tag, client)

    @classmethod
    def _beat(cls, client: "redis.Redis") -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            connected = cls._connected
            if cls.on_turn is not None and (cls._turned or not connected):
                cls._turned = False
                cls.on_turn()
            if not connected or (task_consumer := cls._consumer.task_consumer) is None:
                cls._looks = 0
                continue
            channel = task_consumer.channel
            held = _held(channel.qos)
            try:
                _renew(client, channel)
                stuck = cls._is_stuck(client, task_consumer, held)
            except redis.RedisError as error:
                cls._looks = 0
                logger.warning("leases_not_renewed", extra=log_fields(messages=len(held), error=str(error)))
                continue
            if stuck and cls.on_stuck is not None:
                logger.critical(
                    "this worker is idle and takes none of the messages that wait: it ends, to be started again"
                )
                cls.on_stuck()

    @classmethod
    def _is_stuck(cls, client: "redis.Redis", task_consumer: Any, held: list[Any]) -> bool:
        # counted in looks, not in seconds: a process that was stopped for an hour has looked once
        taken, before = state.all_total_count[0], cls._taken
        cls._taken = taken
        queues = [
            name for queue in task_consumer.queues for name in _lists(task_consumer.channel, queue.name)
        ]
        ending = state.should_stop, state.should_terminate
        idle = not held and taken == before and set(ending) <= {None, False}
        cls._looks = cls._looks + 1 if idle and any(map(client.llen, queues)) else 0
        return cls._looks >= STUCK_LOOKS


def _client(url: str) -> "redis.Redis":
    return redis.Redis.from_url(redis_url(url), socket_timeout=5, socket_connect_timeout=5)


def _held(qos: Any) -> list[str]:
    """The messages in hand. kombu forgets those that are acknowledged when it looks for the next."""
    return [tag for tag in list(qos._delivered) if tag not in qos._dirty]


def _leased(channel: Any) -> list[str]:
    """The messages in hand, and the look under way: what it found waits, where there is no room for it just then."""
    return [*_held(channel.qos), *([channel.look] if channel._in_poll else [])]


def _renew(client: "redis.Redis", channel: Any) -> None:
    """Let nobody else take what is leased here; what has just been given back stays so."""
    if leased := _leased(channel):
        members = [part for tag in leased for part in (time.time(), tag)]
        insist(client, "ZADD", channel.unacked_index_key, "XX", *members)


def _lists(channel: Any, queue: str) -> list[str]:
    """The lists of a queue in Redis: one for each priority."""
    return [channel._q_for_pri(queue, priority) for priority in channel.priority_steps]


def lengths(url: str, queues: Sequence[str]) -> dict[str, int]:
    """The messages that wait in each queue, of every priority. Raises ServiceUnreachable, within seconds."""
    try:
        with _client(url) as client:
            return {
                queue: sum(
                    client.llen(f"{queue}{Channel.sep}{step}" if step else queue) for step in PRIORITY_STEPS
                )
                for queue in queues
            }
    except redis.RedisError as error:
        raise ServiceUnreachable(f"the broker does not answer: {error}") from error


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


def guard_results() -> None:
    """Let a worker with pool processes survive a lost connection while it reads what one of them says.

    Celery 5.7.0: what comes in two parts, as all of more than 16 kB does, is read by a generator that is dropped with
    the connection to the broker. The second part then counts as the next message: `UnpicklingError`, the worker ends.
    """
    read: Any = ResultHandler._recv_message

    def read_on(self: Any, add_reader: Any, fileno: int, callback: Any) -> Iterator[None]:
        process = self.fileno_to_outq[fileno]
        rest = getattr(process, "rest", None) or read(self, add_reader, fileno, callback)
        process.rest = rest  # outlives this generator
        for _ in rest:
            yield
        process.rest = None

    if not hasattr(read, "guarded"):
        read_on.guarded = True  # type: ignore[attr-defined]
        ResultHandler._recv_message = read_on


class HiddenArguments(Request):  # type: ignore[misc]  # celery has no types
    """A request that events, logs, results and monitors show by a summary of its arguments, whoever sent it.

    A task that replaced another is shown as that one: its name, its arguments, and how long both took together.
    """

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        self._job = _job(self._request_dict.get(JOB_HEADER))
        shown = self._job.get("arguments") or summary(
            _parameters(self.task), self._args, self._kwargs, configuration.current().indexes
        )
        # Celery shows the arguments themselves where one of the two is empty
        self._argsrepr, self._kwargsrepr = shown, " "
        self._request_dict.update(argsrepr=shown, kwargsrepr=" ")

    def info(self, safe: bool = False) -> dict[str, Any]:
        """As Celery's; but never with the arguments, which `inspect active` and Flower's page of a worker show."""
        info: dict[str, Any] = super().info(safe=True)
        return info

    def send_event(self, type: str, **fields: Any) -> None:
        """As Celery's; but it tells the queue, and of a task that stands for another only how that one went on."""
        if not (self._eventer and self._eventer.enabled):
            return
        if type == "task-started":
            if not self.task.send_events:
                return
            fields["routing_key"] = self.delivery_info["routing_key"]
        if self._job:
            fields |= {
                "name": self.name,
                "args": self._argsrepr,
            }  # for a monitor that did not see the beginning
            if type == "task-succeeded":
                fields["runtime"] = max(0.0, time.time() - self._job["began"])
        self._eventer.send(type, uuid=self.id, **fields)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """As Celery's; but a message on which pool processes die again and again ends as a failure.

        Celery counts these deaths with the retries for services that are away, of which there is no end.
        """
        error = exc_info.exception
        error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        ended = isinstance(error, SystemExit) and not (self._already_cancelled or self._already_revoked)
        if ended or isinstance(error, WorkerLostError):
            headers = dict(self._context.headers or {})
            deaths = headers[DEATHS_HEADER] = headers.get(DEATHS_HEADER, 0) + 1
            self._context.headers = headers
            if deaths >= MAX_DEATHS:
                exc_info = _told(
                    f"{self.name} ended its process {deaths} times: give it more memory, or send its documents in "
                    "smaller messages to find the one that does it"
                )
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


def _job(header: object) -> dict[str, Any]:
    """What `replace` wrote; anything else is as good as nothing."""
    match header:
        case {"arguments": str(arguments), "began": float(began)}:
            return {"arguments": arguments, "began": began}
    return {}


@cache
def _parameters(task: Task) -> Sequence[str]:
    return tuple(signature(task.run).parameters)


def _told(sentence: str) -> ExceptionInfo:
    try:
        raise InputError(sentence)
    except InputError:
        return ExceptionInfo()


class HideBodies(logging.Filter):
    """Celery logs a page with the whole body about a message that it cannot take: keep the reason only."""

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
            args = (*record.args[:shown], *["(hidden)"] * (len(record.args) - shown))
            reason = (record.msg % args).splitlines()[0]
            record.msg, record.args, record.exc_info = "message_refused", (), None
            vars(record).update(log_fields(error=reason))
        return True


class OneLine(logging.Filter):
    """Celery's beat logs a stack and a traceback each time that the broker does not answer: keep the reason."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], SchedulingError):
            record.msg, record.args, record.exc_info = "%s", (record.exc_info[1],), None
        return True


class HiddenTask(Task):  # type: ignore[misc]
    """The base of all our tasks."""

    abstract = True
    default_retry_delay = 5  # seconds; after the death of its process
    throws = (VectorIndexError,)  # said in one line of the log; any other error is a bug, with its traceback
    Request = "worker.celery.broker:HiddenArguments"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises InvalidQuery for arguments that are not the task's: a mistake of the sender, no bug of ours.

        And ServiceUnreachable where the broker did not do its part. Of an exception that nobody expected, log, result
        and monitors have the kind and the place: its words may quote a text.
        """
        takes = signature(self.run)
        try:
            takes.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidQuery(f"{self.name}: {error}; it takes {', '.join(takes.parameters)}") from None
        try:
            return super().__call__(*args, **kwargs)
        except BROKER_ERRORS as error:
            raise ServiceUnreachable(f"the broker does not do its part: {error}") from None
        except (VectorIndexError, CeleryError, KombuError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is
            raise Bug.of(error) from None

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self.request.began = time.time()

    def replace(self, sig: Any) -> Any:
        """As Celery's; and monitors see one task, as it was sent, from its start to its end."""
        request = self.request
        job = _job((request.headers or {}).get(JOB_HEADER))
        job = job or {"arguments": request.argsrepr, "began": request.began}
        with in_place():
            return super().replace(sig.set(shadow=request.shadow or self.name, headers={JOB_HEADER: job}))

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """As Celery's; and monitors, which see no states of our own, get an event of them."""
        super().update_state(task_id=task_id, state=state, meta=meta, **kwargs)
        if state == "PROGRESS" and task_id is None and self.app.conf.worker_send_task_events and meta:
            counts = ", ".join(f"{count:,} {name}" for name, count in meta.items() if isinstance(count, int))
            known = {"name": self.request.shadow or self.name, "args": self.request.argsrepr}
            with suppress(*BROKER_ERRORS):  # nothing is lost: the next one tells more
                self.send_event("task-progress", retry=False, result=counts, **known)

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's; but when the broker does not take the retry, the message stays, where Celery drops it."""
        try:
            with in_place():
                return super().retry(*args, **kwargs)
        except Reject as rejected:
            raise Reject(rejected.reason, requeue=True) from rejected
