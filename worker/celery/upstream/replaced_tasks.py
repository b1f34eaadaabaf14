"""Replaced tasks end without a traceback.

A task is replaced by an exception. Celery copies the frames of its traceback, with the positions of all instructions,
and pickles them for the parent of the pool process, which throws them away. Each job with documents is replaced once.
"""

import sys
from types import TracebackType

from billiard.einfo import ExceptionInfo
from celery.exceptions import Ignore

Raised = tuple[type[BaseException], BaseException, TracebackType]


class EndOfReplaced(ExceptionInfo):
    """What the parent of a pool process reads of a task that was replaced."""

    def __init__(self, error: Ignore) -> None:
        self.type, self.exception, self.traceback, self.internal = type(error), error, "", True


def exception_info(exc_info: Raised | None = None, internal: bool = False) -> ExceptionInfo:
    """Describe the exception that is being handled, or this one."""
    error = exc_info[1] if exc_info else sys.exc_info()[1]
    return EndOfReplaced(error) if isinstance(error, Ignore) else ExceptionInfo(exc_info, internal)
