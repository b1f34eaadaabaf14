"""Batching: small messages that arrive together are run together, in one call of the pool.

A message with one document costs many times what its document costs. So small messages are collected while all pool
processes are busy, and for 0.1 s after the last batch began. Then a free process gets all of them. On a system at rest,
a message starts at once. Messages start in the order in which they arrive.

A task takes part if it has a `run_together`. It returns the ids of the calls that it took; the others run by
themselves, as Celery runs them. So do all of them if it raises an exception.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from billiard.exceptions import WorkerLostError
from celery import current_app
from celery.app.task import Context
from celery.states import IGNORED
from celery.worker.state import task_ready

from worker.celery.requests import RedactedRequest
from worker.celery.retries import BROKER_ERRORS
from worker.celery.upstream.redelivery import acknowledge, return_to_front
from worker.celery.upstream.refusals import Consumer
from worker.errors import Bug, VectorIndexError
from worker.observability import events

MESSAGES = 100  # of a batch at most, and those that a worker takes from the broker for the next one
EVENTS_SECONDS = 0.1  # that an event for monitors waits for others
BATCH_SECONDS = 0.1  # from the start of a batch to the next one, unless so many messages wait
WAIT_SECONDS = 5.0  # for a pool process, before the messages return to the broker: other workers may be idle

logger = logging.getLogger("vector_index.batching")


class RunAlone(Exception):
    """Raised by `run_together`: the messages run one by one, which is nothing unusual."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A message of a batch, in a pool process."""

    request: Context  # as `self.request` of a task
    args: Sequence[Any]
    kwargs: dict[str, Any]


