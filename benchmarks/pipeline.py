"""Documents a second through staging and draining, against scripts that call `llm` directly.

The provider is the stand-in of the tests, in a process of its own, with its latency set; Postgres is the
embedded one. Client, provider and Postgres share the machine: compare the ratios.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from llm.default_plugins.openai_models import OpenAIEmbeddingModel

from benchmarks.texts import documents
from worker import configuration, services
from worker.backends import load_plugins
from worker.backends.budgets import Budget
from worker.chunking import chunk
from worker.index import Index
from worker.indexing import staging
from worker.indexing.draining.drainer import Drainer
from worker.store import connection, schema
from worker.wiring import make_backend

DOCUMENTS = 500
NAIVE_DOCUMENTS = 40
MESSAGE = 100  # documents
LATENCY_SECONDS = 0.05


class Pipeline:
    """Staging in this thread, draining in the threads of a drainer, as the workers do it."""

    def __init__(self, url: str) -> None:
        settings = configuration.load({"EMBEDDING_MODEL": "3-small"})
        index = settings.index("default")
        self.url, self.backend = url, make_backend(index.embedding_backend)
        self.index = Index(url=url, settings=index, backend=self.backend, budget=Budget("", "default"))
        self.drainer = Drainer(url, index.embedding_backend, self.backend)
        self.drainer.start()
        self.jobs = 0

    def index_all(self, texts: list[dict[str, Any]]) -> None:
        for at in range(0, len(texts), MESSAGE):
            self.jobs += 1
            message = texts[at : at + MESSAGE]
            staging.stage(self.index, f"job-{self.jobs}", message, max_bytes=10**7)
        with psycopg.connect(self.url, autocommit=True) as conn:
            while conn.execute(
                "SELECT 1 FROM vector_index.served_1 WHERE want_rev IS NOT NULL LIMIT 1"
            ).fetchone():
                time.sleep(0.005)


def main() -> None:
    with tempfile.TemporaryDirectory() as home, services.running(Path(home)) as own, provider() as url:
        os.environ |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"}
        load_plugins()
        database = own.addresses.database_url
        schema.install(database)
        pipeline = Pipeline(database)
        pipeline.index_all(documents(5, edition=9))  # what is made once: clients, pools, tables
        model = OpenAIEmbeddingModel("text-embedding-3-small", "text-embedding-3-small")
        model.key = "none"
        list(model.embed_multi(["warm"]))

        texts = documents(DOCUMENTS)
        ours = rate(DOCUMENTS, lambda: pipeline.index_all(texts))
        again = rate(DOCUMENTS, lambda: pipeline.index_all(texts))
        batched = rate(DOCUMENTS, lambda: batches(model, texts, pipeline))
        single = rate(NAIVE_DOCUMENTS, lambda: one_by_one(model, texts[:NAIVE_DOCUMENTS], pipeline))
        pipeline.drainer.stop(5)
        connection.close_pools()
    print(
        f"pipeline    {DOCUMENTS} documents, {LATENCY_SECONDS * 1000:.0f} ms a request: {ours:.0f} documents/s"
    )
    print(
        f"            {ours / batched:.1f} times a script that sends batches of 100 ({batched:.0f}/s, stores nothing)"
    )
    print(
        f"            {ours / single:.1f} times a script with a request per document ({single:.0f}/s, stores nothing)"
    )
    print(f"            {again / ours:.1f} times that for the same documents again ({again:.0f}/s)")


def batches(model: Any, texts: list[dict[str, Any]], pipeline: Pipeline) -> None:
    list(model.embed_multi(piece for text in texts for piece in pieces(text, pipeline)))


def one_by_one(model: Any, texts: list[dict[str, Any]], pipeline: Pipeline) -> None:
    for text in texts:
        list(model.embed_multi(pieces(text, pipeline)))


def pieces(text: dict[str, Any], pipeline: Pipeline) -> list[str]:
    chunks = chunk(text["text"], chunk_tokens=512, token_limit=8191, count=pipeline.backend.count_tokens)
    return [found.text for found in chunks]


def rate(count: int, run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return count / (time.perf_counter() - started)


@contextmanager
def provider() -> Iterator[str]:
    """The stand-in, in a process of its own."""
    command = [sys.executable, "-m", "tests.provider", "--latency", str(LATENCY_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["url"]
        try:
            yield address
        finally:
            process.terminate()
