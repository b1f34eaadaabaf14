"""The recipe of a build: all settings that determine its chunks, vectors and lexemes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.chunking import CHUNKER, chunk, embedding_title
from worker.configuration import IndexSettings
from worker.documents import Chunk
from worker.errors import Refused, SettingsError, TooLarge, VectorIndexError
from worker.protocols import EmbeddingBackend
from worker.store.builds import MAX_VECTOR_DIMENSIONS
from worker.tokens import ESTIMATE, estimate

# of VECTOR_TYPE auto: above, each vector of four bytes a number fills a page of Postgres alone
FULL_PRECISION_DIMENSIONS = 1_000
MAX_HALF_NUMBER = 65_504  # the largest float of two bytes
PROBE = "dimensions"  # the word that a probe sends, to learn the length of the vectors


def probe(backend: EmbeddingBackend) -> None:
    """Send one word, and compare the length of its vector with the backend's dimensions.

    Raises SettingsError with both lengths if they differ. Raises it also if the provider refuses the word: it would
    refuse every document, and only the settings can be wrong. Raises ProviderUnavailable as `embed` does.
    """
    try:
        [vector] = backend.embed([PROBE])
    except (Refused, TooLarge) as error:
        raise SettingsError(
            f"{error}, even for the one word {PROBE!r}: fix MODEL_ID, INIT_KWARGS (key, api_base) or "
            "EMBEDDING_OUTPUT_DIMENSIONS"
        ) from None
    if len(vector) != backend.dimensions:
        raise SettingsError(
            f"{backend.model_id} returns vectors of length {len(vector)} instead of {backend.dimensions}: set "
            "EMBEDDING_OUTPUT_DIMENSIONS to the length that the model returns"
        )


def most_inputs(embed: Callable[[Sequence[str]], object], *, wanted: int, taken: int = 1) -> int:
    """Find the most inputs, up to `wanted`, that a provider takes in one request; it takes `taken` for certain.

    Calls `embed` with so many words: once, and a few times more if they are refused. Other errors of it pass.
    """
    tried = wanted
    while tried > taken:
        try:
            embed([f"{PROBE} {number}" for number in range(tried)])
            taken = tried
        except (Refused, TooLarge):
            wanted = tried - 1
        tried = (taken + wanted + 1) // 2
    return taken


def known_dimensions(backend: EmbeddingBackend) -> int | None:
    """The length of the backend's vectors; `None` if only an unreachable provider knows it."""
    try:
        return backend.dimensions
    except VectorIndexError:
        return None


def stated_dimensions(settings: IndexSettings, backend: EmbeddingBackend) -> int | None:
    """The length of the backend's vectors, without a request where the backend can tell."""
    if hasattr(backend, "stated_dimensions"):
        stated: int | None = backend.stated_dimensions
        return stated
    return settings.embedding_backend.dimensions or backend.dimensions


def _vector_type(settings: IndexSettings, dimensions: int) -> str:
    """Return the type of the vectors. Raises SettingsError for vectors that the wanted vector index cannot take."""
    if settings.vector_type == "auto":
        return "vector" if dimensions <= FULL_PRECISION_DIMENSIONS else "halfvec"
    takes_any = settings.hnsw is None or settings.hnsw.quantisation is not None
    if settings.vector_type == "vector" and dimensions > MAX_VECTOR_DIMENSIONS and not takes_any:
        raise SettingsError(
            f"VECTOR_TYPE of index {settings.name!r} is 'vector', of which Postgres can index "
            f"{MAX_VECTOR_DIMENSIONS:,} dimensions, and its vectors have {dimensions:,}: set it to 'auto', or set HNSW "
            "to False"
        )
    return settings.vector_type


# the setting that a field of a recipe comes from
SETTINGS_OF = {
    "model": "MODEL_ID",
    "dimensions": "EMBEDDING_OUTPUT_DIMENSIONS",
    "tokenizer": "TOKENIZER",
    "token_limit": "TOKEN_LIMIT",
    "chunker": "the chunker of this release",
    "chunk_tokens": "CHUNK_TOKENS",
    "overlap_tokens": "CHUNK_OVERLAP_TOKENS",
    "document_prefix": "DOCUMENT_PREFIX",
    "query_prefix": "QUERY_PREFIX",
    "distance": "DISTANCE",
    "language": "LANGUAGE",
    "language_field": "LANGUAGE_FIELD",
    "vector_type": "VECTOR_TYPE",
}


