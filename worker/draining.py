"""Drain: slot, claim, request, save, publish.

Belongs to the embedding worker process. Each thread of a backend is one slot: it claims what fills one request,
sends it, saves the vectors, and publishes the documents that became complete. The queue stands in Postgres, so
threads of any number of processes share it, and a process that dies loses at most what it had in flight.
"""

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import stamina
from numpy.typing import NDArray

from worker.chunking import MIN_TOKENS, chunk
from worker.configuration import EmbeddingBackendSettings
from worker.documents import Chunk, embedding_text
from worker.errors import (
    InputError,
    ProviderUnavailable,
    Refused,
    SettingsError,
    TemporaryError,
    TooLarge,
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
PAUSE_SECONDS = 15.0  # between requests of a backend whose settings are wrong, or that named no time to wait

logger = logging.getLogger("vector_index.drain")


@dataclass(frozen=True, kw_only=True)
class Sent:
    """How one request of one claim ended for some of its inputs."""

    inputs: Sequence[Input]
    vectors: NDArray[np.float32] | None = None  # a row per input
    error: VectorIndexError | None = None
    pieces: Sequence[Chunk] = ()  # of a single input that is too large: what takes its place


class Drainer:
    """The threads of one embedding backend in this process."""

    def __init__(self, url: str, settings: EmbeddingBackendSettings, backend: EmbeddingBackend) -> None:
        self._url = url
        self._settings = settings
        self._backend = backend
        self._looking = threading.Lock()  # one thread looks for work, the others stand behind it
        self._stopping = threading.Event()
        self._paused_until = 0.0  # monotonic seconds
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
        """Claim nothing more and wait for requests in flight; False when some are still under way."""
        self._stopping.set()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

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
        with connection.checkout(self._url) as conn:
            written = self._written(conn)
            for at in range(len(written)):  # in turn: an index with a backlog does not hold up the others
                build = written[(self._turn + at) % len(written)]
                if (limit := self._share(conn, build)) == 0:
                    continue
                claim = queue.claim(
                    conn,
                    build,
                    limit=limit,
                    fill=lambda tokens: fill(
                        tokens,
                        token_limit=self._backend.batch_token_limit,
                        size_limit=self._backend.batch_size,
                    ),
                    lease_seconds=self._settings.timeout_seconds + LEASE_MARGIN_SECONDS,
                )
                if claim is not None:
                    self._turn += at + 1
                    return claim
        return None

    def _share(self, conn: connection.Connection, build: Build) -> int:
        """Inputs of the next request: what waits is shared out to all slots; a large backlog fills requests."""
        slots = self._settings.concurrency
        waiting = queue.waiting(conn, build, limit=slots * self._backend.batch_size)
        share = max(MIN_SHARE, -(-waiting // slots))
        return min(waiting, share, self._backend.batch_size)

    def _written(self, conn: connection.Connection) -> list[Build]:
        """The builds of this backend."""
        read_at, found = self._builds
        if time.monotonic() - read_at > BUILDS_SECONDS or not found:
            found = [b for b in upkeep.written_builds(conn) if b.recipe["backend"] == self._settings.name]
            self._builds = (time.monotonic(), found)
        return found

    def _settle(self, claim: Claim) -> None:
        """Send a claim and write down how each of its inputs ended."""
        # whatever begins before this has ended before the lease does
        last_start = time.monotonic() + LEASE_MARGIN_SECONDS
        with connection.checkout(self._url) as conn:
            if claim.saved:
                revisions.publish(conn, claim.build, revisions.touched_by(conn, claim.build, claim.saved))
            if claim.orphans:
                queue.forget(conn, claim.build, claim.orphans)
        if not claim.inputs:
            return
        first = claim.inputs[0]
        if first.attempts > MAX_ATTEMPTS:  # it travels alone by now, and no attempt came to an end
            with connection.checkout(self._url) as conn:
                reason = f"given up after {MAX_ATTEMPTS} attempts: the worker died each time it was embedded"
                queue.fail(conn, claim, first.hash, reason)
            return
        try:
            Recipe.stored(claim.build.recipe).check(claim.build.index, self._backend)
            results = self._send(claim, last_start)
        except SettingsError as error:  # of this index alone: the others of the backend go on
            self._set_aside(claim, error)
            return
        except ProviderUnavailable as error:  # asked for its dimensions
            results = [Sent(inputs=claim.inputs, error=error)]
        # what was paid for outlives a restart of Postgres; each step is a no-op the second time
        for attempt in stamina.retry_context(
            on=TemporaryError, attempts=None, timeout=LEASE_MARGIN_SECONDS, wait_initial=0.2, wait_max=5.0
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

    def _send(self, claim: Claim, last_start: float) -> list[Sent]:
        """One request; one that is too large, or holds a refused input, is halved until the guilty input is alone.

        Further requests begin before `last_start`, in monotonic seconds: the lease covers them. No connection is
        held meanwhile.
        """
        recipe = Recipe.stored(claim.build.recipe)
        ended: list[Sent] = []
        waiting: list[Sequence[Input]] = [claim.inputs]
        while waiting:
            inputs = waiting.pop()
            try:
                if inputs is not claim.inputs and time.monotonic() > last_start:
                    raise ProviderUnavailable(
                        f"{self._backend.model_id}: halving a request that is too large, or holds what is refused, "
                        f"took over {LEASE_MARGIN_SECONDS:.0f} s; the rest is tried again later"
                    )
                texts = [embedding_text(recipe.document_prefix, item.heading, item.text) for item in inputs]
                ended.append(Sent(inputs=inputs, vectors=self._backend.embed(texts)))
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

    def _cut(self, recipe: Recipe, item: Input) -> Sequence[Chunk]:
        """An input in pieces of half its tokens; none when it has no room for two chunks."""
        count = self._backend.count_tokens
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
        elif isinstance(error, SettingsError):
            self._probed = False  # a tiny request tells whether they are mended, not one that is paid for
            self._pause(PAUSE_SECONDS)
            queue.give_back(conn, claim, seconds=PAUSE_SECONDS, counted=False)
        elif isinstance(error, ProviderUnavailable) and error.rate_limited:
            wait = error.retry_after_seconds if error.retry_after_seconds is not None else PAUSE_SECONDS
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
            queue.fail(conn, claim, item.hash, str(error))

    def _pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)
