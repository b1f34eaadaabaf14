"""Search at size: recall, time and CPU by mode, filter and tenant, with and without a vector index.

    python -m benchmarks.search [CHUNKS [DIMENSIONS [QUESTIONS]]]

50,000 chunks of 256 dimensions and 60 questions, unless you say otherwise. See benchmarks/collection.py for the
collection. Questions are embedded beforehand; times are of `worker.search.retrieval` without that, over one warm round.
CPU is of this process and of Postgres. Exact results come from NumPy. Up to 100,000 chunks, the same rows are in a flat
table of pgvector, too.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from pgvector import Vector
from pgvector.psycopg import register_vector

from benchmarks.collection import CHUNKS_PER_DOCUMENT, Collection, Made, cpu_seconds, load
from worker import configuration, services
from worker.backends.budgets import Budget
from worker.configuration import HNSWSettings
from worker.index import Index
from worker.search.queries import MODES, SearchQuery
from worker.search.retrieval import retrieve
from worker.store import connection, hnsw, schema

LIMIT = 10
CANDIDATES = (200, 400, 1000)  # ef_search, beside the usual one
FLAT_CHUNKS = 100_000


def filters(documents: int) -> dict[str, dict[str, Any] | None]:
    tenth = documents // 10
    return {
        "no filter": None,
        "tenant of 0.1%": {"tenant": "t0"},
        "tenant of 5%": {"tenant": "t1"},
        "range, 10%": {"number": {"$gte": tenth, "$lt": 2 * tenth}},
        "range, 60%": {"number": {"$gte": tenth, "$lt": 7 * tenth}},
        "$in of 100 values": {"number": {"$in": list(range(0, 10_000, 100))}},
    }


def main(chunks: int = 50_000, dimensions: int = 256, questions: int = 60) -> None:
    index, backend = configuration.load({}).index("default"), Made(dimensions)
    documents = chunks // CHUNKS_PER_DOCUMENT
    with tempfile.TemporaryDirectory() as home, services.running(Path(home), durable=False) as own:
        url = own.addresses.database_url
        schema.install(url)
        made = load(url, index, backend, documents=documents, questions=questions)
        target = Index(url=url, settings=index, backend=backend, budget=Budget("", backend.model_id))
        print(f"search      {chunks:,} chunks, {dimensions} dimensions, {questions} questions, {LIMIT} rows")
        truth = {
            name: [made.nearest(backend.known[question], filter, LIMIT) for question in made.questions]
            for name, filter in filters(documents).items()
        }
        report("all compared", target, made, truth)
        began = time.perf_counter()
        with connection.connect(url) as conn:
            hnsw.create(conn, made.build, HNSWSettings(), vectors=len(made.vectors))
        print(f"  vector index made in {time.perf_counter() - began:.0f} s")
        report("vector index", target, made, truth)
        for candidates in CANDIDATES:
            report_candidates(candidates, target, made, truth)
        if chunks <= FLAT_CHUNKS:
            compare_with_flat_table(target, backend, made)
        connection.close_pools()


def ours(
    index: Index, mode: str, filter: dict[str, Any] | None, limit: int
) -> Callable[[str], list[tuple[str, int]]]:
    def ask(question: str) -> list[tuple[str, int]]:
        rows = retrieve(index, SearchQuery(text=question, filter=filter, limit=limit, mode=mode))
        return [(row.document_id, at) for row in rows for at in range(row.chunks[0], row.chunks[1] + 1)]

    return ask


def report(
    kind: str, index: Index, made: Collection, truth: Mapping[str, Sequence[Sequence[tuple[str, int]]]]
) -> None:
    """Print a line for each filter and mode; recall is of vector mode, against the exact results by filter."""
    for name, filter in filters(len(made.vectors) // CHUNKS_PER_DOCUMENT).items():
        for mode in MODES:
            found, times, cpu = timed(ours(index, mode, filter, LIMIT), made.questions)
            line = f"  {kind:12}  {name:18} {mode:6} {milliseconds(times)}, CPU {cpu * 1000:.1f} ms"
            if mode == "vector":
                line += f"; {recall(found, truth[name])}"
            print(line, flush=True)


def report_candidates(
    candidates: int, index: Index, made: Collection, truth: Mapping[str, Sequence[Sequence[tuple[str, int]]]]
) -> None:
    """Print a line for each filter with another `ef_search`, by vector."""
    settings = replace(index.settings, hnsw=HNSWSettings(ef_search=candidates))
    for name, filter in filters(len(made.vectors) // CHUNKS_PER_DOCUMENT).items():
        ask = ours(replace(index, settings=settings), "vector", filter, LIMIT)
        found, times, _ = timed(ask, made.questions)
        print(
            f"  ef_search {candidates:5}  {name:18} {milliseconds(times)}; {recall(found, truth[name])}",
            flush=True,
        )


def recall(found: Sequence[Sequence[tuple[str, int]]], truth: Sequence[Sequence[tuple[str, int]]]) -> str:
    recalls = [len(set(rows) & set(best)) / len(best) for rows, best in zip(found, truth, strict=True)]
    return f"recall@{LIMIT} {statistics.mean(recalls):.3f}, minimum {min(recalls):.1f}"


def compare_with_flat_table(index: Index, backend: Made, made: Collection) -> None:
    """Print what five rows cost, by vector and hybrid, against one table with the vectors and nothing else."""
    questions = made.questions
    with psycopg.connect(index.url, autocommit=True) as flat:
        flat.execute(connection.SESSION)
        register_vector(flat)
        flat.execute(
            f"CREATE TABLE flat (document text, ordinal int, embedding vector({backend.dimensions}))".encode()
        )
        with flat.cursor() as cursor, cursor.copy("COPY flat FROM STDIN") as copy:
            for at, vector in enumerate(made.vectors):
                copy.write_row((str(at // CHUNKS_PER_DOCUMENT), at % CHUNKS_PER_DOCUMENT, Vector(vector)))
        flat.execute("SET maintenance_work_mem = '256MB'")
        flat.execute("CREATE INDEX ON flat USING hnsw (embedding vector_cosine_ops)")
        flat.execute("VACUUM ANALYZE flat")
        statement = "SELECT document, ordinal FROM flat ORDER BY embedding <=> %s LIMIT 5"
        vectors = {question: Vector(backend.known[question]) for question in questions}

        def bare(question: str) -> list[Any]:
            return flat.execute(statement, [vectors[question]], prepare=True).fetchall()

        asked = {"a flat table": bare} | {mode: ours(index, mode, None, 5) for mode in ("vector", "hybrid")}
        times: dict[str, list[float]] = {name: [] for name in asked}
        for _ in range(5):
            for name, ask in asked.items():
                times[name] += timed(ask, questions)[1]
    flat_median = statistics.median(times["a flat table"])
    for name, found in times.items():
        ratio = statistics.median(found) / flat_median
        print(f"  5 rows, {name}: {milliseconds(found)}, {ratio:.1f} times as long")


def timed(
    ask: Callable[[str], list[Any]], questions: Sequence[str]
) -> tuple[list[list[Any]], list[float], float]:
    """Ask each question; the answers, the seconds of each, and the mean CPU seconds."""
    ask(questions[0])  # what is made once
    found, times, cpu = [], [], cpu_seconds()
    for question in questions:
        started = time.perf_counter()
        found.append(ask(question))
        times.append(time.perf_counter() - started)
    return found, times, (cpu_seconds() - cpu) / len(questions)


def milliseconds(times: Sequence[float]) -> str:
    ordered = sorted(times)
    return (
        f"p50 {1000 * statistics.median(times):.1f} ms, p95 {1000 * ordered[int(0.95 * len(ordered))]:.1f} ms"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
