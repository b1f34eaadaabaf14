"""Whether the provider of a backend can be used: it is asked for the vector of one word."""

import logging
import random
import threading
import time

from worker.backends.budgets import MAX_WAIT_SECONDS, Budget
from worker.errors import ProviderUnavailable, VectorIndexError
from worker.observability import events
from worker.observability.logs import log_fields
from worker.protocols import EmbeddingBackend
from worker.recipes import probe

PROBE_TOKENS = 8  # at most, of a word
BACKOFF_SECONDS = 2.0  # after the first failure, doubled each time, with jitter
FULL_INPUTS = 64  # of a request, at most, after an outage: from there on all slots work again
PAUSE_SECONDS = 15.0  # between requests of a backend that cannot be used, or that named no time to wait

NOT_ASKED = ProviderUnavailable("the provider has not been asked for a vector yet")

logger = logging.getLogger("vector_index.drain")


class Provider:
    """What this process knows of the provider of one backend. Safe in threads, one of which asks at a time."""

    def __init__(self, name: str, backend: EmbeddingBackend, budget: Budget) -> None:
        self._name = name
        self._backend = backend
        self._budget = budget
        self._asking = threading.Lock()
        self._asked_at = 0.0  # monotonic seconds
        self._failures = 0  # times in a row that it took no word
        self._window: int | None = None  # inputs of a request while it is on trial
        self._paused_until = 0.0  # monotonic seconds
        self.failure: VectorIndexError | None = None  # why it cannot be used, as far as is known

    @property
    def paused_seconds(self) -> float:
        """How long nothing is to be sent; 0 and less: it may be."""
        return self._paused_until - time.monotonic()

    @property
    def window(self) -> int | None:
        """How many inputs a request may hold that travels alone, as the provider has been away; None: it is trusted.

        From one on it doubles with each request that is answered. What takes the provider down is alone before long.
        """
        return self._window

    def answered(self) -> None:
        """A request that it was sent has its vectors."""
        if window := self._window:
            full = min(FULL_INPUTS, self._backend.batch_size)
            self._window = 2 * window if 2 * window < full else None

    def pause(self, seconds: float | None = None) -> float:
        """Send nothing for so long, or for PAUSE_SECONDS; the seconds."""
        seconds = PAUSE_SECONDS if seconds is None else seconds
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)
        return seconds

    def ask(self) -> VectorIndexError | None:
        """Why it does not take one word; None when it does."""
        with self._asking:
            return self._ask(MAX_WAIT_SECONDS)

    def ask_after(self, moment: float, *, patience_seconds: float) -> VectorIndexError | None:
        """As `ask`, after a moment in monotonic seconds: one word answers all whose requests failed meanwhile.

        It waits so long for the budget. A provider that took no word before is not asked again.
        """
        with self._asking:
            if self.failure is None and self._asked_at < moment:
                return self._ask(patience_seconds)
            return self.failure

    def _ask(self, patience_seconds: float) -> VectorIndexError | None:
        try:
            with (
                self._budget.reserve(PROBE_TOKENS, max_wait_seconds=patience_seconds),
                events.ProviderRequest(self._budget.name, "probe"),
            ):
                probe(self._backend)
        except VectorIndexError as error:
            self.failure = error
            self._failures += 1
            self._window = 1
            logger.warning("backend_unusable", extra=log_fields(backend=self._name, error=str(error)))
            self.pause(backoff_seconds(self._failures, PAUSE_SECONDS))
        else:
            self.failure, self._failures = None, 0
        self._asked_at = time.monotonic()
        return self.failure


def backoff_seconds(failures: int, limit_seconds: float) -> float:
    """How long to wait after so many failures in a row."""
    doubled: float = BACKOFF_SECONDS * 2 ** min(failures - 1, 20)  # an outage may last for months
    return min(doubled, limit_seconds) * random.uniform(0.5, 1.5)  # noqa: S311
