"""Retrieve: a question becomes passages.

The build is resolved once and the question is embedded under that build's own recipe, so that a switch of builds
in between cannot pair the vector of one with the vectors of the other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.chunking import chunk
from worker.configuration import IndexSettings
from worker.documents import Passage, clean, embedding_text
from worker.errors import InvalidQuery
from worker.recipes import EmbeddingBackend, Recipe
from worker.store import builds, connection, search
from worker.store.builds import Build
from worker.store.filters import compile_filter
from worker.store.search import Hit

MAX_LIMIT = 100
MAX_OFFSET = 10_000
FIRST_CANDIDATES = 50  # contents looked at first; four times as many each time they do not fill the page


@dataclass(frozen=True, kw_only=True)
class Query:
    """The arguments of a search, checked. Raises InvalidQuery naming the argument, its value and the mend."""

    text: str
    limit: int = 5
    offset: int = 0
    filter: Mapping[str, Any] | None = None
    similarity_threshold: float = 0.0  # 0: off
    per_document: int | None = None  # passages of one document, at most

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InvalidQuery("query must be a string with at least one word")
        _whole("limit", self.limit, 1, MAX_LIMIT)
        _whole("offset", self.offset, 0, MAX_OFFSET)
        if self.per_document is not None:
            _whole("per_document", self.per_document, 1, MAX_LIMIT)
        threshold = self.similarity_threshold
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise InvalidQuery(f"similarity_threshold must be a number from 0 (off) to 1, not {threshold!r}")


def retrieve(url: str, index: IndexSettings, backend: EmbeddingBackend, query: Query) -> list[Passage]:
    """The passages nearest to the question, nearest first; none when nothing is indexed yet.

    Raises InvalidQuery for a filter that cannot be compiled or lacks the tenant, SettingsError when the backend
    makes other vectors than the index holds, TemporaryError when Postgres or the provider does not answer.
    """
    condition = compile_filter(query.filter, tenant_field=index.tenant_field)
    with connection.checkout(url) as conn:
        build = builds.live(conn, index.name)
    if build is None:
        return []
    recipe = Recipe.stored(build.recipe)
    recipe.check(index.name, backend)
    if query.similarity_threshold > 0 and recipe.distance != "cosine":
        raise InvalidQuery(
            f'similarity_threshold needs DISTANCE "cosine"; index {index.name!r} has {recipe.distance!r}'
        )
    vector = backend.embed([_question(query.text, recipe, backend)])[0]

    wanted = query.offset + query.limit
    candidates = max(FIRST_CANDIDATES, 2 * wanted)
    while True:
        with connection.checkout(url) as conn:
            hits = search.nearest(conn, build, vector, candidates=candidates, where=condition)
        passages = [_passage(hit, build) for hit in _distinct(hits, query.per_document)]
        if len(passages) >= wanted or len({hit.hash for hit in hits}) < candidates:
            break
        candidates *= 4
    near = [
        p
        for p in passages
        if not query.similarity_threshold or (p.similarity or 0) >= query.similarity_threshold
    ]
    return near[query.offset : wanted]


def _question(text: str, recipe: Recipe, backend: EmbeddingBackend) -> str:
    """The string to embed: with the model's prefix, and cut where the model stops reading."""
    pieces = chunk(
        clean(text),
        prefix=recipe.query_prefix,
        chunk_tokens=recipe.token_limit,
        token_limit=recipe.token_limit,
        count=backend.count_tokens,
    )
    return embedding_text(recipe.query_prefix, "", pieces[0].text if pieces else clean(text))


def _distinct(hits: Sequence[Hit], per_document: int | None) -> Iterator[Hit]:
    """Each content once, and at most so many of one document."""
    seen: set[bytes] = set()
    taken: dict[str, int] = {}
    for hit in hits:
        if hit.hash in seen or (per_document is not None and taken.get(hit.document_id, 0) >= per_document):
            continue
        seen.add(hit.hash)
        taken[hit.document_id] = taken.get(hit.document_id, 0) + 1
        yield hit


def _passage(hit: Hit, build: Build) -> Passage:
    similarity = 1.0 - hit.distance if build.recipe["distance"] == "cosine" else None
    return Passage(
        document_id=hit.document_id,
        title=hit.title,
        metadata=hit.metadata,
        text=hit.text,
        start=hit.start,
        end=hit.end,
        chunks=(hit.ordinal, hit.ordinal),
        score=-hit.distance if similarity is None else similarity,
        similarity=similarity,
    )


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidQuery(f"{name} must be a whole number from {low} to {high:,}, not {value!r}")