# fields of a recipe that must agree for vectors and words of two builds to be compared
COMPARED = ("model", "dimensions", "document_prefix", "query_prefix", "distance", "language")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting whose value differs from the one that an index was built with."""

    setting: str
    is_value: Any  # of the index
    will_be: Any  # of the settings

    def __str__(self) -> str:
        return f"{self.setting} is {self.is_value!r} in the index and {self.will_be!r} in the settings"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The recipe of one build, stored with it as JSON. Any backend that can make its vectors may embed for it."""

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
    language: str | None  # text search configuration of Postgres; None: no search by words
    language_field: str | None  # dotted path in the metadata
    vector_type: str  # of Postgres: vector or halfvec

    @classmethod
    def of(
        cls, settings: IndexSettings, backend: EmbeddingBackend, *, dimensions: int | None = None
    ) -> "Recipe":
        """Return the recipe that the settings ask for. Without `dimensions`, it may send one request to learn them."""
        dimensions = backend.dimensions if dimensions is None else dimensions
        return cls(
            model=backend.model_id,
            dimensions=dimensions,
            tokenizer=backend.tokenizer,
            token_limit=backend.token_limit,
            chunker=CHUNKER,
            chunk_tokens=min(settings.chunk_tokens or backend.chunk_tokens, backend.token_limit),
            overlap_tokens=settings.chunk_overlap_tokens,
            document_prefix=backend.document_prefix,
            query_prefix=backend.query_prefix,
            distance=settings.distance,
            language=settings.language,
            language_field=settings.language_field,
            vector_type=_vector_type(settings, dimensions),
        )

    @classmethod
    def stored(cls, recipe: Mapping[str, Any]) -> "Recipe":
        """Return the recipe of an existing build."""
        return cls(**{field.name: recipe[field.name] for field in fields(cls)})

    def within(self, backend: EmbeddingBackend) -> "Recipe":
        """Return the recipe with the limit that holds now: that of the index, or a lower one of the settings."""
        return replace(self, token_limit=min(self.token_limit, backend.token_limit))

    def chunks(self, text: str, backend: EmbeddingBackend, *title: str) -> list[Chunk]:
        """Cut a cleaned text into the chunks of a document, each with the lines of the title as its heading."""
        count = backend.count_tokens
        return chunk(
            text,
            title=embedding_title(*title, token_limit=self.token_limit, count=count),
            prefix=self.document_prefix,
            chunk_tokens=self.chunk_tokens,
            token_limit=self.token_limit,
            overlap_tokens=self.overlap_tokens,
            count=count,
            # with an unknown tokenizer `count` is an upper bound, and would make chunks a quarter of their size
            size=estimate if backend.tokenizer == ESTIMATE else None,
            sections=True,
        )

    def check_range(self, vectors: NDArray[np.float32]) -> None:
        """Raise SettingsError for numbers that the type of the vectors cannot hold."""
        if self.vector_type == "halfvec" and np.abs(vectors).max(initial=0.0) > MAX_HALF_NUMBER:
            raise SettingsError(
                f"{self.model} returned a number beyond {MAX_HALF_NUMBER:,}, the most that halfvec holds: set "
                "VECTOR_TYPE of the index to 'vector', and run `vector-index rebuild`"
            )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def is_made_by(self, backend: EmbeddingBackend) -> bool:
        """Whether a backend makes the vectors of this build, as far as is known without a request to its provider."""
        return backend.model_id == self.model and known_dimensions(backend) in (None, self.dimensions)

    def differences(self, wanted: "Recipe", only: Collection[str] = tuple(SETTINGS_OF)) -> list["Difference"]:
        """What a rebuild under the wanted recipe would change, of all fields or `only` of these."""
        old, new = self.as_json(), wanted.as_json()
        return [
            Difference(setting=SETTINGS_OF[field], is_value=old[field], will_be=new[field])
            for field in old
            if field in only and old[field] != new[field]
        ]

    def check(self, index: str, backend: EmbeddingBackend, *, dimensions: int | None = None) -> None:
        """Raise SettingsError if the backend's vectors differ from those of this build.

        `dimensions` is the length of the backend's vectors. Without it, this may ask the provider, and raises as that
        request does.
        """
        dimensions = backend.dimensions if dimensions is None else dimensions
        if backend.model_id != self.model:
            fix = f"MODEL_ID back to {self.model}"
        elif dimensions != self.dimensions:
            fix = f"EMBEDDING_OUTPUT_DIMENSIONS back to {self.dimensions}"
        else:
            return
        raise SettingsError(
            f"index {index!r} holds vectors of {self.model} ({self.dimensions} dimensions), but its embedding "
            f"backend is {backend.model_id} ({dimensions} dimensions): run `vector-index rebuild --index {index}`, or "
            f"set {fix}"
        )
