"""The base class of all tasks: errors without texts, and one task in monitors where several replace each other."""

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from inspect import Signature, signature
from typing import Any

from celery import Task
from celery.exceptions import CeleryError, Reject
from kombu.exceptions import KombuError

from worker.celery.requests import JOB_HEADER, read_job_header
from worker.celery.retries import BROKER_ERRORS
from worker.celery.upstream.broker_clock import AHEAD_HEADER
from worker.celery.upstream.memory_limit import past_memory_limit
from worker.errors import Bug, InvalidQuery, ServiceUnreachable, VectorIndexError


def progress_text(figures: Mapping[str, Any]) -> str:
    """Describe the progress of a task in one line for monitors; figures that are not known yet are left out."""
    return ", ".join(
        f"{figure:,.0f} {name.replace('_', ' ')}"
        for name, figure in figures.items()
        if isinstance(figure, int | float)
    )


class BaseTask(Task):
    """The base of all tasks."""

    abstract = True
    default_retry_delay = 5  # seconds, after the death of a pool process
    throws = (VectorIndexError,)  # logged in one line; any other error is a bug, logged with its traceback
    Request = "worker.celery.requests:RedactedRequest"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task, and translate its errors for the sender.

        Raises InvalidQuery if the arguments do not fit the task's parameters, and ServiceUnreachable if the broker
        returned an error. Any other exception becomes a Bug: its kind and place, without its message, which may
        quote a text.
        """
        self.arguments(*args, **kwargs)
        try:
            return super().__call__(*args, **kwargs)
        except BROKER_ERRORS as error:
            raise ServiceUnreachable(f"the broker returned an error: {error}") from None
        except (VectorIndexError, CeleryError, KombuError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is
            raise Bug.of(error) from None

    def arguments(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of a call by parameter, with defaults. Raises InvalidQuery if they do not fit."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            takes = ", ".join(self._signature.parameters)
            raise InvalidQuery(f"{self.name}: {error}; it takes {takes}") from None
        bound.apply_defaults()
        return bound.arguments

    @cached_property
    def _signature(self) -> Signature:
        return signature(self.run)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self.request.began = time.time() + (self.request.get(AHEAD_HEADER) or 0.0)

    def replace(self, sig: Any) -> Any:
        """Replace this task; monitors show the first task, from its start to the end of the last."""
        request = self.request
        job = read_job_header((request.headers or {}).get(JOB_HEADER))
        job = job or {"arguments": request.argsrepr, "began": request.began}
        with past_memory_limit():
            return super().replace(sig.set(shadow=request.shadow or self.name, headers={JOB_HEADER: job}))

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Store a state, and send PROGRESS as an event: monitors see no custom states."""
        super().update_state(task_id=task_id, state=state, meta=meta, **kwargs)
        if state == "PROGRESS" and task_id is None and self.app.conf.worker_send_task_events and meta:
            known = {"name": self.request.shadow or self.name, "args": self.request.argsrepr}
            with suppress(*BROKER_ERRORS):  # the next event has newer counts
                self.send_event("task-progress", retry=False, result=progress_text(meta), **known)

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """Retry, and requeue the message if the broker refuses the retry: Celery would drop it."""
        try:
            with past_memory_limit():
                return super().retry(*args, **kwargs)
        except Reject as rejected:
            raise Reject(rejected.reason, requeue=True) from rejected
