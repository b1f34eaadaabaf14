"""A made collection for benchmarks of search: vectors in clusters, words by a power law, tenants, and exact results."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from pgvector import Vector
from psycopg.types.json import Jsonb

from worker.configuration import IndexSettings
from worker.recipes import Recipe
from worker.store import builds, connection
from worker.store.builds import Build

CHUNKS_PER_DOCUMENT, CLUSTERS, WORDS, WORDS_PER_CHUNK = 4, 300, 20_000, 100

# a power law draws the smallest numbers most often: w1 is in nearly every chunk
COMMON, RARE = (1, 12), (20, 5_000)


class Made:
    """A user's own backend class, whose vectors are there already."""

    model_id, tokenizer = "made", "words"
    token_limit = batch_token_limit = 10_000
    batch_size, chunk_tokens = 100, 240
    document_prefix = query_prefix = ""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.known: dict[str, NDArray[np.float32]] = {}

    def count_tokens(self, text: str) -> int:
        return len(text.split()) + 1

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self.known[text] for text in texts])


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What was loaded, a row for each chunk."""

    build: Build
    vectors: NDArray[np.float32]
    lengths: NDArray[np.float32]  # of the vectors
    tenants: NDArray[np.str_]
    numbers: NDArray[np.int64]  # of the document
    questions: Sequence[str]

    def nearest(
        self, vector: NDArray[np.float32], filter: dict[str, Any] | None, limit: int
    ) -> list[tuple[str, int]]:
        """The exact result: document and ordinal of the nearest chunks that pass the filter."""
        match filter:
            case {"tenant": tenant}:
                passing = self.tenants == tenant
            case {"number": {"$in": values}}:
                passing = np.isin(self.numbers, values)
            case {"number": {"$gte": low, "$lt": high}}:
                passing = (self.numbers >= low) & (self.numbers < high)
            case _:
                passing = np.full(len(self.numbers), True)
        similarities = np.where(passing, self.vectors @ vector / self.lengths, -np.inf)
        best = np.argpartition(-similarities, limit)[:limit]
        ranked = [at for at in best[np.argsort(-similarities[best])] if passing[at]]
        return [(str(at // CHUNKS_PER_DOCUMENT + 1), int(at % CHUNKS_PER_DOCUMENT)) for at in ranked]


def load(
    url: str, index: IndexSettings, backend: Made, *, documents: int, questions: int, analyze: bool = True
) -> Collection:
    """Fill the tables of a build, without a vector index; 16 tenants, of which t0 has 0.1% and t1 5%."""
    random = np.random.default_rng(8)
    centres = random.normal(size=(CLUSTERS, backend.dimensions))

    def near(cluster: NDArray[np.int64]) -> NDArray[np.float32]:
        return (centres[cluster] + random.normal(size=(len(cluster), backend.dimensions))).astype(np.float32)

    chunks = documents * CHUNKS_PER_DOCUMENT
    vectors = near(random.integers(CLUSTERS, size=chunks))
    tenants = ["t0" if n % 1000 == 0 else "t1" if n % 20 == 1 else f"t{2 + n % 14}" for n in range(documents)]
    with connection.checkout(url) as conn:
        [build] = builds.ensure(conn, index.name, lambda: Recipe.of(index, backend).as_json())
        _copy_documents(conn, tenants)
        _copy_chunks(conn, vectors, random)
        if analyze:
            conn.execute("VACUUM ANALYZE")
    # every question has common and rare words
    asked = [
        " ".join(f"w{n}" for n in [*random.integers(*COMMON, 3), *random.integers(*RARE, 4)])
        for _ in range(questions)
    ]
    near_questions = near(random.integers(CLUSTERS, size=questions))
    backend.known = dict(zip(asked, near_questions, strict=True))
    return Collection(
        build=build,
        vectors=vectors,
        lengths=np.linalg.norm(vectors, axis=1),
        tenants=np.repeat(tenants, CHUNKS_PER_DOCUMENT),
        numbers=np.repeat(np.arange(documents), CHUNKS_PER_DOCUMENT),
        questions=list(backend.known),
    )


def _copy_documents(conn: connection.Connection, tenants: Sequence[str]) -> None:
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(
            "INSERT INTO vector_index.documents (index_id, id) SELECT 1, n FROM generate_series(1, %s) n",
            [len(tenants)],
        )
        cursor.execute(
            "INSERT INTO vector_index.served_1 (doc, live_rev, state, since) "
            "SELECT doc, doc, 'live', now() FROM vector_index.documents"
        )
        with cursor.copy("COPY vector_index.revisions (rev, doc, title, metadata, text) FROM STDIN") as copy:
            for n, tenant in enumerate(tenants):
                copy.write_row((n + 1, n + 1, "", Jsonb({"tenant": tenant, "number": n}), ""))


def _copy_chunks(
    conn: connection.Connection, vectors: NDArray[np.float32], random: np.random.Generator
) -> None:
    """Write chunks and their vectors; the index of words is made afterwards, which is faster."""
    [(name, definition)] = conn.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'chunks_1' AND indexdef LIKE '%USING gin%'"
    )
    columns = 'rev, ordinal, hash, start, "end", tokens, heading, text, lexemes'
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(f"DROP INDEX vector_index.{name}")
        with cursor.copy(f"COPY vector_index.chunks_1 ({columns}) FROM STDIN".encode()) as copy:
            for at in range(len(vectors)):
                rev, ordinal = at // CHUNKS_PER_DOCUMENT + 1, at % CHUNKS_PER_DOCUMENT
                words = [f"w{n}" for n in np.minimum(random.zipf(1.3, WORDS_PER_CHUNK), WORDS)]
                lexemes = " ".join(f"{word}:{place}" for place, word in enumerate(words, start=1))
                text = f"{rev}-{ordinal} {' '.join(words)}"
                row = (rev, ordinal, _hash(at), 2 * ordinal, 2 * ordinal + 1, 100, "", text, lexemes)
                copy.write_row(row)
        with cursor.copy("COPY vector_index.embeddings_1 FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["bytea", "vector"])
            for at, vector in enumerate(vectors):
                copy.write_row((_hash(at), Vector(vector)))
        cursor.execute("SET LOCAL maintenance_work_mem = '256MB'")
        cursor.execute(definition.encode())


def _hash(at: int) -> bytes:
    return f"{at // CHUNKS_PER_DOCUMENT} {at % CHUNKS_PER_DOCUMENT}".encode()


def cpu_seconds() -> float:
    """Processor time of this process and of the servers that it started, with their children."""
    seconds = 0.0
    for process in [psutil.Process(os.getpid()), *psutil.Process(os.getpid()).children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system
    return seconds
