"""Wait for the results of jobs: one look into Postgres for all jobs that wait in a process."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from worker.indexing import wakeups
from worker.indexing.jobs import job_results
from worker.results import Indexed
from worker.store import connection

LOOK_SECONDS = 0.1  # between two looks while documents of other processes become searchable


@dataclass(kw_only=True, eq=False)
class _Waiting:
    """A job that a thread waits for."""

    index: str
    task_id: str
    ready: "SimpleQueue[_Waiting]"  # jobs of the thread that have a result
    result: Indexed | Exception | None = None


class JobWatcher:
    """Looks for the results of the jobs that threads of this process wait for."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()
        self._is_looking = False  # whether a thread does so; it ends once nobody waits

    def result(self, index: str, task_id: str, *, timeout_seconds: float) -> Indexed | None:
        """Wait for the result of a job; `None` after the timeout.

        Raises InvalidQuery when the database has no such job, ServiceUnreachable when Postgres does not answer.
        """
        for done in self.results(index, [task_id], timeout_seconds=timeout_seconds):
            result = done[task_id]
            if isinstance(result, Exception):
                raise result
            return result
        return None

    def results(
        self, index: str, task_ids: Sequence[str], *, timeout_seconds: float
    ) -> Iterator[dict[str, Indexed | Exception]]:
        """Yield the results of jobs of an index as soon as they are done, until the timeout; errors as of `result`."""
        end = time.monotonic() + timeout_seconds
        ready: SimpleQueue[_Waiting] = SimpleQueue()
        jobs = [_Waiting(index=index, task_id=task_id, ready=ready) for task_id in task_ids]
        left = len(jobs)
        with self._lock:
            self._waiting += jobs
            if not self._is_looking:
                self._is_looking = True
                threading.Thread(target=self._look_until_all_are_done, name="jobs", daemon=True).start()
        wakeups.settled.notify()
        try:
            while left:
                done = [ready.get(timeout=max(0.0, end - time.monotonic()))]
                done += [ready.get() for _ in range(ready.qsize())]
                left -= len(done)
                yield {job.task_id: job.result for job in done if job.result is not None}
        except Empty:
            return
        finally:
            with self._lock:
                self._waiting = [job for job in self._waiting if job.ready is not ready]

    def _look_until_all_are_done(self) -> None:
        while True:
            seen = wakeups.settled.count
            with self._lock:
                waiting = [job for job in self._waiting if job.result is None]
                if not waiting:
                    self._is_looking = False
                    return
            began = time.monotonic()
            self._look(waiting)
            # reading a job of a million documents takes a while: spend at most half of the time on it
            time.sleep(time.monotonic() - began)
            wakeups.settled.wait(seen, LOOK_SECONDS)

    def _look(self, waiting: list[_Waiting]) -> None:
        by_index: dict[str, list[_Waiting]] = defaultdict(list)
        for job in waiting:
            by_index[job.index].append(job)
        for index, jobs in by_index.items():
            results: dict[str, Indexed | Exception | None] = {}
            try:
                with connection.checkout(self._url) as conn:
                    results |= job_results(conn, index, [job.task_id for job in jobs])
            except Exception as error:  # noqa: BLE001 - whatever it is: each thread that waits raises it
                results |= {job.task_id: error for job in jobs}
            for job in jobs:
                job.result = results[job.task_id]
                if job.result is not None:
                    job.ready.put(job)
