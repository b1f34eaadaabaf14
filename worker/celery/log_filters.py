"""Filters for Celery's own log records: one line each, without message bodies."""

import logging
from typing import ClassVar

from celery.beat import SchedulingError
from celery.worker.consumer import consumer

from worker.observability.logs import log_fields

REPLACED = "Replaced by new task"  # of celery.app.task, which has no name for it


class RedactMessageBodies(logging.Filter):
    """Reduces Celery's report on a message it cannot process to its reason: Celery logs the whole body."""

    # format string of Celery -> how many of its arguments may be logged
    ARGUMENTS_TO_LOG: ClassVar = {
        consumer.UNKNOWN_FORMAT: 0,
        consumer.UNKNOWN_TASK_ERROR: 1,
    }

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg in self.ARGUMENTS_TO_LOG and isinstance(record.args, tuple):
            kept = self.ARGUMENTS_TO_LOG[record.msg]
            args = (*record.args[:kept], *["(hidden)"] * (len(record.args) - kept))
            reason = (record.msg % args).splitlines()[0]
            record.msg, record.args, record.exc_info = "message_refused", (), None
            vars(record).update(log_fields(error=reason))
        return True


class ShortenSchedulingErrors(logging.Filter):
    """Drops the stack and the traceback that Celery's beat logs whenever the broker is unreachable."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], SchedulingError):
            record.msg, record.args, record.exc_info = "%s", (record.exc_info[1],), None
        return True


class HideReplacements(logging.Filter):
    """Drops Celery's notice that a task is ignored because another one continues it: each indexing has one."""

    def filter(self, record: logging.LogRecord) -> bool:
        task = getattr(record, "data", None)
        return not (isinstance(task, dict) and REPLACED in str(task.get("exc")))
