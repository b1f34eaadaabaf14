"""Graceful shutdown of a worker process: finish current work, then return the rest to the queues."""

import logging
import os
import signal
import threading
from contextlib import suppress
from typing import Any, NoReturn

import billiard
from celery import bootsteps, signals
from celery.worker.components import Pool

from worker.celery import background_threads, metrics_endpoint
from worker.celery.heartbeat import HeartbeatThread
from worker.celery.liveness import HeartbeatFile, NodeName
from worker.observability.logs import log_fields
from worker.store import connection

STOP_SECONDS = 10.0  # grace period for current work; `up` kills a worker after 15
RELEASE_SECONDS = 3.0  # for returning unfinished work

logger = logging.getLogger("vector_index.worker")

heartbeat_file = HeartbeatFile()
node_name = NodeName()
_stopping, _second_signal = threading.Event(), threading.Event()


@signals.worker_shutting_down.connect
def stop(code: int = 0, **_: Any) -> None:
    """Stop claiming work, and end after STOP_SECONDS or at a second signal.

    Celery itself waits for running tasks without a limit, and cannot interrupt the threads pool.
    """
    background_threads.stop(0.0)
    if not _stopping.is_set():
        _stopping.set()
        threading.Thread(target=_leave_in_time, args=(code,), name="leave-in-time", daemon=True).start()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda *_: _second_signal.set())


class StopInTime(bootsteps.StartStopStep):
    """Bounds every shutdown: by a signal, a remote command or an error inside Celery.

    After an error Celery waits for its pool without a limit, while the leases of its messages are renewed.
    """

    requires = (Pool,)

    def close(self, worker: Any) -> None:
        stop(code=worker.exitcode or 0)


@signals.worker_shutdown.connect
def finish(**_: Any) -> None:
    """Wait for requests in flight; `_leave_in_time` bounds the wait."""
    background_threads.stop(STOP_SECONDS)
    connection.close_pools()
    clean_up()


def _leave_in_time(code: int) -> None:
    # logged here, because a signal handler must not log
    logger.info("stopping", extra=log_fields(at_most_seconds=STOP_SECONDS))
    _second_signal.wait(STOP_SECONDS)
    logger.warning("grace period over; returning unfinished work to the queue")
    leave(code)


def leave(code: int) -> NoReturn:
    """End the process now, and return its unfinished work if Postgres and the broker answer."""
    try:
        releasing = threading.Thread(target=_release_in_flight, name="release-in-flight", daemon=True)
        releasing.start()
        releasing.join(RELEASE_SECONDS)
        for child in billiard.active_children():
            with suppress(
                ProcessLookupError
            ):  # the pool has reaped it already, which billiard does not notice
                os.kill(child.pid, signal.SIGKILL)
        clean_up()
    finally:
        os._exit(code)


def clean_up() -> None:
    """Remove the files of this process, for good."""
    metrics_endpoint.remove_files()
    heartbeat_file.remove()


def _release_in_flight() -> None:
    background_threads.release_in_flight()
    HeartbeatThread.release_in_flight()
