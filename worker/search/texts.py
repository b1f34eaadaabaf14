"""Embed a few texts of an application's own, as documents or as questions are embedded, without storing them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.documents import clean, embedding_text
from worker.errors import InvalidQuery, Refused, TooLarge, described
from worker.index import Embedder, Index
from worker.recipes import Recipe
from worker.results import EmbeddedTexts
from worker.search.embedding import embed_at_once
from worker.store import builds, connection
from worker.words import visible

MAX_TEXTS = 100  # at most 5 MB of JSON, with vectors of 4,096 numbers
KINDS = ("document", "query")


@dataclass(frozen=True, kw_only=True)
class OwnTexts:
    """The texts, cleaned as documents are. Raises InvalidQuery, which names the position of a wrong text."""

    texts: Sequence[str]
    kind: str = "document"

    def __post_init__(self) -> None:
        if not isinstance(self.texts, Sequence) or isinstance(self.texts, str):
            raise InvalidQuery(f"texts must be a list of strings, not {described(self.texts)}")
        if not 0 < len(self.texts) <= MAX_TEXTS:
            raise InvalidQuery(f"texts has {len(self.texts):,} texts: send 1 to {MAX_TEXTS} in one task")
        if self.kind not in KINDS:
            raise InvalidQuery(f"kind must be {' or '.join(map(repr, KINDS))}, not {described(self.kind)}")
        object.__setattr__(self, "texts", [_cleaned(at, text) for at, text in enumerate(self.texts)])


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How texts of one kind are embedded: by which backend, behind which prefix, and how long they may be."""

    embedder: Embedder
    prefix: str
    token_limit: int  # of a text with its prefix

    @classmethod
    def of_backend(cls, embedder: Embedder, kind: str) -> "Manner":
        """Return the manner of the settings of a backend."""
        backend = embedder.backend
        prefix = backend.query_prefix if kind == "query" else backend.document_prefix
        return cls(embedder=embedder, prefix=prefix, token_limit=backend.token_limit)

    @classmethod
    def of_index(cls, index: Index, kind: str) -> "Manner":
        """Return the manner of the live build of an index, so that the vectors compare with those in it.

        An index without documents has none yet, and follows its settings. Raises SettingsError, TemporaryError.
        """
        with connection.checkout(index.url) as conn:
            build = builds.live(conn, index.name)
        if build is None:
            return cls.of_backend(index.own_embedder, kind)
        embedder = index.embedder(build)
        recipe = Recipe.stored(build.recipe).within(embedder.backend)
        prefix = recipe.query_prefix if kind == "query" else recipe.document_prefix
        return cls(embedder=embedder, prefix=prefix, token_limit=recipe.token_limit)


def embed_texts(manner: Manner, own: OwnTexts) -> EmbeddedTexts:
    """Return a vector for each text, in order, in as few requests as the backend's limits allow.

    Raises InvalidQuery for a text that is too long, TooLarge or Refused for one that the provider does not take: each
    names its position. Raises ProviderUnavailable when the rate limits would take more than a few seconds.
    """
    backend = manner.embedder.backend
    strings = [embedding_text(manner.prefix, "", text) for text in own.texts]
    counts = [backend.count_tokens(string) for string in strings]
    for at, tokens in enumerate(counts):
        if tokens > manner.token_limit:
            raise InvalidQuery(
                f"texts[{at}] has {tokens:,} tokens with its prefix, and {backend.model_id} takes "
                f"{manner.token_limit:,}: shorten it, or split it into several texts"
            )
    vectors = _vectors(manner.embedder, strings, 0)
    return {
        "vectors": [_numbers(vector) for vector in vectors],
        "model": backend.model_id,
        "dimensions": len(vectors[0]),
        "tokens": sum(counts),
    }


def _cleaned(at: int, text: object) -> str:
    if not isinstance(text, str):
        raise InvalidQuery(f"texts[{at}] must be a string, not {described(text)}")
    cleaned = clean(text).strip()
    if not visible(cleaned).strip():
        raise InvalidQuery(f"texts[{at}] has no words: leave it out")
    return cleaned


def _vectors(embedder: Embedder, strings: Sequence[str], first: int) -> list[NDArray[np.float32]]:
    """Embed the strings from position `first` on. Halves what is refused, until one text is left to name."""
    try:
        return embed_at_once(embedder, strings)
    except (Refused, TooLarge) as error:
        if len(strings) == 1:
            raise type(error)(f"texts[{first}]: {error}") from None
    half = len(strings) // 2
    return [
        *_vectors(embedder, strings[:half], first),
        *_vectors(embedder, strings[half:], first + half),
    ]


def _numbers(vector: NDArray[np.float32]) -> list[float]:
    """The numbers with the fewest digits that give the same four bytes: half the JSON of the numbers as doubles."""
    return [float(str(number)) for number in vector]
