"""The scheduler as a thread of a worker, in place of the process `vector-index beat`."""

import logging
import threading
from typing import Any

from celery import bootsteps
from celery.beat import Scheduler

from worker.errors import TemporaryError
from worker.indexing.background import BackgroundThread

STOP_SECONDS = 2.0

logger = logging.getLogger("vector_index.scheduler")


class SchedulerStep(bootsteps.StartStopStep):
    """Sends the periodic tasks from a worker that is started with `--periodic`.

    As with beat, the due times are in Postgres, so any number of them is harmless.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, periodic: bool = False, **options: Any) -> None:
        super().__init__(worker, **options)
        self.enabled = periodic

    def start(self, worker: Any) -> None:
        self._scheduler = Scheduler(worker.app)
        self._stopping = threading.Event()
        self._thread = BackgroundThread(
            "scheduler",
            self._tick,
            stopping=self._stopping,
            on_unreachable=self._pause,
            logger=logger,
            failure="the scheduler failed",
        )
        self._thread.start()

    def stop(self, worker: Any) -> None:
        self._stopping.set()
        if self._thread.join(STOP_SECONDS):
            self._scheduler.close()

    def _tick(self) -> None:
        """Send the next task if it is due, and wait for the one after it."""
        self._stopping.wait(self._scheduler.tick())

    def _pause(self, error: TemporaryError) -> None:
        self._stopping.wait(STOP_SECONDS)
