"""An application of our own: addresses, tasks by name, and waiting for them with a way out."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker.configuration import Configuration
from worker.configuration.addresses import redacted
from worker.errors import ServiceUnreachable, VectorIndexError
from worker.services import attach

PATIENCE_SECONDS = 10  # without a sign of the task, before the workers are asked
LOOK_SECONDS = 0.05

# An unreachable broker is told within a second; Celery's own policy takes 19.
RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}


class TaskFailed(VectorIndexError):
    """A task ended with an error that is none of ours."""


class Client:
    """Sends tasks by name and waits for their results. Raises ServiceUnreachable, never hangs."""

    def __init__(self, configuration: Configuration, sleep: Callable[[float], None] = time.sleep) -> None:
        self.sleep = sleep  # between two looks at a result
        if configuration.broker_url:
            self.broker_url = configuration.broker_url
        else:
            self.broker_url = attach(configuration.home, postgres=False).broker_url
        self.app = Celery(
            broker=self.broker_url,
            backend=configuration.result_backend or self.broker_url,
            set_as_current=False,
            fixups=(),
        )
        self.app.conf.update(
            broker_transport_options={"socket_connect_timeout": 5, "socket_timeout": 30},
            redis_socket_connect_timeout=5,
            result_backend_transport_options={"retry_policy": RETRY_POLICY},
        )
        with self.reachable(), self.app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)

    def send(self, task: str, queue: str, **kwargs: Any) -> "AsyncResult[Any]":
        """Enqueue a task. What monitors see of its arguments is made by the worker."""
        with self.reachable():
            return self.app.send_task(task, queue=queue, kwargs=kwargs, argsrepr="()", kwargsrepr="{}")

    def call(self, task: str, queue: str, **kwargs: Any) -> Any:
        """The result of a task. Raises what the task raised."""
        return self.wait(self.send(task, queue, **kwargs), queue)

    def wait(self, result: "AsyncResult[Any]", queue: str) -> Any:
        """The result of a task that was sent to the queue. Raises what the task raised."""
        waiting = Waiting(self, queue)
        with self.reachable():
            while not result.ready():
                waiting.check(result.state)
                self.sleep(LOOK_SECONDS)
        return outcome(result)

    def consumers(self, *, timeout_seconds: float = 2) -> Mapping[str, set[str]]:
        """The nodes that answer within the time, each with the queues that it consumes."""
        with self.reachable():
            found = self.app.control.inspect(timeout=timeout_seconds).active_queues() or {}
        return {node: {queue["name"] for queue in queues} for node, queues in found.items()}

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Errors of the connection -> ServiceUnreachable."""
        try:
            yield
        except (OperationalError, RedisError, OSError) as error:
            raise ServiceUnreachable(
                f"the broker {redacted(self.broker_url)} cannot be reached ({error}): start it, run "
                "`vector-index up`, or set BROKER_URL"
            ) from error


class Waiting:
    """Notices when nobody consumes the queue that a task waits in."""

    def __init__(self, client: Client, queue: str) -> None:
        self.client, self.queue = client, queue
        self.seen: object = None
        self.since = time.monotonic()

    def check(self, sign: object) -> None:
        """Call it with whatever shows progress. Raises ServiceUnreachable when no worker is there."""
        if sign != self.seen:
            self.seen, self.since = sign, time.monotonic()
        elif time.monotonic() - self.since > PATIENCE_SECONDS:
            if not any(self.queue in queues for queues in self.client.consumers().values()):
                raise ServiceUnreachable(
                    f"no worker consumes the queue {self.queue}: start one with `vector-index up` or "
                    "`vector-index worker`; what was sent waits for it"
                )
            self.since = time.monotonic()


def outcome(result: "AsyncResult[Any]") -> Any:
    """The value of a task that is ready; raises its error: ours as it was, any other as TaskFailed."""
    error = result.result if result.state != "SUCCESS" else None
    if error is None:
        return result.result
    if isinstance(error, VectorIndexError):
        raise error
    raise TaskFailed(f"{result.state.lower()}: {type(error).__name__}: {error}")
