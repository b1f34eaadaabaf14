"""An index with everything that it takes to work on it. Made by worker/wiring.py, passed along every path."""

from dataclasses import dataclass

from worker.backends.budgets import Budget
from worker.configuration import IndexSettings
from worker.protocols import EmbeddingBackend


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index with everything that it takes to work on it."""

    url: str  # of Postgres
    settings: IndexSettings
    backend: EmbeddingBackend
    budget: Budget  # of the backend

    @property
    def name(self) -> str:
        return self.settings.name
