"""The vector index: when to create it in a bulk load, and what each kind of it finds.

    python -m benchmarks.hnsw [chunks] [dimensions] [vectors]

Loads so many chunks (20,000 of 1,536 dimensions) three times: into a table with an index from the start, as the workers
do it, and into a bare table that gets an index in one process at the end. Vectors are made, near a plane of 64
dimensions, and saved by `worker.store.queue.save`, 100 at a time, as an embed worker saves them; their documents are
written to the tables directly. Searches are `worker.store.search.nearest`.

Then it compares the kinds of index on so many real texts (50,000), pieces of 400 characters of Python's standard
library: `wordllama` embeds them in 256 dimensions, and sums of random vectors of their words, by rarity, in 1,024.
"""

import random
import re
import statistics
import sys
import sysconfig
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import llm
import numpy as np
from numpy.typing import NDArray

from worker import configuration, services
from worker.configuration import HNSWSettings, IndexSettings
from worker.recipes import Recipe
from worker.store import builds, connection, hnsw, queue, schema, search
from worker.store import statistics as tables
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import compile_filter

from .collection import Made
from .search import milliseconds

BATCH = 100
QUESTIONS = 100
LIMIT = 10
ALL = compile_filter(None)

# one chunk a document
DOCUMENTS = """
INSERT INTO vector_index.documents (index_id, id) SELECT 1, n FROM generate_series(1, {rows}) n;
INSERT INTO vector_index.revisions (rev, doc, title, metadata, text) SELECT doc, doc, '', '{{}}', ''
FROM vector_index.documents;
INSERT INTO vector_index.served_1 (doc, live_rev, state, since) SELECT doc, doc, 'live', now()
FROM vector_index.documents;
INSERT INTO vector_index.chunks_1 (rev, ordinal, hash, start, "end", tokens, heading, text, lexemes)
SELECT doc, 0, int8send(doc), 0, 1, 9, '', 'n' || doc, to_tsvector('simple', 'n' || doc)
FROM vector_index.documents;
INSERT INTO vector_index.pending_1 (hash, tokens, visible_at) SELECT hash, 9, now() FROM vector_index.chunks_1
"""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An index with documents whose contents are queued."""

    url: str
    conn: Connection
    build: Build

    def save(self, vectors: NDArray[np.float32], *, first: int = 0) -> float:
        """Save the vectors of contents from a number on, as an embed worker does; the seconds it took."""
        began = time.perf_counter()
        for at in range(0, len(vectors), BATCH):
            some = vectors[at : at + BATCH]
            hashes = [(first + at + n + 1).to_bytes(8, "big") for n in range(len(some))]
            queue.save(self.conn, self.build, hashes, some)
        return time.perf_counter() - began

    def create(self, design: HNSWSettings, *, vectors: int) -> float:
        """Create the vector index as the task does; the seconds it took."""
        began = time.perf_counter()
        with connection.connect(self.url) as own:
            hnsw.create(own, self.build, design, vectors=vectors)
        return time.perf_counter() - began

    def ask(
        self, questions: NDArray[np.float32], *, ef_search: int = search.EF_SEARCH
    ) -> tuple[list[set[int]], list[float]]:
        """The numbers of the contents found for each question, and the seconds each took."""
        build = builds.live(self.conn, "default")
        assert build is not None
        found, times = [], []
        for question in questions:
            began = time.perf_counter()
            with search.snapshot(self.conn, ef_search=ef_search):
                hits = search.nearest(self.conn, build, question, candidates=LIMIT, where=ALL).hits
            times.append(time.perf_counter() - began)
            found.append({int.from_bytes(hit.hash, "big") - 1 for hit in hits})
        return found, times

    def megabytes(self) -> tuple[float, float]:
        """Size of the table of vectors without its vector index, and of that index."""
        sizes = """
            SELECT pg_table_size('vector_index.embeddings_1') / 1e6, coalesce((
                SELECT sum(pg_relation_size(indexrelid)) FROM pg_index JOIN pg_class ON oid = indexrelid
                WHERE indrelid = 'vector_index.embeddings_1'::regclass AND relname LIKE '%hnsw%'), 0) / 1e6"""
        row = self.conn.execute(sizes).fetchone()
        assert row is not None
        return float(row[0]), float(row[1])


def main(*, chunks: int = 20_000, dimensions: int = 1_536, vectors: int = 50_000) -> None:
    loads(chunks, dimensions)
    texts = pieces(vectors + QUESTIONS)
    for name, embedded in (("wordllama", wordllama(texts)), ("words", words(texts, 1_024))):
        kinds(name, embedded[QUESTIONS:], embedded[:QUESTIONS])


@contextmanager
def index(rows: int, dimensions: int, settings: IndexSettings) -> Iterator[Loaded]:
    """Start a server with an index of so many documents, all of them pending."""
    with tempfile.TemporaryDirectory() as home, services.running(Path(home), durable=False) as own:
        url = own.addresses.database_url
        schema.install(url)
        try:
            with connection.checkout(url) as conn:
                [build] = builds.ensure(conn, "default", Recipe.of(settings, Made(dimensions)).as_json)
                conn.execute(DOCUMENTS.format(rows=rows).encode())
                yield Loaded(url=url, conn=conn, build=build)
        finally:
            connection.close_pools()


def loads(chunks: int, dimensions: int) -> None:
    """Load the same vectors in three ways, and search after each."""
    print(f"bulk load   {chunks:,} chunks of {dimensions:,} dimensions, {QUESTIONS} questions, {LIMIT} rows")
    vectors, questions = planar(chunks + QUESTIONS, dimensions)
    settings, design = configuration.load({}).index("default"), HNSWSettings()
    with index(chunks, dimensions, settings) as ours:
        seconds = ours.save(vectors)
        _, before = ours.ask(questions[:20])
        tables.analyze_if_stale(ours.conn, ours.build)
        _, analyzed = ours.ask(questions[:20])
        built = ours.create(design, vectors=chunks)
        _, after = ours.ask(questions)
        print(f"  ours: load {seconds:.0f} s, index {built:.0f} s, together {seconds + built:.0f} s")
        print(f"    searches right after the load {milliseconds(before)}; analyzed {milliseconds(analyzed)}")
        print(f"    with the index {milliseconds(after)}")
        _more(ours, vectors)
    with index(chunks, dimensions, settings) as bare:
        seconds = bare.save(vectors)
        bare.conn.execute("SET max_parallel_maintenance_workers = 0")
        began = time.perf_counter()
        bare.conn.execute(
            f"CREATE INDEX own_hnsw ON vector_index.embeddings_1 USING hnsw (embedding {bare.build.vector}_cosine_ops)"
        )
        built = time.perf_counter() - began
        _, after = bare.ask(questions)
        print(
            f"  a bare index at the end: load {seconds:.0f} s, index {built:.0f} s, together {seconds + built:.0f} s"
        )
        print(f"    with the index {milliseconds(after)}")
    with index(chunks, dimensions, settings) as live:
        live.create(design, vectors=0)
        seconds = live.save(vectors)
        _, after = live.ask(questions)
        print(f"  an index from the start: load {seconds:.0f} s; then {milliseconds(after)}")


def _more(loaded: Loaded, vectors: NDArray[np.float32]) -> None:
    """What a thousand further vectors cost in a live index of this size."""
    some = 1_000
    loaded.conn.execute("DELETE FROM vector_index.embeddings_1 WHERE hash <= int8send(%s)", [some])
    loaded.conn.execute(
        "INSERT INTO vector_index.pending_1 (hash, tokens, visible_at) "
        "SELECT hash, 9, now() FROM vector_index.chunks_1 WHERE rev <= %s",
        [some],
    )
    seconds = loaded.save(vectors[:some])
    print(f"    {some:,} vectors into the live index: {1000 * seconds / some:.1f} ms each")


def kinds(name: str, vectors: NDArray[np.float32], questions: NDArray[np.float32]) -> None:
    """Recall, size and latency of each kind of index."""
    rows, dimensions = vectors.shape
    print(f"kinds       {name}: {rows:,} vectors of {dimensions:,} dimensions, {len(questions)} questions")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = [set(np.argsort(-(unit @ question))[:LIMIT].tolist()) for question in questions]
    settings = configuration.load({}).index("default")
    designs: list[tuple[str, Literal["vector", "halfvec"], HNSWSettings]] = [
        ("vector", "vector", HNSWSettings()),
        ("halfvec", "halfvec", HNSWSettings()),
        ("binary", "halfvec", HNSWSettings(quantisation="binary")),
    ]
    for kind, vector_type, design in designs:
        with index(rows, dimensions, replace(settings, vector_type=vector_type)) as loaded:
            loaded.save(vectors)
            built = loaded.create(design, vectors=rows)
            table, of_index = loaded.megabytes()
            print(f"  {kind:8} index {of_index:.0f} MB in {built:.0f} s, vectors {table:.0f} MB")
            for ef_search in (40, 100, 200):
                found, times = loaded.ask(questions, ef_search=ef_search)
                recalls = [len(some & best) / LIMIT for some, best in zip(found, truth, strict=True)]
                print(
                    f"    ef_search {ef_search:3}: recall@{LIMIT} {statistics.mean(recalls):.3f}, minimum "
                    f"{min(recalls):.1f}; {milliseconds(times)}"
                )


def planar(count: int, dimensions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors near a plane of 64 dimensions, as those of texts are near one of few; and questions."""
    generator = np.random.default_rng(1)
    basis = generator.normal(size=(64, dimensions)).astype(np.float32)
    found = generator.normal(size=(count, 64)).astype(np.float32) @ basis
    found += 1.5 * generator.standard_normal(size=found.shape, dtype=np.float32)
    return found[QUESTIONS:], found[:QUESTIONS]


