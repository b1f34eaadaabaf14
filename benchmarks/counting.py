"""How rare words are: the time of counting, and whether estimates change a ranking by words.

    python -m benchmarks.counting [CHUNKS ...]

5,000, 50,000 and 200,000 chunks, unless you say otherwise. Each question has three words of the commonest twelve, and
four rare ones. `share` is the time of counting by the time of a search by words. Then the first ten chunks by exact
counts are compared with those of a fresh index without any statistics, and after an ANALYZE: how many are the same, and
how often the first one is.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from benchmarks.collection import CHUNKS_PER_DOCUMENT, Collection, Made, load
from benchmarks.search import LIMIT, ours, timed
from worker import configuration, services
from worker.backends.budgets import Budget
from worker.index import Index
from worker.store import connection, rarity, schema
from worker.store.rarity import read_words

QUESTIONS = 60
ALL = 2**40


def main(sizes: Sequence[int]) -> None:
    for chunks in sizes:
        with tempfile.TemporaryDirectory() as home, services.running(Path(home), durable=False) as own:
            measure(own.addresses.database_url, chunks)
            connection.close_pools()


def measure(url: str, chunks: int) -> None:
    index, backend = configuration.load({}).index("default"), Made(8)
    schema.install(url)
    documents = chunks // CHUNKS_PER_DOCUMENT
    made = load(url, index, backend, documents=documents, questions=QUESTIONS, analyze=False)
    target = Index(url=url, settings=index, backend=backend, budget=Budget("", backend.model_id))
    with connection.connect(url) as conn:
        conn.execute("ALTER TABLE vector_index.chunks_1 SET (autovacuum_enabled = false)")
    fresh = found(target, made)
    with connection.connect(url) as conn:
        conn.execute("ANALYZE vector_index.chunks_1, vector_index.served_1, vector_index.embeddings_1")
    analyzed = found(target, made)
    with patch.object(rarity, "EXACTLY_COUNTED", ALL):
        exact = found(target, made)
    ask = ours(target, "text", None, LIMIT)
    _, whole, cpu = timed(ask, made.questions)
    counting = [seconds(target, made, question) for question in made.questions]
    share = statistics.median(counting) / statistics.median(whole)
    print(
        f"counting    {chunks:,} chunks: search by words p50 {1000 * statistics.median(whole):.1f} ms, CPU "
        f"{1000 * cpu:.1f} ms; counting p50 {1000 * statistics.median(counting):.1f} ms, share {share:.2f}"
    )
    for name, rows in (("fresh", fresh), ("analyzed", analyzed)):
        same = [len(set(one) & set(other)) / len(other) for one, other in zip(rows, exact, strict=True)]
        first = [one[0] == other[0] for one, other in zip(rows, exact, strict=True)]
        print(
            f"  {name:9} the same as by exact counts: {statistics.mean(same):.3f} of the first ten, "
            f"{statistics.mean(first):.3f} of the first one"
        )


def found(index: Index, made: Collection) -> list[list[tuple[str, int]]]:
    return timed(ours(index, "text", None, LIMIT), made.questions)[0]


def seconds(index: Index, made: Collection, question: str) -> float:
    with connection.checkout(index.url) as conn:
        began = time.perf_counter()
        read_words(conn, made.build, question)
        return time.perf_counter() - began


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [5_000, 50_000, 200_000])
