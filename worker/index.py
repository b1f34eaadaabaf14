"""One index with everything that code needs to work on it. worker/wiring.py makes it; every path passes it on."""

from dataclasses import dataclass

from worker.backends.budgets import Budget
from worker.configuration import IndexSettings
from worker.protocols import EmbeddingBackend


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index: where its data are, its settings, and its embedding backend with the backend's limits."""

    url: str  # of Postgres
    settings: IndexSettings
    backend: EmbeddingBackend
    budget: Budget  # the rate limits of the backend

    @property
    def name(self) -> str:
        return self.settings.name
