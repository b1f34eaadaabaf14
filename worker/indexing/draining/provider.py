"""The provider of one embedding backend, as this process knows it: limits, probes, pauses, slow start.

What the settings do not say, it learns from answers: the most inputs of a request, and how long an input may be.
"""

import logging
import threading
import time
from collections.abc import Sequence
from math import exp, inf

from worker.backends.budgets import MAX_WAIT_SECONDS, Budget
from worker.configuration import EmbeddingBackendSettings
from worker.errors import ProviderUnavailable, Refused, TooLarge, VectorIndexError
from worker.indexing.draining import backoff
from worker.observability import events
from worker.observability.logs import log_fields
from worker.protocols import EmbeddingBackend
from worker.recipes import PROBE, most_inputs, probe

PROBE_TOKENS = 8  # of the one word, at most
FULL_INPUTS = 64  # requests of this size end the slow start: all slots work again
MIN_SHARE = 64  # inputs; smaller requests cost more than sharing the queue out to more slots gains
SHARE_SECONDS = 0.25  # under load, a request takes as many inputs as were embedded in this time
RATE_SECONDS = 1.0  # over which the rate of inputs is averaged

NOT_ASKED = ProviderUnavailable("the provider has not answered a probe yet")

logger = logging.getLogger("vector_index.drain")


