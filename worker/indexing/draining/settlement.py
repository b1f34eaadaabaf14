"""Settle a claim: send its inputs, and write how each of them ended.

worker/indexing/draining/outcomes.py decides how; this module probes the provider, and writes.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import stamina

from worker.backends.budgets import MAX_PAUSE_SECONDS
from worker.errors import BuildDropped, ProviderUnavailable, SettingsError, TemporaryError
from worker.indexing.draining import outcomes
from worker.indexing.draining.outcomes import Outcome, Release, Response, Split
from worker.indexing.draining.sending import Sender
from worker.observability import events
from worker.observability.logs import log_fields
from worker.recipes import Recipe
from worker.store import builds, connection, publishing, queue
from worker.store.connection import Connection
from worker.store.queue import Claim

# of a lease, beyond the timeout of the request: with the smallest budget, the probe after it may wait this long
LEASE_MARGIN_SECONDS = 66.0

logger = logging.getLogger("vector_index.drain")


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """Sends the claims of one backend, and writes how they end."""

    url: str  # of Postgres
    sender: Sender

    @property
    def lease_seconds(self) -> float:
        """How long the inputs of a claim belong to it."""
        return self.sender.provider.settings.timeout_seconds + LEASE_MARGIN_SECONDS

    def settle(self, claim: Claim, *, alone: bool) -> None:
        """Send the inputs of a claim, save their vectors, publish complete documents, and end the claim.

        `alone`: this is the only request of the process in flight.
        """
        # a request that begins before this ends before the lease does
        last_start = time.monotonic() + LEASE_MARGIN_SECONDS
        if not self._begin(claim):
            return
        outcome = self._outcome_without_request(claim, alone=alone)
        if outcome is None:
            outcome = self._embed(claim, last_start, alone=alone)
        self._write(claim, outcome)

    def _begin(self, claim: Claim) -> bool:
        """End the inputs that need only a write. Returns whether others are left, under a lease that is still ours."""
        with connection.checkout(self.url) as conn:
            # the requests that a suspect waited for may have taken as long as its lease
            if claim.suspect and not queue.renew(conn, claim, lease_seconds=self.lease_seconds):
                return False
            if claim.saved:
                publishing.publish(
                    conn, claim.build, publishing.documents_waiting_for(conn, claim.build, claim.saved)
                )
            if claim.orphans:
                queue.delete_orphans(conn, claim.build, claim.orphans)
                # an orphan that a document wants again by now must not wait for the lease to end
                queue.release(conn, replace(claim, inputs=()), counted=False)
        return bool(claim.inputs)

    def _outcome_without_request(self, claim: Claim, *, alone: bool) -> Outcome | None:
        """How the claim ends without a request; `None`: send it."""
        if (exhausted := outcomes.exhausted(claim.inputs)) is not None:
            return exhausted
        # the provider went down since the claim: a request would count as an attempt
        if alone and self.sender.provider.failure is not None:
            return outcomes.NOT_SENT
        return None

    def _embed(self, claim: Claim, last_start: float, *, alone: bool) -> Outcome:
        """Send the inputs, save the vectors, and decide how the other inputs end."""
        try:
            Recipe.stored(claim.build.recipe).check(claim.build.index, self.sender.provider.backend)
        except SettingsError as error:  # of this index only: the others of the backend go on
            logger.warning("index_set_aside", extra=log_fields(index=claim.build.index, error=str(error)))
            return outcomes.set_aside(error)
        except ProviderUnavailable as error:  # it was asked for the length of its vectors
            responses = [Response(inputs=claim.inputs, error=error)]
        else:
            responses = self.sender.send(claim, last_start)
        self._save(claim, responses)
        is_up = not any(sent.is_unanswered for sent in responses)
        is_up = is_up or self.sender.provider_is_up(LEASE_MARGIN_SECONDS)
        was_alone = alone and len(claim.inputs) == 1 and not self.sender.stopping.is_set()
        blamed = outcomes.blame(responses, provider_is_up=is_up, was_alone=was_alone)
        return outcomes.decide(blamed, max_pause_seconds=MAX_PAUSE_SECONDS)

    def _save(self, claim: Claim, responses: Sequence[Response]) -> None:
        """Save and publish the vectors, and renew the lease of the other inputs if a probe follows."""

        def write(conn: Connection) -> None:
            for sent in responses:
                if sent.vectors is not None:
                    hashes = [item.hash for item in sent.inputs]
                    queue.save(conn, claim.build, hashes, sent.vectors)
                    publishing.publish(
                        conn, claim.build, publishing.documents_waiting_for(conn, claim.build, hashes)
                    )
                    builds.note_error(conn, claim.build, None)
            if any(sent.is_unanswered for sent in responses):
                queue.renew(conn, claim, lease_seconds=self.lease_seconds)

        self._persist(write)

    def _write(self, claim: Claim, outcome: Outcome) -> None:
        """Split, fail and release; one call of the store per kind of outcome."""
        if not (outcome.split or outcome.failed or outcome.release):
            return
        build, release = claim.build, outcome.release
        if release is not None:
            self._announce(build.index, release)

        def write(conn: Connection) -> None:
            if outcome.note is not None:
                builds.note_error(conn, build, outcome.note)
            # splitting and failing need the token of the claim; releasing ends it
            if outcome.split:
                self._split(conn, claim, outcome.split)
            for failure in outcome.failed:
                docs = queue.fail(conn, claim, failure.input.hash, failure.message)
                events.failed(build.index, docs, failure.error)
            if release is not None:
                queue.release(conn, claim, seconds=release.seconds, counted=release.counted)

        self._persist(write)

    def _split(self, conn: Connection, claim: Claim, large: Sequence[Split]) -> None:
        """Replace inputs that are too large by their pieces, and publish complete documents."""
        logger.warning("inputs_split", extra=log_fields(inputs=len(large), error=str(large[0].error)))
        docs = queue.split(conn, claim, [(each.input, each.pieces) for each in large])
        publishing.publish(conn, claim.build, docs)

    def _announce(self, index: str, release: Release) -> None:
        """Log why a request is retried, and let the provider rest."""
        if release.error is not None:
            events.retried(index, release.retried, release.error)
        if (pause := release.pause) is None:
            return
        if pause.for_all_processes:
            self.sender.provider.budget.pause(pause.seconds)
            return
        if pause.unusable is not None:
            self.sender.provider.failure = pause.unusable
        self.sender.provider.pause(pause.seconds)

    def _persist(self, write: Callable[[Connection], None]) -> None:
        """Write, and retry while Postgres restarts: the vectors are paid for. A second write is a no-op."""
        for attempt in stamina.retry_context(
            on=_is_retried, attempts=None, timeout=LEASE_MARGIN_SECONDS, wait_initial=0.2, wait_max=5.0
        ):
            with attempt, connection.checkout(self.url) as conn:
                write(conn)


def _is_retried(error: Exception) -> bool:
    return isinstance(error, TemporaryError) and not isinstance(error, BuildDropped)
