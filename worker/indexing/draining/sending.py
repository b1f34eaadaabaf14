"""Request: one of a claim, or more where it must be halved. No connection to Postgres is held meanwhile."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.backends.budgets import Budget
from worker.chunking import MIN_TOKENS, chunk
from worker.documents import Chunk, embedding_text
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge, VectorIndexError
from worker.indexing.draining.provider import Provider
from worker.observability import events
from worker.protocols import EmbeddingBackend
from worker.recipes import Recipe
from worker.store.queue import Claim, Input


@dataclass(frozen=True, kw_only=True)
class Sent:
    """How one request of one claim ended for some of its inputs; without vectors and error it was not made."""

    inputs: Sequence[Input]
    vectors: NDArray[np.float32] | None = None  # a row per input
    error: VectorIndexError | None = None
    pieces: Sequence[Chunk] = ()  # of a single input that is too large: what takes its place


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Sends what was claimed."""

    backend: EmbeddingBackend
    provider: Provider
    budget: Budget  # of which the first request of each claim has taken its share already
    stopping: threading.Event  # when set, nothing more is sent

    def send(self, claim: Claim, last_start: float) -> list[Sent]:
        """One request; one that is too large, or holds a refused input, is halved until the guilty input is alone.

        Unless the provider refuses everything: then it is not halved, and nothing is guilty.
        Each begins before `last_start`, in monotonic seconds: the lease covers it.
        """
        recipe = Recipe.stored(claim.build.recipe)
        ended: list[Sent] = []
        waiting: list[Sequence[Input]] = [claim.inputs]
        takes_words = False
        while waiting:
            inputs = waiting.pop()
            try:
                if self.stopping.is_set() or not self._may_send(claim, inputs, last_start):
                    return [*ended, Sent(inputs=inputs)]
                texts = [embedding_text(recipe.document_prefix, item.heading, item.text) for item in inputs]
                with self._counted(inputs):
                    vectors = self.backend.embed(texts)
                self.provider.answered()
                events.embedded(claim.build.index, len(inputs))
                ended.append(Sent(inputs=inputs, vectors=vectors))
            except (TooLarge, Refused) as error:
                takes_words = takes_words or self.takes_words(last_start - time.monotonic())
                if not takes_words:
                    return [*ended, Sent(inputs=_all([inputs, *waiting]))]
                half = len(inputs) // 2
                if half:
                    waiting += [inputs[half:], inputs[:half]]
                else:
                    pieces = self._cut(recipe, inputs[0]) if isinstance(error, TooLarge) else ()
                    ended.append(Sent(inputs=inputs, error=error, pieces=pieces))
            except (ProviderUnavailable, SettingsError) as error:  # of no use to the others either
                return [*ended, Sent(inputs=_all([inputs, *waiting]), error=error)]
        return ended

    def takes_words(self, patience_seconds: float) -> bool:
        """Whether a request that has just failed tells something of its inputs: the provider takes one word after it.

        So long it may have to wait for the budget. False when stopping, as nothing more is sent.
        """
        failed_at = time.monotonic()
        return not self.stopping.is_set() and (
            self.provider.ask_after(failed_at, patience_seconds=max(0.0, patience_seconds)) is None
        )

    def _may_send(self, claim: Claim, inputs: Sequence[Input], last_start: float) -> bool:
        """Wait until the budget allows a further request of this claim; false when stopping.

        False too where the lease does not last for the first, which the budget allowed when it was claimed: what came
        before it took too long. Raises ProviderUnavailable where it does not last for a further one.
        """
        if inputs is claim.inputs:
            return time.monotonic() < last_start
        left = last_start - time.monotonic()
        wait = self.budget.take(sum(item.tokens for item in inputs), max_wait_seconds=left)
        if wait > left:
            raise ProviderUnavailable(
                f"{self.backend.model_id}: halving a request that is too large, or holds what is refused, "
                "took too long for its lease; the rest is tried again later"
            )
        events.budget_wait(self.budget.name, wait)
        return not self.stopping.wait(wait)

    def _counted(self, inputs: Sequence[Input]) -> events.ProviderRequest:
        """Around a request of these inputs."""
        tokens = sum(item.tokens for item in inputs)
        fill = max(tokens / self.backend.batch_token_limit, len(inputs) / self.backend.batch_size)
        return events.ProviderRequest(
            self.budget.name, "documents", inputs=len(inputs), tokens=tokens, fill=fill
        )

    def _cut(self, recipe: Recipe, item: Input) -> Sequence[Chunk]:
        """An input in pieces of half its tokens; none when it has no room for two chunks."""
        count = self.backend.count_tokens
        try:
            pieces = chunk(
                item.text,
                title=item.heading,
                prefix=recipe.document_prefix,
                chunk_tokens=max(MIN_TOKENS, count(item.text) // 2),
                token_limit=recipe.token_limit,
                count=count,
            )
        except SettingsError:
            return ()
        return pieces if len(pieces) > 1 else ()


def _all(requests: Sequence[Sequence[Input]]) -> Sequence[Input]:
    return [item for inputs in requests for item in inputs]
