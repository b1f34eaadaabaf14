"""Wake-ups between the threads of a process, so that a document is searchable as soon as its work is done.

The queue and the jobs are in Postgres, and other processes change them too: each thread that waits also looks by itself
from time to time.
"""

import threading


class Wakeup:
    """Something happened that threads of this process wait for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        """How often it has happened. Read it before you look for work: then `wait` misses nothing."""
        return self._count

    def notify(self) -> None:
        """Wake every thread that waits."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait(self, count: int, timeout_seconds: float) -> None:
        """Wait until it has happened again since it had happened `count` times, or until the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._count != count, timeout_seconds)


queued = Wakeup()  # a job has staged its documents: contents may be in the queue, perhaps of a new index
settled = Wakeup()  # documents became searchable, or failed; or a job began to wait
