"""Search over 50,000 chunks: recall and time under filters, and the price of the house against a flat table.

    python -m benchmarks.search

Made vectors of 256 dimensions in clusters, words by a power law, four chunks a document, 16 tenants: one has 0.1% of
the documents and one 5%. Questions are embedded beforehand; times are of `worker.search.retrieval` without that.
Exact results come from NumPy.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb

from worker import configuration, services
from worker.backends.budgets import Budget
from worker.configuration import HNSWSettings, IndexSettings
from worker.index import Index
from worker.recipes import Recipe
from worker.search.queries import SearchQuery
from worker.search.retrieval import retrieve
from worker.store import builds, connection, hnsw, schema
from worker.words import index_words

DOCUMENTS, CHUNKS, DIMENSIONS, CLUSTERS, WORDS = 12_500, 4, 256, 300, 20_000
QUESTIONS = 60
LIMIT = 10

FILTERS: dict[str, dict[str, Any] | None] = {
    "no filter": None,
    "tenant of 0.1%": {"tenant": "t0"},
    "tenant of 5%": {"tenant": "t1"},
    "range, 10%": {"number": {"$gte": 1_000, "$lt": 2_250}},
    "range, 60%": {"number": {"$gte": 1_000, "$lt": 8_500}},
    "$in of 100 values": {"number": {"$in": list(range(0, 10_000, 100))}},
}


class Made:
    """A user's own backend class, whose vectors are there already."""

    model_id, tokenizer = "made", "words"
    token_limit = batch_token_limit = 10_000
    batch_size, chunk_tokens, dimensions = 100, 240, DIMENSIONS
    document_prefix = query_prefix = ""

    def __init__(self) -> None:
        self.known: dict[str, NDArray[np.float32]] = {}

    def count_tokens(self, text: str) -> int:
        return len(text.split()) + 1

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self.known[text] for text in texts])


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What was loaded, a row for each chunk."""

    vectors: NDArray[np.float32]
    tenants: NDArray[np.str_]
    numbers: NDArray[np.int64]  # of the document
    questions: Sequence[str]


def main() -> None:
    index, backend = configuration.load({}).index("default"), Made()
    with tempfile.TemporaryDirectory() as home, services.running(Path(home), durable=False) as own:
        url = own.addresses.database_url
        schema.install(url)
        made = load(url, index, backend)
        with psycopg.connect(url, autocommit=True) as flat:
            flat.execute(connection.SESSION)
            register_vector(flat)
            budget = Budget("", backend.model_id)
            report(Index(url=url, settings=index, backend=backend, budget=budget), backend, flat, made)
        connection.close_pools()


def report(index: Index, backend: Made, flat: psycopg.Connection, made: Collection) -> None:
    questions = made.questions

    def ours(mode: str, filter: dict[str, Any] | None, limit: int) -> Callable[[str], list[tuple[str, int]]]:
        def ask(question: str) -> list[tuple[str, int]]:
            wanted = SearchQuery(text=question, filter=filter, limit=limit, mode=mode)
            return [
                (row.document_id, at)
                for row in retrieve(index, wanted)
                for at in range(row.chunks[0], row.chunks[1] + 1)
            ]

        return ask

    print(
        f"search      {DOCUMENTS * CHUNKS:,} chunks, {DIMENSIONS} dimensions, {QUESTIONS} questions, {LIMIT} rows"
    )
    for name, filter in FILTERS.items():
        truth = [exact(made, backend.known[question], filter) for question in questions]
        found, times = timed(ours("vector", filter, LIMIT), questions)
        recalls = [len(set(rows) & set(best)) / len(best) for rows, best in zip(found, truth, strict=True)]
        least = min(min(len(rows), LIMIT) for rows in found)
        _, both = timed(ours("hybrid", filter, LIMIT), questions)
        print(
            f"  {name:18} recall@{LIMIT} {statistics.mean(recalls):.3f}, minimum {min(recalls):.1f}; "
            f"at least {least} rows; "
            f"vector {milliseconds(times)}; hybrid {milliseconds(both)}"
        )
    statement = "SELECT document, ordinal FROM flat ORDER BY embedding <=> %s LIMIT 5"
    vectors = {question: Vector(backend.known[question]) for question in questions}

    def bare(question: str) -> list[Any]:
        return flat.execute(statement, [vectors[question]], prepare=True).fetchall()

    rounds = [(timed(bare, questions)[1], timed(ours("vector", None, 5), questions)[1]) for _ in range(5)]
    theirs, mine = ([time for round in rounds for time in round[side]] for side in (0, 1))
    _, both = timed(ours("hybrid", None, 5), questions)
    ratio = statistics.median(mine) / statistics.median(theirs)
    print(
        f"  5 rows: a flat table {milliseconds(theirs)}; vector {milliseconds(mine)}, {ratio:.1f} times; "
        f"hybrid {milliseconds(both)}"
    )


def load(url: str, index: IndexSettings, backend: Made) -> Collection:
    """Fill the tables of a build and a flat one with the same rows, and index both."""
    random = np.random.default_rng(8)
    centres = random.normal(size=(CLUSTERS, DIMENSIONS))

    def near(cluster: NDArray[np.int64]) -> NDArray[np.float32]:
        return (centres[cluster] + random.normal(size=(len(cluster), DIMENSIONS))).astype(np.float32)

    def words(count: int) -> str:
        return " ".join(f"w{n}" for n in np.minimum(random.zipf(1.3, count), WORDS))

    vectors = near(random.integers(CLUSTERS, size=DOCUMENTS * CHUNKS))
    tenants = ["t0" if n % 1000 == 0 else "t1" if n % 20 == 1 else f"t{2 + n % 14}" for n in range(DOCUMENTS)]
    with connection.checkout(url) as conn:
        [build] = builds.ensure(conn, index.name, lambda: Recipe.of(index, backend).as_json())
        conn.execute(
            "CREATE TABLE flat (document text, ordinal int, embedding vector(256), number int, tenant text)"
        )
        with conn.transaction(), conn.cursor() as cursor:
            cursor.execute(
                "INSERT INTO vector_index.documents (index_id, id) SELECT 1, n FROM generate_series(1, %s) n",
                [DOCUMENTS],
            )
            cursor.execute(
                "INSERT INTO vector_index.served_1 (doc, live_rev, state, since) "
                "SELECT doc, doc, 'live', now() FROM vector_index.documents"
            )
            with cursor.copy(
                "COPY vector_index.revisions (rev, doc, title, metadata, text) FROM STDIN"
            ) as copy:
                for n, tenant in enumerate(tenants):
                    copy.write_row((n + 1, n + 1, "", Jsonb({"tenant": tenant, "number": n}), ""))
            rows = [(n + 1, at, f"{n} {at}".encode()) for n in range(DOCUMENTS) for at in range(CHUNKS)]
            columns = 'rev, ordinal, hash, start, "end", tokens, heading, text, lexemes'
            with cursor.copy(f"COPY vector_index.chunks_1 ({columns}) FROM STDIN".encode()) as copy:
                for rev, at, hash in rows:
                    text = f"{rev}-{at} {words(100)}"
                    copy.write_row((rev, at, hash, 2 * at, 2 * at + 1, 100, "", text, index_words(text)))
            with cursor.copy("COPY vector_index.embeddings_1 FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["bytea", "vector"])
                for (_, _, hash), vector in zip(rows, vectors, strict=True):
                    copy.write_row((hash, Vector(vector)))
            with cursor.copy("COPY flat FROM STDIN") as copy:
                for (rev, at, _), vector in zip(rows, vectors, strict=True):
                    copy.write_row((str(rev), at, Vector(vector), rev - 1, tenants[rev - 1]))
        conn.execute("SET maintenance_work_mem = '256MB'")
        conn.execute("CREATE INDEX ON flat USING hnsw (embedding vector_cosine_ops)")
        conn.execute("VACUUM ANALYZE")
    with connection.connect(url) as conn:
        hnsw.create(conn, build, HNSWSettings(), vectors=len(vectors))
    # no question is of the most common words alone
    questions = [" ".join(f"w{n}" for n in random.integers(20, 5_000, 5)) for _ in range(QUESTIONS)]
    backend.known = dict(zip(questions, near(random.integers(CLUSTERS, size=QUESTIONS)), strict=True))
    return Collection(
        vectors=vectors,
        tenants=np.repeat(tenants, CHUNKS),
        numbers=np.repeat(np.arange(DOCUMENTS), CHUNKS),
        questions=questions,
    )


def exact(
    made: Collection, vector: NDArray[np.float32], filter: dict[str, Any] | None
) -> list[tuple[str, int]]:
    match filter:
        case {"tenant": tenant}:
            passing = made.tenants == tenant
        case {"number": {"$in": values}}:
            passing = np.isin(made.numbers, values)
        case {"number": {"$gte": low, "$lt": high}}:
            passing = (made.numbers >= low) & (made.numbers < high)
        case _:
            passing = np.full(len(made.numbers), True)
    similarities = np.where(passing, made.vectors @ vector / np.linalg.norm(made.vectors, axis=1), -np.inf)
    return [(str(at // CHUNKS + 1), int(at % CHUNKS)) for at in np.argsort(-similarities)[:LIMIT]]


def timed(ask: Callable[[str], list[Any]], questions: Sequence[str]) -> tuple[list[list[Any]], list[float]]:
    ask(questions[0])  # what is made once
    found, times = [], []
    for question in questions:
        started = time.perf_counter()
        found.append(ask(question))
        times.append(time.perf_counter() - started)
    return found, times


def milliseconds(times: Sequence[float]) -> str:
    ordered = sorted(times)
    return (
        f"p50 {1000 * statistics.median(times):.1f} ms, p95 {1000 * ordered[int(0.95 * len(ordered))]:.1f} ms"
    )


if __name__ == "__main__":
    main()
