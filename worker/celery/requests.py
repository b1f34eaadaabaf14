"""Task requests, as events, logs, results and monitors show them: with a summary in place of the arguments."""

import time
from collections.abc import Sequence
from functools import cache, cached_property
from inspect import signature
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery import Task
from celery.worker.request import Request

from worker import configuration
from worker.celery.argument_summary import summary
from worker.celery.upstream.broker_clock import AHEAD_HEADER
from worker.errors import InputError

MAX_DEATHS = 3  # pool processes that may die of one message before it fails
DEATHS_HEADER = "vector_index_deaths"
SMALL_BYTES = 16_384  # of a message that may be run together with others
# headers of messages that run alone: retried, delivered again, or part of a workflow
ALONE = ("retries", DEATHS_HEADER, "shadow", "group", "parent_id", "stamped_headers", "replaced_task_nesting")
# of a replacement task: when the first task began, by the clock of the broker, and its argument summary
JOB_HEADER = "vector_index_job"


class RedactedRequest(Request):
    """A request that shows a summary of its arguments, whoever sent it.

    A task that replaced another one is shown as the first: its name, its arguments, and the runtime of both.
    """

    runs_alone = False  # whether a batch has left it to run by itself

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        if not kwargs.get("decoded"):  # else the pool would read the body again, with kombu's own reader
            kwargs |= {"decoded": True, "body": message.payload}
        super().__init__(message, *args, **kwargs)
        self._job = read_job_header(self._request_dict.get(JOB_HEADER))
        shown = self._job.get("arguments") or summary(
            _parameters(self.task), self._args, self._kwargs, configuration.current().indexes
        )
        # Celery falls back to the arguments themselves if either string is empty
        self._argsrepr, self._kwargsrepr = shown, " "
        self._request_dict.update(argsrepr=shown, kwargsrepr=" ")

    @cached_property
    def _fits_batches(self) -> bool:
        headers = self._request_dict
        return (
            getattr(self.task, "run_together", None) is not None
            and self.message.size_bytes <= SMALL_BYTES
            and not any((self.body[2] or {}).values())  # callbacks, chain and chord
            and not any(headers.get(name) for name in ALONE)
            and headers.get("root_id") in (None, self.id)
            and not self.delivery_info["redelivered"]
            and not any(self.time_limits)
        )

    @property
    def may_join(self) -> bool:
        """Whether this message may be run together with others (worker/celery/batching.py).

        A message runs alone if it is large, part of a workflow, or delivered again: it may have ended a process.
        """
        return self._fits_batches and not self.runs_alone

    @property
    def is_revoked(self) -> bool:
        """Whether it was revoked while it ran."""
        return bool(self._already_revoked)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Describe the request without its arguments, for `inspect active` and Flower's page of a worker."""
        info: dict[str, Any] = super().info(safe=True)
        return info

    def send_event(self, type: str, **fields: Any) -> None:
        """Send an event, with the queue added and a replacement task shown as the first task."""
        if not (self._eventer and self._eventer.enabled):
            return
        if type == "task-started":
            if not self.task.send_events:
                return
            fields["routing_key"] = self.delivery_info["routing_key"]
        if self._job:
            # for a monitor that was started after the first task
            fields |= {"name": self.name, "args": self._argsrepr}
            if type == "task-succeeded":
                now = time.time() + self._request_dict.get(AHEAD_HEADER, 0.0)
                fields["runtime"] = max(0.0, now - self._job["began"])
        self._eventer.send(type, uuid=self.id, **fields)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Fail a poison message: one that killed MAX_DEATHS pool processes.

        Celery counts these deaths together with the retries for unreachable services, which are unlimited.
        """
        error = exc_info.exception
        error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        ended = isinstance(error, SystemExit) and not (self._already_cancelled or self._already_revoked)
        if ended or isinstance(error, WorkerLostError):
            headers = dict(self._context.headers or {})
            deaths = headers[DEATHS_HEADER] = headers.get(DEATHS_HEADER, 0) + 1
            self._context.headers = headers
            if deaths >= MAX_DEATHS:
                poison = InputError(
                    f"{self.name} ended its process {deaths} times: give it more memory, or send its documents in "
                    "smaller messages to find the one that causes it"
                )
                exc_info = _exception_info(poison)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


def read_job_header(header: object) -> dict[str, Any]:
    """Read the header that `BaseTask.replace` writes; returns {} for anything else."""
    match header:
        case {"arguments": str(arguments), "began": float(began)}:
            return {"arguments": arguments, "began": began}
    return {}


@cache
def _parameters(task: Task) -> Sequence[str]:
    return tuple(signature(task.run).parameters)


def _exception_info(error: InputError) -> ExceptionInfo:
    try:
        raise error
    except InputError:
        return ExceptionInfo()
