"""An index on real Postgres, with a backend class of its own in place of a provider."""

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from worker import configuration
from worker.backends.budgets import Budget
from worker.configuration import IndexSettings
from worker.index import Index
from worker.indexing.draining.drainer import Drainer
from worker.protocols import EmbeddingBackend
from worker.recipes import PROBE
from worker.store import connection


@dataclass
class HashBackend:
    """A user's own backend class: words are tokens, and a text's words make its vector."""

    model_id: str = "hash"
    token_limit: int = 200
    batch_token_limit: int = 400
    batch_size: int = 8
    tokenizer: str = "words"
    chunk_tokens: int = 20
    dimensions: int = 16
    document_prefix: str = ""
    query_prefix: str = ""
    requests: list[list[str]] = field(default_factory=list)  # but for those that only ask for the dimensions

    def count_tokens(self, text: str) -> int:
        return len(text.split()) + text.count("\n")

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if list(texts) != [PROBE]:
            self.requests.append(list(texts))
        return np.array([vector(text, self.dimensions) for text in texts], dtype=np.float32)


def during_request(backend: HashBackend, action: Callable[[], object]) -> None:
    """Run the action while the next request for documents is in flight, and only then."""
    embed = backend.embed

    def interrupted(texts: Sequence[str]) -> NDArray[np.float32]:
        if list(texts) != [PROBE]:
            backend.embed = embed  # type: ignore[method-assign]
            action()
        return embed(texts)

    backend.embed = interrupted  # type: ignore[method-assign]


def vector(text: str, dimensions: int = 16) -> NDArray[np.float64]:
    """The sum of a direction per word: texts that share words are near."""
    total = np.zeros(dimensions)
    for word in re.findall(r"\w+", text.lower()) or [""]:
        total += np.random.default_rng(zlib.crc32(word.encode())).normal(size=dimensions)
    return total / np.linalg.norm(total)


def make_index(
    url: str, settings: IndexSettings, backend: EmbeddingBackend, budget: Budget | None = None
) -> Index:
    """An index as worker/wiring.py makes it, with any backend; no budget: no rate limits."""
    budget = budget or Budget("", settings.embedding_backend.name)
    return Index(url=url, settings=settings, backend=backend, budget=budget)


@pytest.fixture
def backend() -> HashBackend:
    return HashBackend()


@pytest.fixture
def index() -> IndexSettings:
    return configuration.load({}).index("default")


@pytest.fixture
def url(database_url: str) -> Iterator[str]:
    """A database with the schema; its pool is closed before it is dropped."""
    yield database_url
    connection.close_pools()


@pytest.fixture
def drainer(url: str, index: IndexSettings, backend: HashBackend) -> Drainer:
    return Drainer(url, index.embedding_backend, backend)
