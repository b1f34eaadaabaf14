"""A folder of documents, indexed with the shipped model in services of its own, in this process."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def indexed(folder: Path) -> Iterator[Index]:
    """Index the documents of a folder, each with its path from there as its id."""
    settings = configuration.load({}).index("default")
    own = settings.embedding_backend
    backend: EmbeddingBackend = wiring.make_backend(own)
    documents = [
        found
        for found in files.read([folder], max_bytes=MAX_BYTES)
        if isinstance(found, dict) and found["id"].endswith(ENDINGS)
    ]
    with tempfile.TemporaryDirectory() as home, services.running(Path(home), durable=False) as running:
        url = running.addresses.database_url
        schema.install(url)
        index = Index(url=url, settings=settings, backend=backend, budget=Budget("", own.name))
        for at in range(0, len(documents), BATCH):
            staging.stage(index, f"batch-{at}", documents[at : at + BATCH], max_bytes=MAX_BYTES)
        Drainer(url, own, backend).drain()
        try:
            yield index
        finally:
            connection.close_pools()
