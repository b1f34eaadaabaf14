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
from uuid import UUID

from worker.backends.budgets import MAX_PAUSE_SECONDS, Budget
from worker.configuration import EmbeddingBackendSettings
from worker.errors import Bug, BuildDropped, TemporaryError
from worker.indexing.draining.provider import NOT_ASKED, PAUSE_SECONDS, Provider
from worker.indexing.draining.sending import Sender
from worker.indexing.draining.settlement import Settlement
from worker.indexing.packing import fill
from worker.observability import events
from worker.observability.logs import log_fields
from worker.protocols import EmbeddingBackend
from worker.store import builds, connection, queue
from worker.store.builds import Build
from worker.store.queue import Claim

MIN_SHARE = 64  # inputs of a request below which sharing out costs more than it gains
POLL_SECONDS = 0.25  # how long an idle process sleeps between looks at the queue
BUILDS_SECONDS = 2.0  # how long the list of builds is trusted; documents of a known build are seen at once

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
        self._provider = Provider(settings.name, backend, self._budget)
        self._settlement = Settlement(
            url=url,
            timeout_seconds=settings.timeout_seconds,
            provider=self._provider,
            sender=Sender(
                backend=backend, provider=self._provider, budget=self._budget, stopping=self._stopping
            ),
        )
        self._builds: tuple[float, list[Build]] = (0.0, [])
        self._turn = 0  # which of them is looked at first
        self._threads = [
            threading.Thread(target=self._run, name=f"drain-{settings.name}-{slot}", daemon=True)
            for slot in range(settings.concurrency)
        ]

    def start(self) -> None:
        """Ask the provider, and start the threads; they end with `stop` or with the process."""
        self._provider.failure = NOT_ASKED
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
                queue.release(conn, claim, counted=False)

    def drain(self) -> int:
        """Work in the calling thread; the number of claims. For scripts and tests.

        Until nothing is claimable, or the provider cannot be used.
        """
        claims = 0
        while (claim := self._claim()) is not None:
            self._settle(claim, alone=True)
            claims += 1
            if self._provider.failure is not None:
                break
        return claims

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._looking:
                    claim = self._next()
                    if claim is not None and (claim.suspect or self._provider.window):
                        self._settle_alone(claim)  # nobody claims meanwhile
                        continue
                if claim is not None:
                    self._settle(claim)
            except TemporaryError as error:
                logger.warning("postgres_unreachable", extra=log_fields(error=str(error)))
                self._stopping.wait(random.uniform(0.5, 2.0))  # noqa: S311
            except Exception as error:  # the thread is the slot: a bug must not take it away for good
                logger.error("a claim was left to its lease", exc_info=Bug.of(error))
                self._stopping.wait(PAUSE_SECONDS)

    def _next(self) -> Claim | None:
        """Wait for work; None when stopping. Whoever finds some lets the next thread look at once."""
        while not self._stopping.is_set():
            paused = self._provider.paused_seconds
            if paused > 0:
                self._stopping.wait(min(paused, 1.0))
            elif (claim := self._claim()) is not None:
                return claim
            else:
                self._stopping.wait(POLL_SECONDS)
        return None

    def _claim(self) -> Claim | None:
        """The next claim, when the provider takes requests and the budget allows one; None when nothing waits."""
        while not self._stopping.is_set():
            try:
                if not self._is_usable() or (found := self._look()) is None:
                    return None
                if (claim := self._claim_of(*found)) is not None:
                    return claim
            except BuildDropped:
                self._builds = (0.0, [])
        return None

    def _is_usable(self) -> bool:
        """Whether the provider takes requests: at the start, and for as long as it took none, one word is asked for.

        So a provider that is away gets no texts, is paid for none, and nothing is claimed in vain.
        """
        if self._provider.failure is None:
            return True
        failure = self._provider.ask()
        with connection.checkout(self._url) as conn:
            for build in self._written(conn):
                builds.note_error(conn, build, str(failure) if failure else None)
        return failure is None

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
        wait = self._budget.take(tokens, max_wait_seconds=patience)
        wait_now = wait if wait <= patience else min(wait, 1.0)
        events.budget_wait(self._budget.name, wait_now)
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
                claim = queue.claim(
                    conn, build, limit=limit, fill=covered, lease_seconds=self._settlement.lease_seconds
                )
        finally:
            inputs = claim.inputs if claim else ()
            self._budget.refund(
                requests=0 if inputs else 1,
                tokens=tokens - sum(item.tokens for item in inputs),
                held_seconds=time.monotonic() - taken,
            )
        if claim is not None:
            events.expired(build.index, claim.expired)
            self._heavy_tokens = 0
            self._held[claim.token] = claim
        return claim

    def _share(self, conn: connection.Connection, build: Build) -> tuple[int, int]:
        """Inputs of the next request, and the tokens of the largest.

        What waits is shared out to all slots; a large backlog fills requests.
        """
        slots = self._settings.concurrency
        waiting, tokens = queue.waiting(conn, build, limit=slots * self._backend.batch_size)
        share = self._provider.window or max(MIN_SHARE, -(-waiting // slots))
        return min(waiting, share, self._backend.batch_size), tokens

    def _written(self, conn: connection.Connection) -> list[Build]:
        """The builds of this backend, but for those of paused indexes."""
        read_at, found = self._builds
        if time.monotonic() - read_at > BUILDS_SECONDS or not found:
            found = [b for b in builds.active(conn) if b.recipe["backend"] == self._settings.name]
            self._builds = (time.monotonic(), found)
        return found

    def _settle_alone(self, claim: Claim) -> None:
        """Settle a claim while nothing else is in flight: should it end this process, or take the provider down, it
        costs no other an attempt."""
        while len(self._held) > 1 and not self._stopping.is_set():
            self._stopping.wait(POLL_SECONDS)
        self._settle(claim, alone=True)

    def _settle(self, claim: Claim, *, alone: bool = False) -> None:
        try:
            self._settlement.settle(claim, alone=alone)
        except BuildDropped:  # nobody wants it any more
            pass
        finally:
            self._held.pop(claim.token, None)
