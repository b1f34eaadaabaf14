"""Batching: small messages that arrive together are run together, in one call of the pool.

A message with one document costs many times what its document costs. So small messages are collected while all pool
processes are busy, and for 0.1 s after the last batch began. Then a free process gets all of them. On a system at rest,
a message starts at once.

A task takes part if it has a `run_together`. It takes all messages of a batch, or it raises an exception: then each of
them runs by itself, as Celery runs it.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery import current_app
from celery.app import trace
from celery.app.task import Context
from celery.states import IGNORED
from celery.worker.state import task_ready

from worker.celery.requests import RedactedRequest
from worker.celery.retries import BROKER_ERRORS
from worker.celery.upstream.redelivery import acknowledge
from worker.celery.upstream.refusals import Consumer
from worker.errors import Bug, VectorIndexError
from worker.observability import events

MESSAGES = 100  # of a batch at most, and those that a worker takes from the broker for the next one
EVENTS_SECONDS = 0.02  # that an event for monitors waits for others
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
        self._run_alone = on_task_request
        self._waiting: list[RedactedRequest] = []
        self._running: list[Sequence[RedactedRequest]] = []
        self._has_asked = False  # for a pool process
        self._asked_at = 0.0  # monotonic seconds
        self._next_at = 0.0  # the same: when the next batch may begin
        self._is_full = False  # whether each process has a long task, and no message is taken in advance
        self._raised = 0  # by how much the prefetch count is raised
        self._flushes = False  # whether a timer will send the events
        has_processes = kwargs["pool"].uses_semaphore and kwargs["controller"].pool_putlocks
        super().__init__(self._take if has_processes else on_task_request, *args, **kwargs)

    def on_close(self) -> None:
        """Forget the messages of a lost connection: the broker delivers them again."""
        super().on_close()
        self._waiting, self._running, self._raised = [], [], 0
        self._has_asked = self._is_full = self._flushes = False

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
            _return([request])
            self._adjust_prefetch()
        elif request.may_join:
            self._waiting.append(request)
            self._ask()
            self._adjust_prefetch()
        else:
            self._run_alone(request)

    def _ask(self) -> None:
        """Ask for a pool process, once it is time for the next batch."""
        if not self._waiting or self._has_asked:
            return
        if len(self._waiting) < MESSAGES and time.monotonic() < self._next_at:
            self.timer.call_at(self._next_at, self._ask)
        else:
            self._has_asked, self._asked_at = True, time.monotonic()
            self.timer.call_after(WAIT_SECONDS, self._look)
            self.controller.semaphore.acquire(self._start)

    def _start(self) -> None:
        """Use the pool process that has become free."""
        self._has_asked = self._is_full = False
        task = self._waiting[0].task if self._waiting else None
        batch = [request for request in self._waiting if request.task is task][:MESSAGES]
        self._waiting = [request for request in self._waiting if request not in batch]
        batch = [request for request in batch if not request.revoked()]
        if batch:
            self._start_batch(batch)
        else:
            self.controller.semaphore.release()
        self._ask()
        self._adjust_prefetch()

    def _look(self) -> None:
        """Return the messages that wait if each process has a long task."""
        if self._is_late():
            late, self._waiting = self._waiting, []
            _return(late)
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
            correlation_id=batch[0].id,
        )

    def _finish(self, batch: Sequence[RedactedRequest], outcomes: Sequence[Any]) -> None:
        self._end(batch)
        joined = [request for request, outcome in zip(batch, outcomes, strict=True) if outcome is None]
        for request in joined:
            task_ready(request)
        self._acknowledge(joined)
        for request, outcome in zip(batch, outcomes, strict=True):
            if outcome is not None:
                request.on_success(outcome)

    def _acknowledge(self, requests: Sequence[RedactedRequest]) -> None:
        """Acknowledge messages of one connection together."""
        for request in requests:
            request.acknowledged = True
        messages = [request.message for request in requests]
        try:
            acknowledge(messages)
        except self.connection_errors as error:  # the broker delivers them again
            logger.error("%d messages are not acknowledged: %s", len(messages), error)

    def _fail(self, batch: Sequence[RedactedRequest], exc_info: Any) -> None:
        """Return the messages of a dead process. From then on each runs by itself, so only the guilty one fails."""
        self._end(batch)
        for request in batch:
            if not request.is_revoked:
                request.on_failure(exc_info)

    def _end(self, batch: Sequence[RedactedRequest]) -> None:
        if batch in self._running:
            self._running.remove(batch)
            self._ask()
            self._adjust_prefetch()

    def _adjust_prefetch(self) -> None:
        """Let each small message that waits make room for another one; a batch takes the room of one message."""
        collects = (self._waiting or self._running) and not self._is_full
        ahead = 1 + min(len(self._waiting), MESSAGES) if collects else 0
        wanted = ahead + sum(len(batch) - 1 for batch in self._running)
        self.qos.increment_eventually(max(0, wanted - self._raised))
        self.qos.decrement_eventually(max(0, self._raised - wanted))
        self._raised = wanted


def _return(requests: Sequence[RedactedRequest]) -> None:
    for request in requests:
        task_ready(request)
        request.reject(requeue=True)


def _accept(batch: Sequence[RedactedRequest], pid: int, time_accepted: float) -> None:
    for request in batch:
        request.on_accepted(pid, time_accepted)


def run(name: str, messages: Sequence[tuple[str, dict[str, Any], Any]]) -> list[Any]:
    """Run a task for the messages of a batch, in a pool process: task id, headers and body of each.

    Returns an outcome for each: `None` if `run_together` took it, else what Celery's tracer returns.
    """
    task = current_app.tasks[name]
    began = time.monotonic()
    try:
        task.run_together([_call(*message) for message in messages])
    except Exception as error:  # whatever it is: the message that causes it fails by itself
        if not isinstance(error, (RunAlone, VectorIndexError, *BROKER_ERRORS)):
            logger.error("%d messages cannot be run together", len(messages), exc_info=Bug.of(error))
        run_one = trace.fast_trace_task if current_app.use_fast_trace_task else trace.trace_task_ret
        return [run_one(name, id, request, body, None, None) for id, request, body in messages]
    for _ in messages:
        events.task(name, IGNORED, (time.monotonic() - began) / len(messages))
    return [None] * len(messages)


def _call(id: str, request: dict[str, Any], body: tuple[list[Any], dict[str, Any], Any]) -> Call:
    args, kwargs, _ = body
    return Call(request=Context(request, id=id), args=args, kwargs=kwargs)
