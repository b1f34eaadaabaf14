"""Background threads: they repeat one step, survive its errors, and stop within a timeout.

The slots of the drainers and the outbox poller run in such threads. If an error ended one, the process would go on
with fewer slots, or without a poller, unnoticed.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from worker.errors import Bug, TemporaryError

PAUSE_SECONDS = 15.0  # after an internal error: it would probably occur again at once


class BackgroundThread:
    """A daemon thread that repeats `step` until `stopping` is set.

    A TemporaryError goes to `on_unreachable`, which waits as long as it likes. Any other error is logged as `failure`,
    without its message, and the thread pauses.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], Any],
        *,
        stopping: threading.Event,
        on_unreachable: Callable[[TemporaryError], None],
        logger: logging.Logger,
        failure: str,  # what failed, for the log
    ) -> None:
        self._step, self._stopping, self._on_unreachable = step, stopping, on_unreachable
        self._logger, self._failure = logger, failure
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread. Returns whether it has ended; a thread that was not started has."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_seconds))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except TemporaryError as error:
                self._on_unreachable(error)
            except Exception as error:  # this thread must survive any bug
                self._logger.error(self._failure, exc_info=Bug.of(error))
                self._stopping.wait(PAUSE_SECONDS)
