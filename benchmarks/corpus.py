"""A folder of documents, indexed with the shipped model in services of its own, in this process."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker import configuration, services, wiring
from worker.backends.budgets import Budget
from worker.index import Index
from worker.indexing import staging
from worker.indexing.draining.drainer import Drainer
from worker.protocols import EmbeddingBackend
from worker.sources import files
from worker.store import connection, schema

MAX_BYTES = 10**7
BATCH = 20  # documents of a message
ENDINGS = (".md", ".rst", ".html")


def documents(folder: Path) -> list[dict[str, Any]]:
    """Read the documents of a folder as `vector-index index` does, each with its path from there as its id."""
    read = files.read([folder], max_bytes=MAX_BYTES)
    return [found for found in read if isinstance(found, dict) and found["id"].endswith(ENDINGS)]


@contextmanager
def indexed(folder: Path) -> Iterator[Index]:
    """Index the documents of a folder."""
    settings = configuration.load({}).index("default")
    own = settings.embedding_backend
    backend: EmbeddingBackend = wiring.make_backend(own)
    with tempfile.TemporaryDirectory() as home, services.running(Path(home), durable=False) as running:
        url = running.addresses.database_url
        schema.install(url)
        index = Index(url=url, settings=settings, backend=backend, budget=Budget("", own.name))
        found = documents(folder)
        for at in range(0, len(found), BATCH):
            staging.stage(index, f"batch-{at}", found[at : at + BATCH], max_bytes=MAX_BYTES)
        Drainer(url, own, backend).drain()
        try:
            yield index
        finally:
            connection.close_pools()
