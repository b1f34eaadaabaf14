"""Searches that skip much: 10 to 100,000 chunks that compete for few places of a page.

    python -m benchmarks.skipping

An index of 40 documents of 25 chunks, and beside it, nearest to the question: chunks of 4 documents, with
`per_document=1`; and one text under many titles. `ratio` is the time with 100,000 of them by the time with 10.
The buffers are pages of 8 kB that all statements of a search read. Vectors have 64 dimensions, with a vector index.
"""

import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from worker import configuration, services
from worker.backends.budgets import Budget
from worker.configuration import HNSWSettings
from worker.index import Index
from worker.recipes import Recipe
from worker.search.queries import SearchQuery, SimilarQuery
from worker.search.retrieval import retrieve
from worker.search.similar import find_similar
from worker.store import builds, connection, hnsw, schema

SIZES = (10, 1_000, 100_000)
DIMENSIONS, OTHERS, FIRST_OTHER = 64, 40, 1_000_000
QUESTION = "apples and pears in the garden"
ROUNDS = 7

# {crowd} has the columns n, doc, ordinal, title and text of each chunk that is near the question
LOAD = """
CREATE TEMPORARY TABLE loaded AS
    SELECT n, doc, ordinal, title, text, true AS near FROM ({crowd}) AS crowd
    UNION ALL SELECT {first} + n, {first} + n / 25, n % 25, 'other', 'Other words, number ' || n, false
        FROM generate_series(0, {others} * 25 - 1) n;
INSERT INTO vector_index.documents (doc, index_id, id) OVERRIDING SYSTEM VALUE
    SELECT DISTINCT doc, 1, doc::text FROM loaded;
INSERT INTO vector_index.revisions (rev, doc, title, metadata, text)
    SELECT doc, doc, min(title), '{{}}', '' FROM loaded GROUP BY doc;
INSERT INTO vector_index.served_1 (doc, live_rev, state, since)
    SELECT DISTINCT doc, doc, 'live', now() FROM loaded;
INSERT INTO vector_index.chunks_1 (rev, ordinal, hash, start, "end", tokens, heading, text, lexemes)
    SELECT doc, ordinal, sha256(n::text::bytea), 0, 1, 9, title, text, to_tsvector('english', title || ' ' || text)
    FROM loaded;
INSERT INTO vector_index.embeddings_1 (hash, embedding)
    SELECT sha256(n::text::bytea), (SELECT array_agg(
        CASE WHEN near THEN 1.0 ELSE 0.0 END + 0.3 * sin(n * 0.7 + i * (1 + n % 97)))
        FROM generate_series(1, {dimensions}) i)::vector FROM loaded;
DROP TABLE loaded
"""

CROWDS = {
    "chunks of 4 documents": """
        SELECT n, 1 + n % 4 AS doc, n / 4 AS ordinal, 'garden' AS title,
            'Apples and pears in the garden, number ' || n AS text FROM generate_series(0, {size} - 1) n""",
    "one text, many titles": """
        SELECT n, 1 + n AS doc, 0 AS ordinal, 'garden ' || n AS title,
            'Apples and pears in the garden' AS text FROM generate_series(0, {size} - 1) n""",
}

SEARCHES: dict[str, Callable[[Index], Any]] = {
    **{
        mode: lambda index, mode=mode: retrieve(
            index, SearchQuery(text=QUESTION, limit=10, per_document=1, mode=mode)
        )
        for mode in ("vector", "text", "hybrid")
    },
    "similar": lambda index: find_similar(index, SimilarQuery(id=str(FIRST_OTHER), limit=OTHERS + 5)),
}


class Near:
    """A backend whose every vector is that of the crowd."""

    model_id, tokenizer = "near", "words"
    token_limit = batch_token_limit = 10_000
    batch_size, chunk_tokens, dimensions = 100, 240, DIMENSIONS
    document_prefix = query_prefix = ""

    def count_tokens(self, text: str) -> int:
        return len(text.split()) + 1

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), DIMENSIONS), dtype=np.float32)


@contextmanager
def loaded(url: str, crowd: str, size: int) -> Iterator[Index]:
    """Yield an index with a crowd, in a database with the schema and nothing else."""
    settings, backend = configuration.load({}).index("default"), Near()
    with connection.checkout(url) as conn:
        builds.ensure(conn, "default", lambda: Recipe.of(settings, backend).as_json())
        text = LOAD.format(
            crowd=CROWDS[crowd].format(size=size), others=OTHERS, first=FIRST_OTHER, dimensions=DIMENSIONS
        )
        conn.execute(text.encode())
        conn.execute("VACUUM ANALYZE")
        build = builds.live(conn, "default")
    assert build is not None
    with connection.connect(url) as conn:
        hnsw.create(conn, build, HNSWSettings(), vectors=size + OTHERS)
    try:
        yield Index(url=url, settings=settings, backend=backend, budget=Budget("", backend.model_id))
    finally:
        connection.close_pools()


def buffers(ask: Callable[[Index], object], index: Index) -> int:
    """Return how many buffers the statements of a search read."""
    counted = 0
    execute = psycopg.Connection.execute

    def explaining(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        nonlocal counted
        if isinstance(query, sql.Composed):
            explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}").format(query)
            [plan] = execute(self, explain, params).fetchone()
            counted += plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]
        return execute(self, query, params, **options)

    with patch.object(psycopg.Connection, "execute", explaining):
        ask(index)
    return counted


def main() -> None:
    print(f"skipping    {', '.join(f'{size:,}' for size in SIZES)} chunks that compete for few places")
    with tempfile.TemporaryDirectory() as home, services.running(Path(home), durable=False) as own:
        address = own.addresses.database_url
        for crowd in CROWDS:
            measured = [measure(address, crowd, size) for size in SIZES]
            for name in SEARCHES:
                each = [row[name] for row in measured]
                times = ", ".join(f"{median:.1f} ms" for median, _ in each)
                pages = ", ".join(f"{count:,}" for _, count in each)
                print(f"  {crowd}, {name:8} {times}; ratio {each[-1][0] / each[0][0]:.1f}; buffers {pages}")


def measure(address: str, crowd: str, size: int) -> dict[str, tuple[float, int]]:
    """Return the median time in ms and the buffers of each search."""
    database = re.sub(r"\W", "_", f"{crowd}_{size}")
    with psycopg.connect(address, autocommit=True) as maintenance:
        maintenance.execute(f'CREATE DATABASE "{database}"'.encode())
    url = f"{address.rpartition('/')[0]}/{database}"
    schema.install(url)
    with loaded(url, crowd, size) as index:
        return {name: (milliseconds(ask, index), buffers(ask, index)) for name, ask in SEARCHES.items()}


def milliseconds(ask: Callable[[Index], object], index: Index) -> float:
    """Return the median time of a search."""
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        ask(index)
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


if __name__ == "__main__":
    main()
