"""A large table as a source: rows a second, memory and requests of a first run, an unchanged one, and one with news.

    python -m benchmarks.reindexing 1000000

Reindexing runs in a process of its own, whose memory is told; draining, which embeds into 8 dimensions without a
provider, in this one. Both share the machine with Postgres.
"""

import re
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import numpy as np
import psycopg
from numpy.typing import NDArray

from worker import configuration, services
from worker.backends.budgets import Budget
from worker.configuration import IndexSettings, SourceSettings
from worker.index import Index
from worker.indexing import reindexing
from worker.indexing.draining.drainer import Drainer
from worker.indexing.jobs import job_result
from worker.results import Reindexed
from worker.sources.sql import SQLSource
from worker.store import connection, schema
from worker.store.reindexing import ReindexRequest

ROWS = 20_000
QUERY = "SELECT id, body AS text, title, jsonb_build_object('shelf', id % 100) AS metadata FROM page"


class EightNumbers:
    """Vectors out of a digest: as much as a provider, and as little as can be."""

    model_id = tokenizer = "digest"
    token_limit, batch_token_limit, batch_size = 500, 1_000_000, 1_000
    chunk_tokens, dimensions = 200, 8
    document_prefix = query_prefix = ""
    requests = inputs = 0

    def count_tokens(self, text: str) -> int:
        return text.count(" ") + text.count("\n") + 1

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.requests, self.inputs = self.requests + 1, self.inputs + len(texts)
        digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts)
        return np.frombuffer(digests, dtype=np.uint8).reshape(len(texts), 8).astype(np.float32) + 1


def main(rows: int = ROWS) -> None:
    with tempfile.TemporaryDirectory() as home, services.running(Path(home)) as own:
        url = own.addresses.database_url
        schema.install(url)
        with psycopg.connect(url, autocommit=True) as shop:
            shop.execute("CREATE TABLE page (id bigint PRIMARY KEY, title text, body text)")
            shop.execute(
                "INSERT INTO page SELECT n, 'Page ' || n, 'The page of number ' || n || ' says ' || md5(n::text) "
                "FROM generate_series(1, %s) AS n",
                [rows],
            )
            shop.execute("ANALYZE page")
            backend = EightNumbers()
            drainer = Drainer(url, index().embedding_backend, backend)
            drainer.start()
            print(f"reindexing  a table of {rows:,} rows", flush=True)
            first = measured("first", url, backend)
            unchanged = measured("unchanged", url, backend)
            shop.execute("UPDATE page SET body = body || ' and more' WHERE id % 100 = 0")
            shop.execute("DELETE FROM page WHERE id % 100 = 1")
            news = measured("1% new, 1% gone", url, backend)
            print(
                f"  CPU of reading and staging, of that of the first run: {unchanged / first:.2f} unchanged, "
                f"{news / first:.2f} with 1% new and 1% gone"
            )
        drainer.stop(5)
        connection.close_pools()


def measured(name: str, url: str, backend: EightNumbers) -> float:
    """A run in a process of its own, until all is searchable; the seconds of CPU that it took there."""
    requests, inputs, started = backend.requests, backend.inputs, time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        read = pool.submit(run, url, name).result()
    while (result := _result(url, name)) is None:
        time.sleep(0.1)
    seconds = time.perf_counter() - started
    documents = result["indexed"] + result["unchanged"]
    reading = f"{documents / read['seconds']:,.0f} rows/s read and staged, {read['cpu_seconds']:.0f} s of CPU"
    memory = f"{read['before_mb']:.0f} MB at its start, {read['peak_mb']:.0f} MB at the peak"
    print(f"  {name:<17}{reading}; {documents / seconds:,.0f}/s until searchable; {memory}")
    counts = ", ".join(f"{result[key]:,} {key}" for key in ("indexed", "unchanged", "deleted"))
    asked = f"{backend.inputs - inputs:,} embedded in {backend.requests - requests:,} requests"
    print(f"{'':<19}{counts}; {asked}", flush=True)
    return read["cpu_seconds"]


def run(url: str, task_id: str) -> dict[str, float]:
    """Reindex as the task does; seconds and megabytes."""
    before, started, cpu = peak_mb(), time.perf_counter(), time.process_time()
    source = SQLSource(dsn=url, query=QUERY)
    request = ReindexRequest(index="default", task_id=task_id)
    target = Index(url=url, settings=index(), backend=EightNumbers(), budget=Budget("", "default"))
    reindexing.reindex(target, lambda: source, request, max_bytes=10**7)
    connection.close_pools()
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "before_mb": before,
        "peak_mb": peak_mb(),
    }


def index() -> IndexSettings:
    pages = SourceSettings(name="pages", class_path="worker.sources.sql.SQLSource")
    return replace(configuration.load({}).index("default"), source=pages)


def peak_mb() -> float:
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    # on Linux that begins with the peak of the process that started this one
    kilobytes = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert kilobytes
    return int(kilobytes[1]) / 1024


def _result(url: str, task_id: str) -> Reindexed | None:
    with connection.checkout(url) as conn:
        return cast("Reindexed | None", job_result(conn, "default", task_id))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
