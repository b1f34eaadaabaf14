"""Request: one of a claim, or more where it must be halved. No connection to Postgres is held meanwhile."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker import metrics
from worker.budgets import Budget
from worker.chunking import MIN_TOKENS, chunk
from worker.documents import Chunk, embedding_text
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge, VectorIndexError
from worker.recipes import EmbeddingBackend, Recipe
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
    budget: Budget  # of which the first request of each claim has taken its share already
    stopping: threading.Event  # when set, nothing more is sent

    def send(self, claim: Claim, last_start: float) -> list[Sent]:
        """One request; one that is too large, or holds a refused input, is halved until the guilty input is alone.

        Further requests begin before `last_start`, in monotonic seconds: the lease covers them.
        """
        recipe = Recipe.stored(claim.build.recipe)
        ended: list[Sent] = []
        waiting: list[Sequence[Input]] = [claim.inputs]
        while waiting:
            inputs = waiting.pop()
            try:
                if self.stopping.is_set() or not self._may_send(claim, inputs, last_start):
                    return [*ended, Sent(inputs=inputs)]
                texts = [embedding_text(recipe.document_prefix, item.heading, item.text) for item in inputs]
                with self._counted(inputs):
                    vectors = self.backend.embed(texts)
                metrics.embedded(claim.build.index, len(inputs))
                ended.append(Sent(inputs=inputs, vectors=vectors))
            except (TooLarge, Refused) as error:
                half = len(inputs) // 2
                if half:
                    waiting += [inputs[half:], inputs[:half]]
                else:
                    pieces = self._cut(recipe, inputs[0]) if isinstance(error, TooLarge) else ()
                    ended.append(Sent(inputs=inputs, error=error, pieces=pieces))
            except (ProviderUnavailable, SettingsError) as error:  # of no use to the others either
                rest = [item for part in waiting for item in part]
                return [*ended, Sent(inputs=[*inputs, *rest], error=error)]
        return ended

    def _may_send(self, claim: Claim, inputs: Sequence[Input], last_start: float) -> bool:
        """Wait until the budget allows a further request of this claim; false when stopping.

        Raises ProviderUnavailable when the lease does not last so long.
        """
        if inputs is claim.inputs:
            return True  # claimed for it
        left = last_start - time.monotonic()
        wait = self.budget.take(sum(item.tokens for item in inputs), patience_seconds=left)
        if wait > left:
            raise ProviderUnavailable(
                f"{self.backend.model_id}: halving a request that is too large, or holds what is refused, "
                "took too long for its lease; the rest is tried again later"
            )
        metrics.budget_wait(self.budget.name, wait)
        return not self.stopping.wait(wait)

    def _counted(self, inputs: Sequence[Input]) -> metrics.Request:
        """Around a request of these inputs."""
        tokens = sum(item.tokens for item in inputs)
        fill = max(tokens / self.backend.batch_token_limit, len(inputs) / self.backend.batch_size)
        return metrics.Request(
            self.budget.name, metrics.DOCUMENTS, inputs=len(inputs), tokens=tokens, fill=fill
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
