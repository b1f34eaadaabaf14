"""Settle a claim: send it, and write down how each of its inputs ended."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import stamina

from worker.errors import (
    BuildDropped,
    InputError,
    ProviderUnavailable,
    SettingsError,
    TemporaryError,
    VectorIndexError,
)
from worker.indexing.draining.provider import PAUSE_SECONDS, Provider, backoff_seconds
from worker.indexing.draining.sending import Sender, Sent
from worker.observability import events
from worker.observability.logs import log_fields
from worker.recipes import Recipe
from worker.store import builds, connection, publishing, queue
from worker.store.connection import Connection
from worker.store.queue import Claim

# beyond the timeout of the request: as long as the largest request of any budget keeps the word after it waiting
LEASE_MARGIN_SECONDS = 66.0
MAX_ATTEMPTS = 6  # claims of one content; it travels alone from the third
BACKOFF_LIMIT_SECONDS = 120.0  # between two attempts

logger = logging.getLogger("vector_index.drain")


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """How the claims of one backend end."""

    url: str  # of Postgres
    timeout_seconds: float  # of a request
    sender: Sender
    provider: Provider

    @property
    def lease_seconds(self) -> float:
        """How long nobody else sends what is claimed."""
        return self.timeout_seconds + LEASE_MARGIN_SECONDS

    def settle(self, claim: Claim, *, alone: bool) -> None:
        """Send what a claim holds; save, publish, split, fail and give back, as its requests end.

        `alone`: this process has nothing else in flight meanwhile.
        """
        # whatever begins before this has ended before the lease does
        last_start = time.monotonic() + LEASE_MARGIN_SECONDS
        if not self._is_to_be_sent(claim):
            return
        if alone and self.provider.failure is not None:  # it went away since: this would count as an attempt
            self._write(lambda conn: queue.release(conn, claim, counted=False))
            return
        try:
            Recipe.stored(claim.build.recipe).check(claim.build.index, self.sender.backend)
            results = self.sender.send(claim, last_start)
        except SettingsError as error:  # of this index alone: the others of the backend go on
            self._set_aside(claim, error)
            return
        except ProviderUnavailable as error:  # asked for its dimensions
            results = [Sent(inputs=claim.inputs, error=error)]
        self._write(lambda conn: self._save(conn, claim, results))
        if any(sent.vectors is None for sent in results):
            judged = self._judged(results, alone=alone and len(claim.inputs) == 1)
            self._write(lambda conn: self._end(conn, claim, judged))

    def _is_to_be_sent(self, claim: Claim) -> bool:
        """Write down what needs no request; whether anything is left that does."""
        with connection.checkout(self.url) as conn:
            # what was in flight before it may have taken as long as its lease
            if claim.suspect and not queue.renew(conn, claim, lease_seconds=self.lease_seconds):
                return False
            if claim.saved:
                publishing.publish(
                    conn, claim.build, publishing.documents_waiting_for(conn, claim.build, claim.saved)
                )
            if claim.orphans:
                queue.delete_orphans(conn, claim.build, claim.orphans)
                # one that is wanted again by now waits for no lease
                queue.release(conn, replace(claim, inputs=()), counted=False)
            # it travels alone by now, and no attempt came to an end
            spent = [item for item in claim.inputs if item.attempts > MAX_ATTEMPTS]
            for item in spent:
                reason = f"given up after {MAX_ATTEMPTS} attempts: the worker died each time it was embedded"
                events.failed(claim.build.index, queue.fail(conn, claim, item.hash, reason), None)
        return bool(claim.inputs) and not spent

    def _set_aside(self, claim: Claim, error: SettingsError) -> None:
        """Give a claim back whose index holds other vectors than the backend makes."""
        logger.warning("index_set_aside", extra=log_fields(index=claim.build.index, error=str(error)))
        with connection.checkout(self.url) as conn:
            builds.note_error(conn, claim.build, str(error))
            queue.release(conn, claim, seconds=PAUSE_SECONDS, counted=False)

    def _write(self, step: Callable[[Connection], None]) -> None:
        """Let what was paid for outlive a restart of Postgres; each step is a no-op the second time."""
        for attempt in stamina.retry_context(
            on=_may_pass, attempts=None, timeout=LEASE_MARGIN_SECONDS, wait_initial=0.2, wait_max=5.0
        ):
            with attempt, connection.checkout(self.url) as conn:
                step(conn)

    def _save(self, conn: Connection, claim: Claim, results: Sequence[Sent]) -> None:
        """Save and publish what came. The lease of what did not begins again, where the provider is asked about it."""
        for sent in results:
            if sent.vectors is not None:
                hashes = [item.hash for item in sent.inputs]
                queue.save(conn, claim.build, hashes, sent.vectors)
                publishing.publish(
                    conn, claim.build, publishing.documents_waiting_for(conn, claim.build, hashes)
                )
                builds.note_error(conn, claim.build, None)
        if any(map(_is_unanswered, results)):
            queue.renew(conn, claim, lease_seconds=self.lease_seconds)

    def _judged(self, results: Sequence[Sent], *, alone: bool) -> Sequence[Sent]:
        """A request without an answer is no attempt unless the provider takes one word after it.

        So an outage fails no document however long it lasts, and lets none travel alone. One input alone that the
        provider does not survive is an attempt: during an outage none is sent, so that each counts one at most.
        """
        if not any(map(_is_unanswered, results)) or self.sender.takes_words(LEASE_MARGIN_SECONDS):
            return results
        if alone and not self.sender.stopping.is_set():
            return results
        return [Sent(inputs=sent.inputs) if _is_unanswered(sent) else sent for sent in results]

    def _end(self, conn: Connection, claim: Claim, results: Sequence[Sent]) -> None:
        """Split, fail and give back what has no vector."""
        # what is too large or refused ends while the claim still holds it; giving back ends the claim
        self._split(conn, claim, [sent for sent in results if sent.pieces])
        failed = [sent for sent in results if sent.error is not None and not sent.pieces]
        for sent in sorted(failed, key=lambda sent: not isinstance(sent.error, InputError)):
            assert sent.error is not None
            self._give_up(conn, claim, sent, sent.error)
        if any(sent.vectors is None and sent.error is None for sent in results):
            queue.release(conn, claim, counted=False)

    def _split(self, conn: Connection, claim: Claim, large: Sequence[Sent]) -> None:
        """Queue smaller chunks in the place of inputs that are too large by themselves."""
        if not large:
            return
        builds.note_error(conn, claim.build, str(large[0].error))
        logger.warning("inputs_split", extra=log_fields(inputs=len(large), error=str(large[0].error)))
        docs = queue.split(conn, claim, [(sent.inputs[0], sent.pieces) for sent in large])
        publishing.publish(conn, claim.build, docs)

    def _give_up(self, conn: Connection, claim: Claim, sent: Sent, error: VectorIndexError) -> None:
        """Fail what the provider refuses for good; give the rest back for a later attempt."""
        builds.note_error(conn, claim.build, str(error))
        if isinstance(error, InputError):
            self._fail(conn, claim, sent, error)
            return
        events.retried(claim.build.index, len(sent.inputs), error)
        if isinstance(error, SettingsError):
            self.provider.failure = (
                error  # a word tells whether they are mended, not a request that is paid for
            )
            queue.release(conn, claim, seconds=self.provider.pause(), counted=False)
        elif isinstance(error, ProviderUnavailable) and error.rate_limited:
            if error.retry_after_seconds:  # 0, or a date that is over, would have it refused again at once
                wait = self.sender.budget.pause(error.retry_after_seconds)  # of all processes
            else:
                wait = self.provider.pause()
            queue.release(conn, claim, seconds=wait, counted=False)
        else:
            attempts = max(item.attempts for item in sent.inputs)
            if attempts >= MAX_ATTEMPTS and len(sent.inputs) == 1:
                self._fail(conn, claim, sent, error)
            queue.release(conn, claim, seconds=backoff_seconds(attempts, BACKOFF_LIMIT_SECONDS))

    def _fail(self, conn: Connection, claim: Claim, sent: Sent, error: VectorIndexError) -> None:
        for item in sent.inputs:
            events.failed(claim.build.index, queue.fail(conn, claim, item.hash, str(error)), error)


def _is_unanswered(sent: Sent) -> bool:
    """Whether the provider may be away, or may fail for these inputs alone."""
    return isinstance(sent.error, ProviderUnavailable) and not sent.error.rate_limited


def _may_pass(error: Exception) -> bool:
    return isinstance(error, TemporaryError) and not isinstance(error, BuildDropped)
