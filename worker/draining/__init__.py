"""Drain: slot, budget, claim, request, save, publish.

Belongs to the embedding worker process. Each thread of a backend is one slot: when work waits and the backend's
budget allows a request, it claims what fills it, sends it at once, saves the vectors, and publishes the documents
that became complete. The queue stands in Postgres, so threads of any number of processes share it, and a process
that dies loses at most what it had in flight.
"""

import logging
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

import stamina

from worker import metrics
from worker.budgets import MAX_PAUSE_SECONDS, Budget
from worker.configuration import EmbeddingBackendSettings
from worker.draining.requests import Sender, Sent
from worker.errors import (
    BuildDropped,
    InputError,
    ProviderUnavailable,
    SettingsError,
    TemporaryError,
    VectorIndexError,
)
from worker.packing import fill
from worker.recipes import EmbeddingBackend, Recipe, probe
from worker.store import builds, connection, queue, revisions, upkeep
from worker.store.builds import Build
from worker.store.queue import Claim, Input

MIN_SHARE = 64  # inputs of a request below which sharing out costs more than it gains
POLL_SECONDS = 0.25  # how long an idle process sleeps between looks at the queue
BUILDS_SECONDS = 2.0  # how long the list of builds is trusted; documents of a known build are seen at once
LEASE_MARGIN_SECONDS = 60.0  # beyond the timeout of the request
MAX_ATTEMPTS = 6  # claims of one content; it travels alone from the third
BACKOFF_SECONDS = 2.0  # before the second attempt, doubled each time, with jitter
BACKOFF_LIMIT_SECONDS = 120.0
PROBE_TOKENS = 8  # at most, of a word
PAUSE_SECONDS = 15.0  # between requests of a backend whose settings are wrong, or that named no time to wait

logger = logging.getLogger("vector_index.drain")


