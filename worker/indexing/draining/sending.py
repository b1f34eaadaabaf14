"""Send the inputs of a claim: one request, or more when it must be halved. Runs without a connection to Postgres."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from worker.chunking import MIN_TOKENS, chunk
from worker.documents import Chunk, embedding_text
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge, VectorIndexError
from worker.indexing.draining.outcomes import MAX_ATTEMPTS, Response
from worker.indexing.draining.provider import Provider
from worker.observability import events
from worker.recipes import Recipe
from worker.store.queue import Claim, Input


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Sends the inputs of claims to a provider."""

    provider: Provider  # its budget has allowed the first request of each claim already
    stopping: threading.Event  # when set, nothing more is sent

    def send(self, claim: Claim, last_start: float) -> list[Response]:
        """Send the inputs in one request. A request that is too large or refused is halved, down to the guilty input.

        If the provider refuses even one word, the inputs are innocent and go back unsent. Every request begins before
        `last_start`, in monotonic seconds, so that the lease covers it. Inputs that were cut under a higher TOKEN_LIMIT
        are not sent: their pieces replace them.
        """
        recipe = Recipe.stored(claim.build.recipe).within(self.provider.backend)
        within = [item for item in claim.inputs if item.tokens <= recipe.token_limit]
        ended = [self._over_limit(recipe, item) for item in claim.inputs if item.tokens > recipe.token_limit]
        sent: list[Response] = []
        waiting: list[Sequence[Input]] = [within] if within else []
        is_up = False
        while waiting:
            inputs = waiting.pop()
            try:
                if self.stopping.is_set() or not self._may_send(inputs, last_start, first=inputs is within):
                    return [*ended, *sent, Response(inputs=inputs)]
                sent.append(self._request(claim, recipe, inputs))
            except (TooLarge, Refused, SettingsError) as error:
                is_up = is_up or self.provider_is_up(last_start - time.monotonic())
                if not is_up:
                    failures = (self.provider.failure, error)
                    of_all = next((each for each in failures if isinstance(each, SettingsError)), None)
                    return [*ended, *sent, Response(inputs=_flat([inputs, *waiting]), error=of_all)]
                half = len(inputs) // 2
                if half:
                    waiting += [inputs[half:], inputs[:half]]
                else:
                    sent.append(self._alone(recipe, inputs[0], error, last_start))
            except ProviderUnavailable as error:  # would fail the other inputs, too
                unanswered = _flat([inputs, *waiting])
                pieces = self._pieces_at_last(recipe, unanswered)
                return [*ended, *sent, Response(inputs=unanswered, error=error, pieces=pieces)]
        self._learn(within, sent)
        return [*ended, *sent]

    def _request(self, claim: Claim, recipe: Recipe, inputs: Sequence[Input]) -> Response:
        texts = [embedding_text(recipe.document_prefix, item.heading, item.text) for item in inputs]
        with self._measured(inputs):
            vectors = self.provider.backend.embed(texts)
        recipe.check_range(vectors)
        self.provider.answered([item.tokens for item in inputs])
        events.embedded(claim.build.index, len(inputs))
        return Response(inputs=inputs, vectors=vectors)

    def _alone(self, recipe: Recipe, item: Input, error: VectorIndexError, last_start: float) -> Response:
        """How an input ends that is refused alone, while the provider takes a word.

        An error that seems to be one of the settings is an attempt: a firewall may block this text, or a server of
        several has another key.
        """
        if isinstance(error, SettingsError):
            error = ProviderUnavailable(f"{error}. The provider takes other texts: it may refuse this one")
        elif isinstance(error, TooLarge) or self.provider.is_too_long(
            item.tokens, max_wait_seconds=max(0.0, last_start - time.monotonic())
        ):
            return Response(inputs=[item], error=error, pieces=self._cut(recipe, item))
        return Response(inputs=[item], error=error)

    def _pieces_at_last(self, recipe: Recipe, inputs: Sequence[Input]) -> Sequence[Chunk]:
        """Cut an input that would be given up without an answer: a long one may take the provider too long."""
        [item, *others] = inputs
        is_last = not others and item.attempts >= MAX_ATTEMPTS
        return self._cut(recipe, item) if is_last and self.provider.may_be_too_long(item.tokens) else ()

    def _learn(self, inputs: Sequence[Input], sent: Sequence[Response]) -> None:
        """Remember that a request was refused for its size if all of its inputs were embedded in smaller ones."""
        if len(sent) > 1 and all(response.vectors is not None for response in sent):
            taken = max(len(response.inputs) for response in sent)
            self.provider.suspect_batch_size(refused=len(inputs), taken=taken)

    def provider_is_up(self, max_wait_seconds: float) -> bool:
        """Probe the provider after a failed request: if it takes one word, the inputs are to blame.

        Waits at most `max_wait_seconds` for the budget. False while stopping.
        """
        failed_at = time.monotonic()
        return not self.stopping.is_set() and (
            self.provider.probe_after(failed_at, max_wait_seconds=max(0.0, max_wait_seconds)) is None
        )

    def _may_send(self, inputs: Sequence[Input], last_start: float, *, first: bool) -> bool:
        """Whether a request may begin now; waits for the budget of a second or later request of the claim.

        False while stopping, and when the lease is too short for the first request, as the steps before it took too
        long. Raises ProviderUnavailable when the lease is too short for a later one.
        """
        if first:
            return time.monotonic() < last_start
        budget = self.provider.budget
        left = last_start - time.monotonic()
        wait = budget.take(sum(item.tokens for item in inputs), max_wait_seconds=left)
        if wait > left:
            raise ProviderUnavailable(
                f"{self.provider.backend.model_id}: halving a request that is too large, or contains refused inputs, "
                "took longer than its lease; the remaining inputs are retried later"
            )
        events.budget_wait(budget.name, wait)
        return not self.stopping.wait(wait)

    def _measured(self, inputs: Sequence[Input]) -> events.ProviderRequest:
        """Measure a request of these inputs, for the log and the metrics."""
        backend = self.provider.backend
        tokens = sum(item.tokens for item in inputs)
        fill = max(tokens / backend.batch_token_limit, len(inputs) / self.provider.batch_size)
        return events.ProviderRequest(
            self.provider.budget.name, "documents", inputs=len(inputs), tokens=tokens, fill=fill
        )

    def _over_limit(self, recipe: Recipe, item: Input) -> Response:
        """How an input ends that is over the backend's own limit."""
        error = TooLarge(
            f"an input of {item.tokens:,} tokens is over TOKEN_LIMIT ({recipe.token_limit:,}) and too short to cut: "
            "raise TOKEN_LIMIT to the model's limit"
        )
        return Response(inputs=[item], error=error, pieces=self._cut(recipe, item))

    def _cut(self, recipe: Recipe, item: Input) -> Sequence[Chunk]:
        """Cut an input into pieces of half its tokens; `()` if it is too short for two chunks."""
        count = self.provider.backend.count_tokens
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


def _flat(requests: Sequence[Sequence[Input]]) -> Sequence[Input]:
    return [item for inputs in requests for item in inputs]