class Provider:
    """One embedding backend with its rate limits, and whether its provider can be used.

    A probe asks the provider for the vector of one word. Safe in threads; one thread probes at a time.
    """

    def __init__(self, settings: EmbeddingBackendSettings, backend: EmbeddingBackend, budget: Budget) -> None:
        self.settings, self.backend, self.budget = settings, backend, budget
        self.failure: VectorIndexError | None = None  # why it cannot be used, as far as is known
        self._probing = threading.Lock()
        self._probed_at = 0.0  # monotonic seconds
        self._failures = 0  # failed probes in a row
        self._window: int | None = None  # inputs of a request during the slow start
        # inputs embedded in the last RATE_SECONDS, and the monotonic time of this count
        self._recent = (0.0, 0.0)
        self._paused_until = 0.0  # monotonic seconds
        self._batch_size: int | None = None  # the most inputs of a request, once a refusal has shown them
        self._suspected: tuple[int, int] | None = (
            None  # inputs of a refused request, and of its largest part taken
        )
        self._words_taken = 0  # the most words that were taken in a request
        self._longest_tokens = 0  # of an input that was embedded
        self._too_many_tokens = inf  # of plain words that were refused
        self._measuring = threading.Lock()

    @property
    def batch_size(self) -> int:
        """The most inputs of a request: of the settings, or fewer if the provider has refused so many."""
        return min(self.backend.batch_size, self._batch_size or self.backend.batch_size)

    @property
    def paused_seconds(self) -> float:
        """How long this process must wait before it sends; 0 or less: it may send."""
        return self._paused_until - time.monotonic()

    @property
    def window(self) -> int | None:
        """Slow start after an outage: how many inputs the only request in flight may hold. `None`: it is over.

        From one on it doubles with each answered request, so an input that takes the provider down is soon alone.
        """
        return self._window

    @property
    def share(self) -> int:
        """How many inputs a request takes at least, if there are so many.

        A request costs this process as much as forty inputs, so a load gets few large ones. With few
        inputs, more slots are faster than larger requests.
        """
        return max(MIN_SHARE, int(self._decayed() * SHARE_SECONDS / RATE_SECONDS))

    def _decayed(self) -> float:
        inputs, counted_at = self._recent
        return inputs * exp((counted_at - time.monotonic()) / RATE_SECONDS)

    def answered(self, tokens: Sequence[int]) -> None:
        """Widen the window: the provider answered a request, of inputs of so many tokens, with vectors."""
        self._recent = (self._decayed() + len(tokens), time.monotonic())
        self._longest_tokens = max(self._longest_tokens, *tokens)
        if window := self._window:
            full = min(FULL_INPUTS, self.batch_size)
            self._window = 2 * window if 2 * window < full else None

    def may_be_too_long(self, tokens: int) -> bool:
        """Whether an input that is refused may be so for its length: not if twice as many tokens were taken.

        Providers say "too long" in words of their own. So a long input is halved before it fails, whatever they say.
        """
        return self._longest_tokens < self._telling(tokens)

    def is_too_long(self, tokens: int, *, max_wait_seconds: float) -> bool:
        """The same for an input that was refused alone; asks the provider for as many plain words, once per length.

        Without it, each piece of a text that is refused for another reason would be refused on its own. Waits at most
        `max_wait_seconds` for the budget.
        """
        with self._measuring:
            if self.may_be_too_long(tokens) and self._telling(tokens) < self._too_many_tokens:
                self._try_length(self._telling(tokens), max_wait_seconds)
            return self.may_be_too_long(tokens)

    def _telling(self, tokens: int) -> int:
        """The length which, if it is taken, tells that an input of so many tokens is not too long: counts differ."""
        return min(2 * tokens, self.backend.token_limit)

    def _try_length(self, tokens: int, max_wait_seconds: float) -> None:
        """Send one input of plain words, of about so many tokens, and remember whether it was taken."""
        of_hundred = self.backend.count_tokens(" ".join([PROBE] * 100))
        text = " ".join([PROBE] * max(1, 100 * tokens // of_hundred))
        try:
            self._embed_words([text], tokens=tokens, max_wait_seconds=max_wait_seconds)
        except (Refused, TooLarge):
            self._too_many_tokens = min(self._too_many_tokens, tokens)
        except VectorIndexError:  # the provider, or its rate limit: nothing is known
            return
        else:
            self._longest_tokens = max(self._longest_tokens, tokens)

    def suspect_batch_size(self, *, refused: int, taken: int) -> None:
        """Note that a request was refused for its size: its parts, of at most `taken` inputs, were all embedded."""
        if self._words_taken < refused <= self.batch_size:
            self._suspected = (refused, taken)

    def find_batch_size(self) -> None:
        """After such a request, find the most inputs that the provider takes, once per process, with words.

        If it takes as many words, the request had too many tokens, and BATCH_SIZE holds.
        """
        if self._suspected is None:
            return
        (refused, taken), self._suspected = self._suspected, None
        try:
            found = most_inputs(self._embed_words, wanted=refused, taken=taken)
        except VectorIndexError:
            return  # the next such request asks again
        self._words_taken = found
        if found < refused:
            self._batch_size = found
            logger.warning(
                "batch_size_found",
                extra=log_fields(
                    backend=self.settings.name, inputs=found, fix=f"set BATCH_SIZE of the backend to {found}"
                ),
            )

    def pause(self, seconds: float) -> None:
        """Stop sending from this process for so many seconds; a longer pause stays."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def probe(self) -> VectorIndexError | None:
        """Ask for the vector of one word. Returns the error, or `None` if the provider answers."""
        with self._probing:
            return self._probe(MAX_WAIT_SECONDS)

    def probe_after(self, moment: float, *, max_wait_seconds: float) -> VectorIndexError | None:
        """Return the result of a probe that began after `moment`, in monotonic seconds.

        One probe serves all slots whose requests failed meanwhile. After a failed probe, it returns that
        failure at once. Waits at most `max_wait_seconds` for the budget.
        """
        with self._probing:
            if self.failure is None and self._probed_at < moment:
                return self._probe(max_wait_seconds)
            return self.failure

    def _embed_words(
        self, words: Sequence[str], *, tokens: int | None = None, max_wait_seconds: float = MAX_WAIT_SECONDS
    ) -> None:
        tokens = PROBE_TOKENS * len(words) if tokens is None else tokens
        with (
            self.budget.reserve(tokens, max_wait_seconds=max_wait_seconds),
            events.ProviderRequest(self.budget.name, "probe", inputs=len(words), tokens=tokens),
        ):
            self.backend.embed(words)

    def _probe(self, max_wait_seconds: float) -> VectorIndexError | None:
        try:
            with (
                self.budget.reserve(PROBE_TOKENS, max_wait_seconds=max_wait_seconds),
                events.ProviderRequest(self.budget.name, "probe"),
            ):
                probe(self.backend)
        except VectorIndexError as error:
            self.failure = error
            self._failures += 1
            self._window = 1
            logger.warning("backend_unusable", extra=log_fields(backend=self.settings.name, error=str(error)))
            self.pause(backoff.backoff_seconds(self._failures, backoff.PAUSE_SECONDS))
        else:
            self.failure, self._failures = None, 0
        self._probed_at = time.monotonic()
        return self.failure