class Drainer:
    """The threads of one embedding backend in this process."""

    def __init__(
        self,
        url: str,
        settings: EmbeddingBackendSettings,
        backend: EmbeddingBackend,
        budget: Budget | None = None,  # None: no limits
    ) -> None:
        self._url = url
        self._settings = settings
        self._backend = backend
        self._budget = budget or Budget("", settings.name)
        self._heavy_tokens = 0  # of the next input, where it is more than the budget's share of a request
        self._held: dict[UUID, Claim] = {}  # requests under way
        self._looking = threading.Lock()  # one thread looks for work, the others stand behind it
        self._stopping = threading.Event()
        self._paused_until = 0.0  # monotonic seconds
        self._sender = Sender(backend=backend, budget=self._budget, stopping=self._stopping)
        self._probed = False  # whether the provider can be used, as far as is known
        self._builds: tuple[float, list[Build]] = (0.0, [])
        self._turn = 0  # which of them is looked at first
        self._threads = [
            threading.Thread(target=self._run, name=f"drain-{settings.name}-{slot}", daemon=True)
            for slot in range(settings.concurrency)
        ]

    def start(self) -> None:
        """Start the threads; they end with `stop` or with the process."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Claim and send nothing more, give back what is not sent, and wait for what is in flight.

        False when some of it is still under way.
        """
        self._stopping.set()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def let_go(self) -> None:
        """Give back what is in flight: this process ends before the answers come. It is no attempt.

        Not earlier: whoever claims it pays for it a second time. Without Postgres the leases end by themselves.
        """
        for claim in list(self._held.values()):
            with suppress(TemporaryError), connection.checkout(self._url) as conn:
                queue.give_back(conn, claim, counted=False)

    def drain(self) -> int:
        """Work in the calling thread until nothing is claimable; the number of claims. For scripts and tests."""
        claims = 0
        while (claim := self._claim()) is not None:
            self._settle(claim)
            claims += 1
        return claims

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._looking:
                    claim = self._next()
                    if claim is not None and claim.suspect:
                        self._settle_alone(claim)  # nobody claims meanwhile
                        continue
                if claim is not None:
                    self._settle(claim)
            except TemporaryError as error:
                logger.warning("postgres unreachable, trying again: %s", error)
                self._stopping.wait(random.uniform(0.5, 2.0))  # noqa: S311
            except Exception:  # the thread is the slot: a bug must not take it away for good
                logger.exception("a claim was left to its lease")
                self._stopping.wait(PAUSE_SECONDS)

    def _next(self) -> Claim | None:
        """Wait for work; None when stopping. Whoever finds some lets the next thread look at once."""
        while not self._stopping.is_set():
            paused = self._paused_until - time.monotonic()
            if paused > 0:
                self._stopping.wait(min(paused, 1.0))
            elif not self._probed:
                self._probe()
            elif (claim := self._claim()) is not None:
                return claim
            else:
                self._stopping.wait(POLL_SECONDS)
        return None

    def _probe(self) -> None:
        """Ask for one vector before work is claimed: at the start, and as long as the settings are wrong.

        A provider that is away holds nothing up: the first claim waits for it.
        """
        failure: VectorIndexError | None = None
        try:
            with self._budget.first(PROBE_TOKENS), metrics.Request(self._budget.name, metrics.PROBE):
                probe(self._backend)
        except VectorIndexError as error:
            failure = error
            logger.warning("embedding backend %r: %s", self._settings.name, error)
        self._probed = not isinstance(failure, SettingsError)
        if not self._probed:
            self._pause(PAUSE_SECONDS)
        with connection.checkout(self._url) as conn:
            for build in self._written(conn):
                builds.note_error(conn, build, str(failure) if failure else None)

    def _claim(self) -> Claim | None:
        """The next claim, when the budget allows its request; None when nothing waits, or when stopping."""
        while not self._stopping.is_set():
            try:
                if (found := self._look()) is None:
                    return None
                if (claim := self._claim_of(*found)) is not None:
                    return claim
            except BuildDropped:
                self._builds = (0.0, [])
        return None

    def _look(self) -> tuple[Build, int, int] | None:
        """A build for which contents wait, and how many the next request takes of them, with how many tokens, at most.

        Not many more than it will have: tokens that are taken and given back keep other processes waiting meanwhile.
        """
        with connection.checkout(self._url) as conn:
            written = self._written(conn)
            for at in range(len(written)):  # in turn: an index with a backlog does not hold up the others
                build = written[(self._turn + at) % len(written)]
                limit, tokens = self._share(conn, build)
                if limit > 0:
                    self._turn += at + 1
                    return build, limit, limit * tokens
        return None

    def _claim_of(self, build: Build, limit: int, most_tokens: int) -> Claim | None:
        """Take from the budget, then claim what it covers; None: look again.

        The budget comes first, as nothing may be held while it is waited for.
        """
        tokens, share = self._backend.batch_token_limit, self._budget.request_tokens
        if share is not None:
            tokens = max(min(tokens, share, most_tokens), self._heavy_tokens)
        patience = MAX_PAUSE_SECONDS if self._heavy_tokens else 0.0  # it would find others before it for ever
        wait = self._budget.take(tokens, patience_seconds=patience)
        wait_now = wait if wait <= patience else min(wait, 1.0)
        metrics.budget_wait(self._budget.name, wait_now)
        self._stopping.wait(wait_now)
        if wait > patience:
            return None
        taken = time.monotonic()

        def covered(counts: Sequence[int]) -> int:
            if share and counts and counts[0] > tokens:
                self._heavy_tokens = counts[0]
                return 0
            return fill(counts, token_limit=tokens, size_limit=self._backend.batch_size)

        claim = None
        try:
            if self._stopping.is_set():
                return None
            with connection.checkout(self._url) as conn:
                claim = queue.claim(conn, build, limit=limit, fill=covered, lease_seconds=self._lease_seconds)
        finally:
            inputs = claim.inputs if claim else ()
            self._budget.give_back(
                requests=0 if inputs else 1,
                tokens=tokens - sum(item.tokens for item in inputs),
                held_seconds=time.monotonic() - taken,
            )
        if claim is not None:
            metrics.expired(build.index, claim.expired)
            self._heavy_tokens = 0
            self._held[claim.token] = claim
        return claim

    @property
    def _lease_seconds(self) -> float:
        return self._settings.timeout_seconds + LEASE_MARGIN_SECONDS

    def _share(self, conn: connection.Connection, build: Build) -> tuple[int, int]:
        """Inputs of the next request, and the tokens of the largest.

        What waits is shared out to all slots; a large backlog fills requests.
        """
        slots = self._settings.concurrency
        waiting, tokens = queue.waiting(conn, build, limit=slots * self._backend.batch_size)
        share = max(MIN_SHARE, -(-waiting // slots))
        return min(waiting, share, self._backend.batch_size), tokens

    def _written(self, conn: connection.Connection) -> list[Build]:
        """The builds of this backend, but for those of paused indexes."""
        read_at, found = self._builds
        if time.monotonic() - read_at > BUILDS_SECONDS or not found:
            found = [b for b in upkeep.active_builds(conn) if b.recipe["backend"] == self._settings.name]
            self._builds = (time.monotonic(), found)
        return found

    def _settle_alone(self, claim: Claim) -> None:
        """Settle a claim while nothing else is in flight: should it end the process, it costs no other an attempt."""
        while len(self._held) > 1 and not self._stopping.is_set():
            self._stopping.wait(POLL_SECONDS)
        self._settle(claim)

    def _settle(self, claim: Claim) -> None:
        try:
            self._send_and_write_down(claim)
        except BuildDropped:  # nobody wants it any more
            pass
        finally:
            self._held.pop(claim.token, None)

    def _send_and_write_down(self, claim: Claim) -> None:
        """Send a claim and write down how each of its inputs ended."""
        # whatever begins before this has ended before the lease does
        last_start = time.monotonic() + LEASE_MARGIN_SECONDS
        with connection.checkout(self._url) as conn:
            # what was in flight before it may have taken as long as its lease
            if claim.suspect and not queue.renew(conn, claim, lease_seconds=self._lease_seconds):
                return
            if claim.saved:
                revisions.publish(conn, claim.build, revisions.touched_by(conn, claim.build, claim.saved))
            if claim.orphans:
                queue.forget(conn, claim.build, claim.orphans)
                # one that is wanted again by now waits for no lease
                queue.give_back(conn, replace(claim, inputs=()), counted=False)
        if not claim.inputs:
            return
        first = claim.inputs[0]
        if first.attempts > MAX_ATTEMPTS:  # it travels alone by now, and no attempt came to an end
            with connection.checkout(self._url) as conn:
                reason = f"given up after {MAX_ATTEMPTS} attempts: the worker died each time it was embedded"
                metrics.failed(claim.build.index, queue.fail(conn, claim, first.hash, reason), None)
            return
        try:
            Recipe.stored(claim.build.recipe).check(claim.build.index, self._backend)
            results = self._sender.send(claim, last_start)
        except SettingsError as error:  # of this index alone: the others of the backend go on
            self._set_aside(claim, error)
            return
        except ProviderUnavailable as error:  # asked for its dimensions
            results = [Sent(inputs=claim.inputs, error=error)]
        # what was paid for outlives a restart of Postgres; each step is a no-op the second time
        for attempt in stamina.retry_context(
            on=_may_pass, attempts=None, timeout=LEASE_MARGIN_SECONDS, wait_initial=0.2, wait_max=5.0
        ):
            with attempt:
                self._write_down(claim, results)

    def _set_aside(self, claim: Claim, error: SettingsError) -> None:
        """Give a claim back whose index holds other vectors than the backend makes."""
        logger.warning("%s", error)
        with connection.checkout(self._url) as conn:
            builds.note_error(conn, claim.build, str(error))
            queue.give_back(conn, claim, seconds=PAUSE_SECONDS, counted=False)

    def _write_down(self, claim: Claim, results: Sequence[Sent]) -> None:
        """Save, publish, split, fail and give back, as the requests of a claim ended."""
        with connection.checkout(self._url) as conn:
            for sent in results:
                if sent.vectors is not None:
                    hashes = [item.hash for item in sent.inputs]
                    queue.save(conn, claim.build, hashes, sent.vectors)
                    revisions.publish(conn, claim.build, revisions.touched_by(conn, claim.build, hashes))
                    builds.note_error(conn, claim.build, None)
            # what is too large or refused ends while the claim still holds it; giving back ends the claim
            self._split(conn, claim, [sent for sent in results if sent.pieces])
            failed = [sent for sent in results if sent.error is not None and not sent.pieces]
            for sent in sorted(failed, key=lambda sent: not isinstance(sent.error, InputError)):
                assert sent.error is not None
                self._give_up(conn, claim, sent, sent.error)
            if any(sent.vectors is None and sent.error is None for sent in results):
                queue.give_back(conn, claim, counted=False)

    def _split(self, conn: connection.Connection, claim: Claim, large: Sequence[Sent]) -> None:
        """Queue smaller chunks in the place of inputs that are too large by themselves."""
        if not large:
            return
        builds.note_error(conn, claim.build, str(large[0].error))
        logger.warning("%d inputs are too large by themselves and are split: %s", len(large), large[0].error)
        docs = queue.split(conn, claim, [(sent.inputs[0], sent.pieces) for sent in large])
        revisions.publish(conn, claim.build, docs)

    def _give_up(
        self, conn: connection.Connection, claim: Claim, sent: Sent, error: VectorIndexError
    ) -> None:
        """Fail what the provider refuses for good; give the rest back for a later attempt."""
        builds.note_error(conn, claim.build, str(error))
        logger.warning("request of %d inputs failed: %s", len(sent.inputs), error)
        if isinstance(error, InputError):
            self._fail(conn, claim, sent.inputs, error)
            return
        metrics.retried(claim.build.index, len(sent.inputs), error)
        if isinstance(error, SettingsError):
            self._probed = False  # a tiny request tells whether they are mended, not one that is paid for
            self._pause(PAUSE_SECONDS)
            queue.give_back(conn, claim, seconds=PAUSE_SECONDS, counted=False)
        elif isinstance(error, ProviderUnavailable) and error.rate_limited:
            if error.retry_after_seconds:  # 0, or a date that is over, would have it refused again at once
                wait = self._budget.pause(error.retry_after_seconds)  # of all processes
            else:
                wait = PAUSE_SECONDS
                self._pause(wait)
            queue.give_back(conn, claim, seconds=wait, counted=False)
        else:
            spent = [item for item in sent.inputs if item.attempts >= MAX_ATTEMPTS]
            self._fail(conn, claim, spent if len(sent.inputs) == 1 else [], error)
            attempts = max(item.attempts for item in sent.inputs)
            wait = min(BACKOFF_SECONDS * 2 ** (attempts - 1), BACKOFF_LIMIT_SECONDS)
            queue.give_back(conn, claim, seconds=wait * random.uniform(0.5, 1.5))  # noqa: S311

    def _fail(
        self, conn: connection.Connection, claim: Claim, inputs: Sequence[Input], error: VectorIndexError
    ) -> None:
        for item in inputs:
            metrics.failed(claim.build.index, queue.fail(conn, claim, item.hash, str(error)), error)

    def _pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


def _may_pass(error: Exception) -> bool:
    return isinstance(error, TemporaryError) and not isinstance(error, BuildDropped)
