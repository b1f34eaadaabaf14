"""Exit of a process that cannot start: one sentence on stderr, and an exit code."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

from worker.backends.redaction import redact
from worker.errors import ServiceUnreachable, VectorIndexError
from worker.exit_codes import ExitCode
from worker.observability.printing import printable

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("vector_index.worker")


def ends_on_error(receiver: Callable[P, T]) -> Callable[P, T]:
    """Let an error of a Celery signal's receiver end the process with a sentence: Celery would log it and go on."""

    @wraps(receiver)
    def receive(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return receiver(*args, **kwargs)
        except VectorIndexError as error:
            exit_with_error(error)
        except Exception as error:
            logger.debug("start_failed", exc_info=True)
            exit_with_unexpected(error)

    return receive


def exit_with_error(error: VectorIndexError) -> NoReturn:
    """End the process with an error's sentence. Unreachable services have an exit code of their own."""
    unreachable = isinstance(error, ServiceUnreachable)
    exit_with(str(error), ExitCode.UNREACHABLE if unreachable else ExitCode.REFUSED)


def exit_with_unexpected(error: Exception) -> NoReturn:
    """End the process with what an error of a library or of a class of your own says, without keys. Exit code 2."""
    said = redact(str(error))
    exit_with(
        f"the process cannot start: {type(error).__name__}: {said}; --loglevel debug shows where",
        ExitCode.REFUSED,
    )


def exit_with(sentence: str, code: ExitCode) -> NoReturn:
    print(printable(f"vector-index: {sentence}"), file=sys.stderr, flush=True)  # noqa: T201
    raise SystemExit(code)
