"""Try other settings on a sample of an index, beside the live build, and estimate the rebuild of the whole.

The sample lives in temporary tables: once as the live build has it, and once under the settings of today. Nothing that
applications see changes. Vectors that both recipes share are copied. The others come from the provider, within its
limits, and are forgotten with the sample.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from worker.documents import Chunk, Document
from worker.index import Index
from worker.indexing.embedding_now import ImmediateEmbedder
from worker.indexing.staging import SLICE_CHARACTERS, split
from worker.packing import batches
from worker.recipes import Recipe, probe
from worker.store import filling, samples
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filling import StoredText, Unfilled
from worker.store.samples import Totals
from worker.store.writing import DOCUMENTS_PER_TRANSACTION


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the rebuild of a whole index costs, from a sample: in proportion to the bytes of the texts."""

    documents: int
    bytes: int  # of their texts
    chunks: int
    inputs: int  # chunks without a vector under the new recipe: the inputs of all requests
    tokens: int  # of those inputs
    requests: int
    reused: float  # share of the chunks whose vector is there already, 0 to 1
    seconds: float | None  # with one embedding worker; None: the speed of the model is not known


@dataclass(kw_only=True)
class Sample:
    """A sample of an index in one session. `run` fills it; the figures rise meanwhile."""

    index: Index
    connection: Connection
    live: Build
    new: Build  # the live build under the settings of today; its tables are temporary
    old: Build | None = None  # the sample under the recipe of the live build; None: for an estimate alone
    documents: int = 0
    text_bytes: int = 0
    chunks: int = 0
    reused: int = 0  # chunks whose vector is there already
    inputs: int = 0
    tokens: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # reason by document, under the new recipe
    filling_seconds: float = 0.0  # of splitting and writing, without embedding
    _seen: set[bytes] = field(default_factory=set)
    _pieces: dict[bytes, Sequence[Chunk]] = field(
        default_factory=dict
    )  # of chunks that are too large, by hash
    _refused: dict[bytes, str] = field(default_factory=dict)  # reason by hash
    _embedder: ImmediateEmbedder = field(init=False)

    def __post_init__(self) -> None:
        self._embedder = ImmediateEmbedder(build=self.new, embedder=self.index.own_embedder)

    @classmethod
    def estimating(cls, index: Index, connection: Connection, live: Build) -> "Sample":
        """Return a sample that is split and counted, without a request beyond one for the length of vectors."""
        # chunks do not depend on that length, but whether vectors can be reused does
        recipe = Recipe.of(index.settings, index.backend).as_json()
        new = Build(
            build=samples.NEW, index_id=live.index_id, index=live.index, state="filling", recipe=recipe
        )
        return cls(index=index, connection=connection, live=live, new=new)

    @classmethod
    def searchable(cls, index: Index, connection: Connection, live: Build) -> "Sample":
        """Return a sample that can be searched under both recipes. Probes the provider, as a rebuild does."""
        recipe = Recipe.of(index.settings, index.backend).as_json()
        probe(index.backend)
        new = samples.create(connection, live, recipe, number=samples.NEW)
        old = samples.create(connection, live, live.recipe, number=samples.OLD)
        return cls(index=index, connection=connection, live=live, new=new, old=old)

    def run(self, chosen: Sequence[Unfilled], advance: Callable[[int], None]) -> None:
        """Split the documents; embed and write them if the sample is searchable. Calls `advance` with their number."""
        slices = batches(
            chosen,
            lambda item: item.bytes,
            weight_limit=SLICE_CHARACTERS,
            size_limit=DOCUMENTS_PER_TRANSACTION,
        )
        for some in slices:
            revs = [item.rev for item in some]
            if self.old is not None:
                live = samples.copy(self.connection, self.old, self.live, revs)
                revs = [item.rev for item in some if item.doc in live]
            prepared = self._split(filling.texts(self.connection, revs))
            missing = self._count(prepared)
            if self.old is not None:
                self._write(prepared, missing)
            advance(len(some))

    def estimate(self, totals: Totals) -> Estimate:
        """Scale the figures of the sample up to the whole index."""
        backend = self.index.backend
        factor = totals.bytes / self.text_bytes if self.text_bytes else 0.0
        tokens, inputs = ceil(self.tokens * factor), ceil(self.inputs * factor)
        requests = ceil(max(tokens / backend.batch_token_limit, inputs / backend.batch_size))
        return Estimate(
            documents=totals.documents,
            bytes=totals.bytes,
            chunks=ceil(self.chunks * factor),
            inputs=inputs,
            tokens=tokens,
            requests=requests,
            reused=self.reused / self.chunks if self.chunks else 0.0,
            seconds=self._seconds(factor, tokens, requests),
        )

    def _seconds(self, factor: float, tokens: int, requests: int) -> float | None:
        """Estimate the time: filling and embedding one after the other, as a model on this machine makes them."""
        filling = self.filling_seconds * factor
        if not tokens:
            return filling
        if not self._embedder.tokens:
            return None
        limits = self.index.settings.embedding_backend
        per_minute = (
            (tokens, limits.tokens_per_minute),
            (requests, limits.requests_per_minute),
        )
        limited = (60 * amount / limit for amount, limit in per_minute if limit)
        measured = tokens * self._embedder.seconds / self._embedder.tokens
        return filling + max([measured, *limited])

    def _split(self, texts: Sequence[StoredText]) -> list[tuple[StoredText, Sequence[Chunk]]]:
        began = time.monotonic()
        prepared: list[tuple[StoredText, Sequence[Chunk]]] = []
        for text in texts:
            document = Document(id=text.id, text=text.text, title=text.title, metadata=dict(text.metadata))
            prepared.append((text, split(document, self.new, self.index.backend)))
        self.filling_seconds += time.monotonic() - began
        return prepared

    def _count(self, prepared: Sequence[tuple[StoredText, Sequence[Chunk]]]) -> dict[bytes, Chunk]:
        """Count documents; return the chunks without a vector that no document before has had, by hash."""
        chunks = {chunk.hash: chunk for _, some in prepared for chunk in some}
        known: set[bytes] = set()
        if self.live.shares_vectors(self.new):
            known = samples.embedded(self.connection, self.live, list(chunks))
        missing = {hash: chunk for hash, chunk in chunks.items() if hash not in known | self._seen}
        self._seen |= missing.keys()
        self.documents += len(prepared)
        self.text_bytes += sum(len(text.text.encode()) for text, _ in prepared)
        self.chunks += sum(len(some) for _, some in prepared)
        self.reused += sum(chunk.hash in known for _, some in prepared for chunk in some)
        self.inputs += len(missing)
        self.tokens += sum(chunk.tokens for chunk in missing.values())
        return missing

    def _write(
        self, prepared: Sequence[tuple[StoredText, Sequence[Chunk]]], missing: Mapping[bytes, Chunk]
    ) -> None:
        """Embed what is missing, and write the documents that the provider takes into the new sample."""
        done = self._embedder.embed(missing.values())
        self._pieces |= done.pieces
        self._refused |= done.failed
        staged: list[tuple[int, int, Sequence[Chunk]]] = []
        for text, chunks in prepared:
            whole = list(_with_pieces(chunks, self._pieces))
            reason = next((self._refused[chunk.hash] for chunk in whole if chunk.hash in self._refused), None)
            if reason is None:
                staged.append((text.doc, text.rev, whole))
            else:
                self.failed[text.id] = reason
        vectors: dict[bytes, NDArray[np.float32]] = dict(done.vectors)
        began = time.monotonic()
        samples.fill(self.connection, self.new, self.live, staged, vectors)
        self.filling_seconds += time.monotonic() - began


def _with_pieces(chunks: Sequence[Chunk], pieces: Mapping[bytes, Sequence[Chunk]]) -> Sequence[Chunk]:
    """Replace the chunks that are too large by their pieces, which may be too large in turn."""
    whole: list[Chunk] = []
    for chunk in chunks:
        whole += _with_pieces(pieces[chunk.hash], pieces) if chunk.hash in pieces else [chunk]
    return whole