class BatchingConsumer(Consumer):
    """Collects small messages for the next free pool process. Celery is told by the setting `worker_consumer`."""

    def __init__(self, on_task_request: Any, *args: Any, **kwargs: Any) -> None:
        self._forget()
        self._next_at = 0.0  # monotonic seconds: when the next batch may begin
        has_processes = kwargs["pool"].uses_semaphore and kwargs["controller"].pool_putlocks
        super().__init__(self._take if has_processes else on_task_request, *args, **kwargs)

    def on_close(self) -> None:
        """Forget the messages of a lost connection: the broker delivers them again."""
        self._forget()
        super().on_close()

    def _forget(self) -> None:
        self._waiting: list[RedactedRequest] = []  # in the order of their arrival
        self._running: list[Sequence[RedactedRequest]] = []  # batches
        self._has_asked = False  # for a pool process
        self._asked_at = 0.0  # monotonic seconds
        self._has_timer = False  # for the next batch
        self._is_full = False  # whether each process has a long task, and no message is taken in advance
        self._raised = 0  # by how much the prefetch count is raised
        self._flushes = False  # whether a timer will send the events

    def on_send_event_buffered(self) -> None:
        """Send the events of some messages together: one by one they take a third of the time of this process."""
        if self.hub and not self._flushes:
            self._flushes = True
            self.hub.call_soon(self._flush_soon)  # threads send events too, and timers are for the loop's own

    def _flush_soon(self) -> None:
        self.timer.call_after(EVENTS_SECONDS, self._flush)

    def _flush(self) -> None:
        self._flushes = False
        self._flush_events()

    def _take(self, request: RedactedRequest) -> None:
        if self._is_late():
            # not earlier: the worker may have asked for this message already, and reads no answer while it is full
            self._is_full = True
            self._return([request])
        else:
            self._waiting.append(request)
            self._ask()
        self._adjust_prefetch()

    def _ask(self) -> None:
        """Ask for a pool process, once it is time for what waits."""
        if not self._waiting or self._has_asked:
            return
        collects = len(self._waiting) < MESSAGES and all(request.may_join for request in self._waiting)
        if collects and time.monotonic() < self._next_at:
            if not self._has_timer:
                self._has_timer = True
                self.timer.call_at(self._next_at, self._ask_in_time)
        else:
            self._has_asked, self._asked_at = True, time.monotonic()
            self.timer.call_after(WAIT_SECONDS, self._look)
            self.controller.semaphore.acquire(self._start)

    def _ask_in_time(self) -> None:
        self._has_timer = False
        self._ask()

    def _start(self) -> None:
        """Use the pool process that has become free, after `_finish`: the pool frees a process first."""
        self.hub.call_soon(self._use_process)

    def _use_process(self) -> None:
        if not self._has_asked:  # the connection was lost
            return
        self._has_asked = self._is_full = False
        batch = self._next()
        if len(batch) == 1 and not batch[0].may_join:
            batch[0].execute_using_pool(self.pool)
        elif batch:
            self._start_batch(batch)
        else:
            self.controller.semaphore.release()
        self._ask()
        self._adjust_prefetch()

    def _next(self) -> Sequence[RedactedRequest]:
        """Remove the messages of the next batch, or the next one that runs by itself; none that is revoked."""
        while self._waiting:
            first = self._waiting[0]
            batch = [first]
            for request in self._waiting[1:MESSAGES]:
                if not (first.may_join and request.may_join and request.task is first.task):
                    break
                batch.append(request)
            del self._waiting[: len(batch)]
            if left := [request for request in batch if not request.revoked()]:
                return left
        return []

    def _look(self) -> None:
        """Return the messages that wait if each process has a long task."""
        if self._is_late():
            late, self._waiting = self._waiting, []
            self._return(late)
            self._adjust_prefetch()

    def _is_late(self) -> bool:
        return self._has_asked and time.monotonic() - self._asked_at >= WAIT_SECONDS

    def _start_batch(self, batch: Sequence[RedactedRequest]) -> None:
        self._running.append(batch)
        self._next_at = time.monotonic() + BATCH_SECONDS
        self.pool.apply_async(
            run,
            args=(batch[0].task.name, [(each.id, each.request_dict, each.body) for each in batch]),
            accept_callback=partial(_accept, batch),
            callback=partial(self._finish, batch),
            error_callback=partial(self._fail, batch),
        )

    def _finish(self, batch: Sequence[RedactedRequest], joined: Sequence[str]) -> None:
        """Acknowledge the messages that ran, given by id; the others run by themselves."""
        done = set(joined)
        if self._end(batch):
            self._acknowledge([request for request in batch if request.id in done])
            alone = [request for request in batch if request.id not in done and not request.is_revoked]
            for request in alone:
                request.runs_alone = True
            self._waiting = [*alone, *self._waiting]
        else:  # the broker delivers them again
            for request in batch:
                task_ready(request)
        self._ask()
        self._adjust_prefetch()

    def _fail(self, batch: Sequence[RedactedRequest], exc_info: Any) -> None:
        """Return the messages of a dead process. From then on each runs by itself, so only the guilty one fails."""
        self._end(batch)
        left = [request for request in batch if not request.is_revoked]
        if issubclass(exc_info.type, WorkerLostError | SystemExit):
            for request in left:
                _guarded(partial(request.on_failure, exc_info))
        else:  # somebody ended one of them
            self._return(left)
        self._ask()
        self._adjust_prefetch()

    def _end(self, batch: Sequence[RedactedRequest]) -> bool:
        """Note that a batch has ended; return whether it is of this connection."""
        if not any(running is batch for running in self._running):
            return False
        self._running = [running for running in self._running if running is not batch]
        return True

    def _acknowledge(self, requests: Sequence[RedactedRequest]) -> None:
        for request in requests:
            task_ready(request)
            request.acknowledged = True
        self._tell(acknowledge, requests)

    def _return(self, requests: Sequence[RedactedRequest]) -> None:
        """Return messages to the front of their queue, for any worker."""
        for request in requests:
            task_ready(request)
            request.acknowledged = True
            request.send_event("task-rejected", requeue=True)
        self._tell(return_to_front, requests)

    def _tell(self, command: Callable[[Sequence[Any]], None], requests: Sequence[RedactedRequest]) -> None:
        try:
            command([request.message for request in requests])
        except (*self.connection_errors, *BROKER_ERRORS) as error:  # their leases expire, and they come again
            logger.error("the broker does not take %d messages back: %s", len(requests), error)

    def _adjust_prefetch(self) -> None:
        """Let each small message that waits make room for another one; a batch takes the room of one message."""
        small = sum(request.may_join for request in self._waiting)
        collects = (small or self._running) and small == len(self._waiting) and not self._is_full
        wanted = min(small, MESSAGES) + bool(collects) + sum(len(batch) - 1 for batch in self._running)
        if self.qos is None:  # there is no connection now
            return
        self.qos.increment_eventually(max(0, wanted - self._raised))
        self.qos.decrement_eventually(max(0, self._raised - wanted))
        self._raised = wanted


def _accept(batch: Sequence[RedactedRequest], pid: int, time_accepted: float) -> None:
    for request in batch:
        _guarded(partial(request.on_accepted, pid, time_accepted))


def _guarded(end: Callable[[], object]) -> None:
    """Let an error at one message leave the others of its batch alone."""
    try:
        end()
    except Exception as error:
        logger.error("a message of a batch is left to its lease", exc_info=Bug.of(error))


def run(name: str, messages: Sequence[tuple[str, dict[str, Any], Any]]) -> Sequence[str]:
    """Run a task for the messages of a batch, in a pool process: task id, headers and body of each.

    Returns the ids of those that ran.
    """
    task = current_app.tasks[name]
    began = time.monotonic()
    try:
        joined: Sequence[str] = task.run_together([_call(*message) for message in messages])
    except Exception as error:  # whatever it is: the message that causes it fails by itself
        if not isinstance(error, (RunAlone, VectorIndexError, *BROKER_ERRORS)):
            logger.error("%d messages cannot be run together", len(messages), exc_info=Bug.of(error))
        return []
    for _ in joined:
        events.task(name, IGNORED, (time.monotonic() - began) / len(joined))
    return joined


def _call(id: str, request: dict[str, Any], body: tuple[list[Any], dict[str, Any], Any]) -> Call:
    args, kwargs, _ = body
    return Call(request=Context(request, id=id), args=args, kwargs=kwargs)