def pieces(count: int) -> list[str]:
    """Different pieces of the modules of Python's standard library, in an order of their own."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(file for file in library.rglob("*.py") if "site-packages" not in file.parts)
    found: dict[str, None] = {}
    for file in files:
        text = file.read_text(encoding="utf-8", errors="ignore")
        found |= dict.fromkeys(text[at : at + 400] for at in range(0, len(text) - 300, 400))
    texts = list(found)
    random.Random(1).shuffle(texts)
    return texts[:count]


def wordllama(texts: Sequence[str]) -> NDArray[np.float32]:
    model: Any = llm.get_embedding_model("wordllama")
    return np.array(list(model.embed_multi(texts)), dtype=np.float32)


def words(texts: Sequence[str], dimensions: int) -> NDArray[np.float32]:
    """The sum of a random vector for each word, by its rarity."""
    split = [re.findall(r"[a-z]{2,}", text.lower()) for text in texts]
    frequency = Counter(word for each in split for word in set(each))
    known = {
        word: np.random.default_rng(zlib.crc32(word.encode())).normal(size=dimensions).astype(np.float32)
        * np.float32(np.log(len(texts) / frequency[word]) + 0.01)
        for word in frequency
    }
    found = np.array([sum((known[word] for word in each), np.full(dimensions, 1e-3)) for each in split])
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    given = dict(zip(("chunks", "dimensions", "vectors"), map(int, sys.argv[1:]), strict=False))
    main(**given)
