"""The threads of an embedding worker process that drain the queue: claim, send, save, publish.

Each thread of a backend is one slot. It claims the inputs of one request, sends them at once, saves the vectors, and
publishes the documents that are complete. The queue is in Postgres, so any number of processes share it, and a process
that dies loses only the requests it had in flight.
"""

import logging
import random
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from uuid import UUID

from worker.backends.budgets import Budget
from worker.configuration import EmbeddingBackendSettings
from worker.errors import BuildDropped, TemporaryError
from worker.indexing import wakeups
from worker.indexing.background import BackgroundThread
from worker.indexing.draining.claiming import Claimer
from worker.indexing.draining.provider import NOT_ASKED, Provider
from worker.indexing.draining.sending import Sender
from worker.indexing.draining.settlement import Settlement
from worker.observability.logs import log_fields
from worker.protocols import EmbeddingBackend
from worker.store import connection, queue
from worker.store.queue import Claim

POLL_SECONDS = 0.25  # how long an idle process sleeps between two looks at the queue, unless it is woken
FILL_SECONDS = 0.05

logger = logging.getLogger("vector_index.drain")


class Drainer:
    """Drains the queued inputs of one embedding backend, in threads of this process or step by step."""

    def __init__(
        self,
        url: str,  # of Postgres
        settings: EmbeddingBackendSettings,
        backend: EmbeddingBackend,
        budget: Budget | None = None,  # None: no limits
        indexes: Collection[str] | None = None,  # names of those that use the backend; None: all
    ) -> None:
        self.provider = Provider(settings, backend, budget or Budget("", settings.name))
        self._url = url
        self._stopping = threading.Event()
        self._in_flight: dict[UUID, Claim] = {}
        self._claiming = threading.Lock()  # one slot looks for work; the others queue behind it
        self._settlement = Settlement(url=url, sender=Sender(provider=self.provider, stopping=self._stopping))
        self._claimer = Claimer(
            url,
            self.provider,
            indexes=indexes,
            lease_seconds=self._settlement.lease_seconds,
            stopping=self._stopping,
        )
        self._slots = [
            BackgroundThread(
                f"drain-{settings.name}-{slot}",
                self._serve,
                stopping=self._stopping,
                on_unreachable=self._await_postgres,
                logger=logger,
                failure="a slot failed; the lease of its claim ends by itself",
            )
            for slot in range(settings.concurrency)
        ]

    @property
    def in_flight(self) -> int:
        """The number of claims that are being sent or settled."""
        return len(self._in_flight)

    def start(self) -> None:
        """Start the threads. They probe the provider first, and end with `stop` or with the process."""
        self.provider.failure = NOT_ASKED
        for slot in self._slots:
            slot.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Stop claiming and sending, and wait for the requests in flight. False if some outlast the timeout."""
        self._stopping.set()
        wakeups.queued.notify()
        deadline = time.monotonic() + timeout_seconds
        return all(slot.join(deadline - time.monotonic()) for slot in self._slots)

    def release_in_flight(self) -> None:
        """Release the claims in flight, uncounted: this process ends before their responses come.

        Call it last: whoever claims these inputs next pays for them again. Without Postgres their leases end by
        themselves.
        """
        for claim in list(self._in_flight.values()):
            with suppress(TemporaryError), connection.checkout(self._url) as conn:
                queue.release(conn, claim, counted=False)

    def step(self) -> bool:
        """Claim, send and settle one request in the calling thread. Returns whether there was a claim."""
        claim = self._claim()
        if claim is None:
            return False
        self._settle(claim, alone=True)
        return True

    def drain(self) -> int:
        """Step until the queue is empty, or the provider is unusable. Returns the number of claims."""
        claims = 0
        while self.step():
            claims += 1
            if self.provider.failure is not None:
                break
        return claims

    def _serve(self) -> None:
        """Wait for a claim and settle it: one round of a slot."""
        with self._claiming:
            claim = self._wait_for_claim()
            if claim is not None and (claim.suspect or self.provider.window):
                self._settle_alone(claim)  # under the lock: no other slot claims meanwhile
                return
        if claim is not None:
            self._settle(claim, alone=False)

    def _wait_for_claim(self) -> Claim | None:
        """Look for work until there is some; `None` while stopping.

        While a request is in flight, a few inputs wait for others, until its response or for FILL_SECONDS.
        """
        has_waited = False
        while not self._stopping.is_set():
            queued, settled = wakeups.queued.count, wakeups.settled.count
            paused = self.provider.paused_seconds
            least = 1 if has_waited or not self.in_flight else self.provider.share
            if paused > 0:
                self._stopping.wait(min(paused, 1.0))
            elif (claim := self._claim(least)) is not None:
                return claim
            elif least > 1:
                wakeups.settled.wait(settled, FILL_SECONDS)
                has_waited = True
            else:
                wakeups.queued.wait(queued, POLL_SECONDS)
                has_waited = False
        return None

    def _claim(self, least: int = 1) -> Claim | None:
        claim = self._claimer.claim(least)
        if claim is not None:
            self._in_flight[claim.token] = claim
        return claim

    def _settle_alone(self, claim: Claim) -> None:
        """Settle a claim while it is the only one in flight: it may crash this process, or the provider."""
        while self.in_flight > 1 and not self._stopping.is_set():
            self._stopping.wait(POLL_SECONDS)
        self._settle(claim, alone=True)

    def _settle(self, claim: Claim, *, alone: bool) -> None:
        try:
            self._settlement.settle(claim, alone=alone)
        except BuildDropped:  # nobody wants its inputs any more
            pass
        finally:
            self._in_flight.pop(claim.token, None)
            wakeups.settled.notify()

    def _await_postgres(self, error: TemporaryError) -> None:
        logger.warning("postgres_unreachable", extra=log_fields(error=str(error)))
        self._stopping.wait(random.uniform(0.5, 2.0))  # noqa: S311
