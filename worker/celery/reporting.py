"""Reports: a task stores the results of other tasks that have ended, as Celery would have done at the end of each."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from celery import Task
from celery.app import trace
from celery.app.task import Context
from celery.utils.saferepr import saferepr

from worker.celery.requests import JOB_HEADER
from worker.celery.upstream.broker_clock import AHEAD_HEADER


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A task whose end another task reports: what results, monitors and logs show of it."""

    id: str
    name: str
    arguments: str  # summary
    began: float  # seconds since 1970, by the clock of the broker
    ignore_result: bool

    @classmethod
    def of(cls, request: Context) -> Self:
        """Describe the task of a request that a pool process has taken."""
        return cls(
            id=request.id,
            name=request.task,
            arguments=request.argsrepr,
            began=time.time() + (request.get(AHEAD_HEADER) or 0.0),
            ignore_result=bool(request.ignore_result),
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def successor(self) -> dict[str, Any]:
        """The options of a task that takes the place of this one, as after `BaseTask.replace`."""
        header = {JOB_HEADER: {"arguments": self.arguments, "began": self.began}}
        return {
            "task_id": self.id,
            "shadow": self.name,
            "headers": header,
            "ignore_result": self.ignore_result,
        }


def report(task: Task, done: Sequence[tuple[Reported, Mapping[str, Any]]]) -> None:
    """Store the results of tasks that have succeeded, and tell monitors and logs.

    `task` is the one that reports. Raises an error of the broker: report all of them again.
    """
    task.backend.store_successes({ended.id: result for ended, result in done if not ended.ignore_result})
    now = time.time() + (task.request.get(AHEAD_HEADER) or 0.0)
    shown = [
        (ended, saferepr(result, task.resultrepr_maxsize), max(0.0, now - ended.began))
        for ended, result in done
    ]
    for ended, text, seconds in shown:
        fields = {"id": ended.id, "name": ended.name, "return_value": text, "runtime": seconds}
        trace.info(trace.LOG_SUCCESS, {**fields, "args": ended.arguments, "kwargs": " "})
    if task.app.conf.worker_send_task_events:
        _tell_monitors(task, shown)


def _tell_monitors(task: Task, shown: Sequence[tuple[Reported, str, float]]) -> None:
    """Send all events in one message."""
    with task.app.events.default_dispatcher(hostname=task.request.hostname) as dispatcher:
        dispatcher.buffer_group = frozenset({"task"})
        dispatcher.buffer_limit = len(shown) + 1
        for ended, text, seconds in shown:
            known = {"name": ended.name, "args": ended.arguments}
            dispatcher.send("task-succeeded", uuid=ended.id, result=text, runtime=seconds, **known)
        dispatcher.flush()
