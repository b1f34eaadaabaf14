"""Claim inputs for one request: find a build with work, take the budget, then lease as many as it covers.

The budget comes before the claim, so a slot waits for it without a lease, a connection, or a counted attempt.
"""

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from worker.backends.budgets import MAX_PAUSE_SECONDS
from worker.errors import BuildDropped
from worker.indexing import wakeups
from worker.indexing.draining.provider import Provider
from worker.observability import events
from worker.packing import fill
from worker.recipes import Recipe
from worker.store import builds, connection, queue
from worker.store.builds import Build
from worker.store.queue import Claim

BUILDS_SECONDS = 2.0  # how long the list of builds is cached; documents of a cached build are seen at once


@dataclass(frozen=True, kw_only=True)
class Work:
    """A build with inputs to embed."""

    build: Build
    limit: int  # inputs of the next request, at most
    tokens: int  # of that request, at most


class Claimer:
    """Makes the claims of one backend in this process. One thread calls it at a time."""

    def __init__(
        self,
        url: str,
        provider: Provider,
        *,
        indexes: Collection[str] | None,  # names; None: all
        lease_seconds: float,
        stopping: threading.Event,
    ) -> None:
        self._url, self._provider, self._stopping = url, provider, stopping
        self._indexes, self._lease_seconds = indexes, lease_seconds
        self._heavy_tokens = 0  # of the next input, if it is more than the budget's share of a request
        self._builds: tuple[float, list[Build]] = (0.0, [])  # and the monotonic time when they were read
        self._queued = 0  # how often contents had been queued by then
        self._turn = 0  # which build is looked at first

    def claim(self, least: int = 1) -> Claim | None:
        """Return the next claim; `None` if the queue is empty, the provider is down, or the process is stopping.

        Leaves fewer than `least` inputs in the queue, unless a request takes no more.
        """
        while not self._stopping.is_set():
            try:
                if not self._provider_is_up():
                    return None
                self._provider.find_batch_size()
                if (work := self._find_work(least)) is None:
                    if self._queued == wakeups.queued.count:
                        return None
                    self._builds = (0.0, [])  # perhaps of a new index
                    continue
                if (claim := self._claim(work)) is not None:
                    return claim
            except BuildDropped:
                self._builds = (0.0, [])
        return None

    def _provider_is_up(self) -> bool:
        """Probe the provider at the start, and after a failure until it answers: only then does it get texts."""
        if self._provider.failure is None:
            return True
        failure = self._provider.probe()
        with connection.checkout(self._url) as conn:
            for build in self._active_builds(conn):
                builds.note_error(conn, build, str(failure) if failure else None)
        return failure is None

    def _find_work(self, least: int) -> Work | None:
        """Find the next build with queued inputs, in turn, so that a backlog of one index delays only that index.

        While an index is being rebuilt, its texts come after everything else that this backend embeds.
        """
        with connection.checkout(self._url) as conn:
            active = self._active_builds(conn)
            is_rebuilding = any(build.state == "filling" for build in active)
            for priorities in (queue.URGENT, queue.PRIORITIES) if is_rebuilding else (queue.PRIORITIES,):
                for at in range(len(active)):
                    build = active[(self._turn + at) % len(active)]
                    limit, largest_tokens = self._request_size(conn, build, priorities)
                    if limit >= min(least, self._provider.batch_size):
                        self._turn += at + 1
                        return Work(build=build, limit=limit, tokens=limit * largest_tokens)
        return None

    def _active_builds(self, conn: connection.Connection) -> list[Build]:
        """The builds that this backend embeds, except those of paused indexes.

        They are the builds of its indexes in the settings whose vectors it can make. Another deployment that shares
        the database may embed the others, so their inputs are left alone.
        """
        read_at, found = self._builds
        queued = wakeups.queued.count
        if time.monotonic() - read_at > BUILDS_SECONDS or not found:
            own = [
                build
                for build in builds.active(conn)
                if self._indexes is None or build.index in self._indexes
            ]
            found = [build for build in own if Recipe.stored(build.recipe).is_made_by(self._provider.backend)]
            self._builds, self._queued = (time.monotonic(), found), queued
        return found

    def _request_size(
        self, conn: connection.Connection, build: Build, priorities: Sequence[int]
    ) -> tuple[int, int]:
        """How many inputs the next request takes, and the tokens of the largest queued one.

        A small queue is shared out to all slots; a large backlog fills requests.
        """
        slots, batch_size = self._provider.settings.concurrency, self._provider.batch_size
        waiting, largest_tokens = queue.waiting(conn, build, limit=slots * batch_size, priorities=priorities)
        share = self._provider.window or max(self._provider.share, -(-waiting // slots))
        return min(waiting, share, batch_size), largest_tokens

    def _claim(self, work: Work) -> Claim | None:
        """Take the budget, claim as many inputs as it covers, and return the rest. `None`: look for work again."""
        tokens = self._take_budget(work)
        if tokens is None:
            return None
        taken_at = time.monotonic()
        claim = None
        try:
            if self._stopping.is_set():
                return None
            with connection.checkout(self._url) as conn:
                claim = queue.claim(
                    conn,
                    work.build,
                    limit=work.limit,
                    fill=partial(self._fill, tokens),
                    lease_seconds=self._lease_seconds,
                    donor=self._donor(work.build),
                )
        finally:
            inputs = claim.inputs if claim else ()
            self._provider.budget.refund(
                requests=0 if inputs else 1,
                tokens=tokens - sum(item.tokens for item in inputs),
                held_seconds=time.monotonic() - taken_at,
            )
        if claim is not None:
            events.expired(work.build.index, claim.expired)
            self._heavy_tokens = 0
        return claim

    def _donor(self, build: Build) -> Build | None:
        """Another build of the index whose vectors serve this one, while the index is being rebuilt."""
        others = (each for each in self._builds[1] if each.index_id == build.index_id)
        return next(
            (each for each in others if each.build != build.build and each.shares_vectors(build)), None
        )

    def _take_budget(self, work: Work) -> int | None:
        """Take a request from the budget, and wait until it may be sent. Returns its tokens, `None` without a grant.

        It takes few tokens more than the request will have: tokens that are taken and returned hold up other
        processes meanwhile.
        """
        budget, backend = self._provider.budget, self._provider.backend
        tokens = backend.batch_token_limit
        if budget.request_tokens is not None:
            tokens = max(min(tokens, budget.request_tokens, work.tokens), self._heavy_tokens)
        # a heavy input must queue for the budget, or it would find other requests before it for ever
        patience = MAX_PAUSE_SECONDS if self._heavy_tokens else 0.0
        wait = budget.take(tokens, max_wait_seconds=patience)
        wait_now = wait if wait <= patience else min(wait, 1.0)
        events.budget_wait(budget.name, wait_now)
        self._stopping.wait(wait_now)
        return tokens if wait <= patience else None

    def _fill(self, tokens: int, counts: Sequence[int]) -> int:
        """How many of the queued inputs, with these token counts, the budget covers."""
        if self._provider.budget.request_tokens and counts and counts[0] > tokens:
            self._heavy_tokens = counts[0]
            return 0
        return fill(counts, token_limit=tokens, size_limit=self._provider.batch_size)
