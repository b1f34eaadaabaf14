"""Refusals: a message that cannot be read fails its task, under the task's own id.

Celery acknowledges such a message, logs its body and stores nothing, so its sender waits for ever. A wrong type in a
header ends the worker, and after it the next one. Celery is told by the setting `worker_consumer`.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery.app.task import Context
from celery.exceptions import InvalidTaskError
from celery.worker import consumer as stock
from kombu.exceptions import ContentDisallowed, DecodeError

from worker.celery.retries import BROKER_ERRORS
from worker.celery.upstream import payloads
from worker.errors import InvalidQuery
from worker.observability.logs import log_fields

KEPT = ("id", "task", "root_id", "parent_id", "group", "group_index")  # headers that results need

logger = logging.getLogger("vector_index.broker")


class Consumer(stock.Consumer):
    """Celery's consumer, which checks each message before Celery reads it."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)

        def check_and_handle(message: Any) -> None:
            try:
                payloads.check(message)
            except (InvalidTaskError, DecodeError, ContentDisallowed) as error:
                refuse(self, message, error)
            else:
                handle(message)

        return check_and_handle

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        refuse(self, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        refuse(self, message, exc)


def refuse(consumer: Any, message: Any, error: Exception) -> None:
    """Store the failure, call the callbacks for it, then acknowledge the message."""
    failure = InvalidQuery(f"the message cannot be read: {payloads.reason(message, error)}")
    headers = {name: message.headers.get(name) for name in KEPT}
    id, task = headers["id"], headers["task"]
    known = task if isinstance(task, str) and task in consumer.app.tasks else "unknown"
    logger.error("message_refused", extra=log_fields(task=known, error=str(failure)))
    if isinstance(id, str) and id:
        request = Context({**headers, **payloads.callbacks_of(message), "delivery_info": {}})
        try:
            consumer.app.backend.mark_as_failure(
                id, failure, request=request, store_result=not message.headers.get("ignore_result")
            )
        except BROKER_ERRORS:
            raise
        except Exception as lost:  # noqa: BLE001 - its callbacks are wrong as well
            logger.error("message_refused", extra=log_fields(task=known, error=type(lost).__name__))
        if consumer.event_dispatcher:
            consumer.event_dispatcher.send(
                "task-failed", uuid=id, exception=f"InvalidQuery({str(failure)!r})"
            )
    message.ack_log_error(logger, consumer.connection_errors)
