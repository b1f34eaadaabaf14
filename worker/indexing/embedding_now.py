"""Embed texts in this process while its user waits, without the queue in Postgres: for a sample of an index.

Requests go out in as many threads as a worker has slots, and wait for the backend's limits as a worker's do.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import TypeVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from worker.backends.budgets import MAX_PAUSE_SECONDS, MAX_WAIT_SECONDS
from worker.documents import Chunk
from worker.errors import InputError, ProviderUnavailable
from worker.index import Embedder
from worker.indexing.draining import backoff
from worker.indexing.draining.outcomes import Response
from worker.indexing.draining.provider import MIN_SHARE, Provider
from worker.indexing.draining.sending import Sender
from worker.packing import batches
from worker.store.builds import Build
from worker.store.queue import ALONE_FROM_ATTEMPT, Claim, Input

T = TypeVar("T")
R = TypeVar("R")

MAX_ATTEMPTS = 4  # of a text, while the provider does not answer
UNBOUNDED_SECONDS = 86_400.0  # nobody else waits for these texts, so no lease ends


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """How texts have ended, by hash. Each text is in one of the three."""

    vectors: Mapping[bytes, NDArray[np.float32]]
    pieces: Mapping[bytes, Sequence[Chunk]]  # of texts that are too large for the provider: embedded, too
    failed: Mapping[bytes, str]  # why the provider refuses them


@dataclass(kw_only=True)
class ImmediateEmbedder:
    """Sends the texts of one build; counts requests, tokens and seconds."""

    build: Build
    embedder: Embedder
    tokens: int = 0
    seconds: float = 0.0
    _sender: Sender = field(init=False)

    def __post_init__(self) -> None:
        own = self.embedder
        provider = Provider(own.settings, own.backend, own.budget)
        self._sender = Sender(provider=provider, stopping=threading.Event())

    def embed(self, chunks: Iterable[Chunk]) -> Embedded:
        """Embed each distinct text. Raises ProviderUnavailable, SettingsError when the provider cannot be used."""
        began = time.monotonic()
        vectors: dict[bytes, NDArray[np.float32]] = {}
        pieces: dict[bytes, Sequence[Chunk]] = {}
        failed: dict[bytes, str] = {}
        waiting = list({chunk.hash: _input(chunk) for chunk in chunks}.values())
        try:
            while waiting:
                again: list[Input] = []
                for responses in concurrently(self._send, self._requests(waiting), self._slots):
                    for response in responses:
                        again += self._take(response, vectors, pieces, failed)
                waiting = [item for item in again if item.hash not in vectors]
        finally:
            self._sender.stopping.set()
            self._sender = Sender(provider=self._sender.provider, stopping=threading.Event())
        self.seconds += time.monotonic() - began
        return Embedded(vectors=vectors, pieces=pieces, failed=failed)

    @property
    def _slots(self) -> int:
        return self.embedder.settings.concurrency

    def _requests(self, inputs: Sequence[Input]) -> list[list[Input]]:
        """Pack inputs as workers do: a small number is shared out to all slots, and what failed twice goes alone."""
        provider, backend = self._sender.provider, self.embedder.backend
        share = max(MIN_SHARE, -(-len(inputs) // self._slots))
        together = [item for item in inputs if item.attempts < ALONE_FROM_ATTEMPT]
        alone = [[item] for item in inputs if item.attempts >= ALONE_FROM_ATTEMPT]
        tokens = min(backend.batch_token_limit, provider.budget.request_tokens or backend.batch_token_limit)
        limits = {"weight_limit": tokens, "size_limit": min(share, provider.batch_size)}
        return [*batches(together, lambda item: item.tokens, **limits), *alone]

    def _send(self, inputs: Sequence[Input]) -> Sequence[Response]:
        self._await_budget(sum(item.tokens for item in inputs))
        claim = Claim(
            build=self.build, token=uuid4(), inputs=inputs, saved=(), orphans=(), expired=0, suspect=False
        )
        return self._sender.send(claim, time.monotonic() + UNBOUNDED_SECONDS)

    def _await_budget(self, tokens: int) -> None:
        """Wait for the limits behind the workers' requests; a text above the burst keeps its place in the queue."""
        budget, stopping = self._sender.provider.budget, self._sender.stopping
        is_heavy = budget.request_tokens is not None and tokens > budget.request_tokens
        patience = MAX_PAUSE_SECONDS if is_heavy else 0.0
        while not stopping.is_set():
            wait = budget.take(tokens, max_wait_seconds=patience)
            if wait <= patience:
                stopping.wait(wait)
                return
            stopping.wait(min(wait, 1.0))

    def _take(
        self,
        response: Response,
        vectors: dict[bytes, NDArray[np.float32]],
        pieces: dict[bytes, Sequence[Chunk]],
        failed: dict[bytes, str],
    ) -> list[Input]:
        """Note how the inputs of a request ended; return those that must still be sent."""
        if response.vectors is not None:
            hashes = [item.hash for item in response.inputs]
            vectors.update(zip(hashes, response.vectors, strict=True))
            self.tokens += sum(item.tokens for item in response.inputs)
            return []
        if response.pieces:
            pieces[response.inputs[0].hash] = response.pieces
            return [_input(piece) for piece in response.pieces]
        if response.error is None:
            return list(response.inputs)
        if isinstance(response.error, InputError):
            failed.update((item.hash, str(response.error)) for item in response.inputs)
            return []
        if not isinstance(response.error, ProviderUnavailable):
            raise response.error
        return self._try_again(response.inputs, response.error, failed)

    def _try_again(
        self, inputs: Sequence[Input], error: ProviderUnavailable, failed: dict[bytes, str]
    ) -> list[Input]:
        """Wait, and return the inputs for another attempt; after the last one the provider is away, or refuses one."""
        attempts, wait = inputs[0].attempts, error.retry_after_seconds
        if wait is not None:
            self.embedder.budget.pause(wait)  # the workers', too
        elif attempts > 1 and not error.rate_limited and not self._sender.provider_is_up(MAX_WAIT_SECONDS):
            raise error
        if attempts == MAX_ATTEMPTS:
            failed.update((item.hash, str(error)) for item in inputs)
            return []
        time.sleep(backoff.backoff_seconds(attempts, backoff.PAUSE_SECONDS) if wait is None else 0.0)
        return [replace(item, attempts=attempts + 1) for item in inputs]


def _input(chunk: Chunk) -> Input:
    return Input(hash=chunk.hash, heading=chunk.heading, text=chunk.text, tokens=chunk.tokens, attempts=1)


def concurrently(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Yield the results of a function, as they come. An error or Ctrl-C leaves the running calls behind at once.

    The threads are daemons: a process that ends does not wait for a provider that hangs.
    """
    todo, done = deque(items), SimpleQueue[tuple[R | None, BaseException | None]]()

    def work() -> None:
        while True:
            try:
                item = todo.popleft()
            except IndexError:
                return
            try:
                done.put((function(item), None))
            except BaseException as error:  # noqa: BLE001 - raised in the calling thread
                done.put((None, error))

    for _ in range(min(threads, len(items))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in items:
            result, error = done.get()
            if error is not None:
                raise error
            yield result  # type: ignore[misc]
    finally:
        todo.clear()
