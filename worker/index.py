"""One index with everything that code needs to work on it. worker/wiring.py makes it; every path passes it on."""

from collections.abc import Callable
from dataclasses import dataclass

from worker.backends.budgets import Budget
from worker.configuration import EmbeddingBackendSettings, IndexSettings
from worker.protocols import EmbeddingBackend
from worker.recipes import Recipe
from worker.store.builds import Build


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """An embedding backend with its settings and rate limits."""

    settings: EmbeddingBackendSettings
    backend: EmbeddingBackend
    budget: Budget


def refuse(index: "Index", build: Build) -> Embedder:
    """Refuse a build of another model. Raises SettingsError."""
    Recipe.stored(build.recipe).check(index.name, index.backend)
    return index.own_embedder


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index: where its data are, its settings, and its embedding backend with the backend's limits."""

    url: str  # of Postgres
    settings: IndexSettings
    backend: EmbeddingBackend
    budget: Budget  # the rate limits of the backend
    # finds the backend of a build whose vectors the settings' backend does not make
    remembered: Callable[["Index", Build], Embedder] = refuse

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def own_embedder(self) -> Embedder:
        """The backend that the settings name."""
        settings = self.settings.embedding_backend
        return Embedder(settings=settings, backend=self.backend, budget=self.budget)

    def embedder(self, build: Build) -> Embedder:
        """Return the backend that makes the vectors of a build: that of the settings, else the one it remembers.

        Raises SettingsError for a build whose backend cannot be used any more.
        """
        recipe = Recipe.stored(build.recipe)
        if recipe.is_made_by(self.backend) and recipe.tokenizer == self.backend.tokenizer:
            return self.own_embedder
        return self.remembered(self, build)
