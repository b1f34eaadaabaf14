"""The recipe of a build: everything that its chunks, vectors and lexemes depend on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from worker.chunking import CHUNKER
from worker.configuration import IndexSettings
from worker.errors import Refused, SettingsError, TooLarge
from worker.protocols import EmbeddingBackend

PROBE = "dimensions"  # what a provider is asked to embed, to see the length of its vectors


def probe(backend: EmbeddingBackend) -> None:
    """Compare the length of a vector with what the backend says, by one tiny request.

    Raises SettingsError with both lengths where they differ, and where even this word is refused: else every document
    would be refused for good, one by one, for what only the settings mend. Raises ProviderUnavailable as `embed` does.
    """
    try:
        [vector] = backend.embed([PROBE])
    except (Refused, TooLarge) as error:
        raise SettingsError(
            f"{error}, even the one word {PROBE!r}: mend MODEL_ID, INIT_KWARGS or EMBEDDING_OUTPUT_DIMENSIONS"
        ) from None
    if len(vector) != backend.dimensions:
        raise SettingsError(
            f"{backend.model_id} returns vectors of length {len(vector)}, where {backend.dimensions} were expected: "
            "set EMBEDDING_OUTPUT_DIMENSIONS to what the model returns"
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stored with each build as JSON."""

    backend: str  # name of the embedding backend in the settings
    model: str
    dimensions: int
    tokenizer: str
    token_limit: int  # tokens of one input
    chunker: str
    chunk_tokens: int
    overlap_tokens: int
    document_prefix: str
    query_prefix: str
    distance: str  # cosine, l2 or inner_product
    language: str  # text search configuration of Postgres

    @classmethod
    def of(
        cls, index: IndexSettings, backend: EmbeddingBackend, *, dimensions: int | None = None
    ) -> "Recipe":
        """The recipe that the settings ask for; without `dimensions` it may cost one request, to learn them."""
        return cls(
            backend=index.embedding_backend.name,
            model=backend.model_id,
            dimensions=backend.dimensions if dimensions is None else dimensions,
            tokenizer=backend.tokenizer,
            token_limit=backend.token_limit,
            chunker=CHUNKER,
            chunk_tokens=min(index.chunk_tokens or backend.chunk_tokens, backend.token_limit),
            overlap_tokens=index.chunk_overlap_tokens,
            document_prefix=backend.document_prefix,
            query_prefix=backend.query_prefix,
            distance=index.distance,
            language=index.language,
        )

    @classmethod
    def stored(cls, recipe: Mapping[str, Any]) -> "Recipe":
        """The recipe of a build that stands."""
        return cls(**{field.name: recipe[field.name] for field in fields(cls)})

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def check(self, index: str, backend: EmbeddingBackend, *, dimensions: int | None = None) -> None:
        """Raises SettingsError when the backend makes other vectors than this build holds.

        Without `dimensions`, those of the backend's vectors, it may ask the provider, and raises what that raises.
        """
        dimensions = backend.dimensions if dimensions is None else dimensions
        if backend.model_id != self.model:
            mend = f"MODEL_ID back to {self.model}"
        elif dimensions != self.dimensions:
            mend = f"EMBEDDING_OUTPUT_DIMENSIONS back to {self.dimensions}"
        else:
            return
        raise SettingsError(
            f"index {index!r} holds vectors of {self.model} ({self.dimensions} dimensions), but its embedding "
            f"backend is {backend.model_id} ({dimensions} dimensions): set {mend}, or give the documents "
            "an index of another name"
        )
