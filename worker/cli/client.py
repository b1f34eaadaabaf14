"""A Celery client: sends tasks by name, waits for their results, and notices when workers for them are missing."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker.celery.broker_errors import broker_error
from worker.celery.own_addresses import OwnAddresses
from worker.configuration import Configuration
from worker.configuration.addresses import celery_settings
from worker.errors import ServiceUnreachable, VectorIndexError
from worker.keyspace import CONTROL
from worker.services import attach

STALL_SECONDS = 10  # without progress of a task, until the client asks whether a worker consumes its queue
POLL_SECONDS = 0.05

# Report an unreachable broker within a second; Celery's default policy takes 19.
RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}


class TaskFailed(VectorIndexError):
    """A task ended with an error other than a VectorIndexError.

    Do: read the sentence. The log of the worker has more.
    """


class Client:
    """Sends tasks by name and waits for their results. Raises ServiceUnreachable instead of waiting forever."""

    def __init__(self, configuration: Configuration, sleep: Callable[[float], None] = time.sleep) -> None:
        self.sleep = sleep  # called between two polls of a result
        if configuration.broker_url:
            self.broker_url = configuration.broker_url
        else:
            self.broker_url = attach(configuration.home, postgres=False).broker_url
        results = configuration.result_backend or self.broker_url
        addresses = celery_settings(self.broker_url, results)
        self.app = OwnAddresses(set_as_current=False, fixups=())
        self.app.backend_cls = addresses["result_backend"]
        self.app.conf.update(
            addresses,
            control_exchange=CONTROL,
            broker_transport_options={"socket_connect_timeout": 5, "socket_timeout": 30},
            redis_socket_connect_timeout=5,
            result_backend_transport_options={"retry_policy": RETRY_POLICY},
        )
        with self.reachable(), self.app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)

    def send(self, task: str, queue: str, **kwargs: Any) -> "AsyncResult[Any]":
        """Enqueue a task, without a summary of its arguments for monitors: the worker makes that."""
        with self.reachable():
            return self.app.send_task(task, queue=queue, kwargs=kwargs, argsrepr="()", kwargsrepr="{}")

    def call(self, task: str, queue: str, **kwargs: Any) -> Any:
        """Send a task and return its result. Raises the error of the task."""
        return self.wait(self.send(task, queue, **kwargs), queue)

    def wait(
        self,
        result: "AsyncResult[Any]",
        *queues: str,
        on_wait: Callable[[object], object] = lambda progress: None,
    ) -> Any:
        """Return the result of a task that these queues run. Raises the error of the task.

        `on_wait` gets the progress of the task at each poll.
        """
        stall = StallDetector(self, *queues)
        with self.reachable():
            while not result.ready():
                progress = progress_of(result)
                stall.check(progress)
                on_wait(progress)
                self.sleep(POLL_SECONDS)
        return result_of(result)

    def consumers(self, *, timeout_seconds: float = 2) -> Mapping[str, set[str]]:
        """Return the worker nodes that reply in time, each with the queues that it consumes."""
        with self.reachable():
            found = self.app.control.inspect(timeout=timeout_seconds).active_queues() or {}
        return {node: {queue["name"] for queue in queues} for node, queues in found.items()}

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Turn connection errors into ServiceUnreachable, and a refused login into SettingsError."""
        try:
            yield
        except (OperationalError, RedisError, OSError) as error:
            raise broker_error("BROKER_URL", self.broker_url, error) from error


class StallDetector:
    """Notices that a task makes no progress because no worker consumes one of its queues."""

    def __init__(self, client: Client, *queues: str) -> None:
        self.client, self.queues = client, queues
        self.last: object = None
        self.since = time.monotonic()

    def check(self, progress: object) -> None:
        """Call this with any value that changes with progress. Raises ServiceUnreachable if no worker is running."""
        if progress != self.last:
            self.last, self.since = progress, time.monotonic()
        elif time.monotonic() - self.since > STALL_SECONDS:
            served = set[str]().union(*self.client.consumers().values())
            for queue in self.queues:
                if queue in served:
                    continue
                raise ServiceUnreachable(
                    f"no worker consumes the queue {queue}: start one with `vector-index up` or "
                    "`vector-index worker`; your request stays in the queue"
                )
            self.since = time.monotonic()


def progress_of(result: "AsyncResult[Any]") -> tuple[str, Mapping[str, int]]:
    """State of a task and its counts so far, from one read, because the task may end at any time."""
    meta = result.backend.get_task_meta(result.id)
    return meta["status"], meta["result"] if meta["status"] == "PROGRESS" else {}


def result_of(result: "AsyncResult[Any]") -> Any:
    """Return the value of a finished task. Raises its VectorIndexError, or TaskFailed for any other error."""
    error = result.result if result.state != "SUCCESS" else None
    if error is None:
        return result.result
    if isinstance(error, VectorIndexError):
        raise error
    raise TaskFailed(f"{result.state.lower()}: {type(error).__name__}: {error}")
