"""When a question is tried again: the caller waits, so soon and seldom."""

from collections.abc import Iterator

import stamina

from worker.chat.stream import AnswerStream
from worker.errors import ProviderUnavailable, TemporaryError

# three attempts for the whole question, all begun within ten seconds
ATTEMPTS, ATTEMPTS_SECONDS = 3, 10.0
LONGEST_WAIT_SECONDS = 5.0  # between two attempts
REST_SECONDS = 30.0  # after failed attempts, questions go to the fallback at once for so long


def attempts(stream: AnswerStream | None) -> Iterator[stamina.Attempt]:
    """Retry after a TemporaryError, twice at most, until a reader may have seen a token.

    A Retry-After above LONGEST_WAIT_SECONDS ends the attempts: the caller can wait better.
    """

    def is_retried(error: Exception) -> bool | float:
        if not isinstance(error, TemporaryError) or (stream is not None and not stream.can_retry):
            return False
        seconds = error.retry_after_seconds if isinstance(error, ProviderUnavailable) else None
        return True if seconds is None else seconds <= LONGEST_WAIT_SECONDS and seconds

    return iter(
        stamina.retry_context(
            on=is_retried,
            attempts=ATTEMPTS,
            timeout=ATTEMPTS_SECONDS,
            wait_initial=0.5,
            wait_max=LONGEST_WAIT_SECONDS,
        )
    )
