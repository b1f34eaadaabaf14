"""Retrieve: a question, or a document, becomes passages.

The build is resolved once and the question is embedded under that build's own recipe, so that a switch of builds
in between cannot pair the vector of one with the vectors of the other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.budgets import Budget
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
        _fraction("similarity_threshold", self.similarity_threshold)


@dataclass(frozen=True, kw_only=True)
class LikeDocument:
    """The arguments of find_similar, checked. Raises InvalidQuery naming the argument, its value and the mend."""

    id: str
    limit: int = 5  # documents
    filter: Mapping[str, Any] | None = None  # over the documents that are found
    similarity_threshold: float = 0.0  # 0: off
    include_self: bool = False

    def __post_init__(self) -> None:
        _whole("limit", self.limit, 1, MAX_LIMIT)
        _fraction("similarity_threshold", self.similarity_threshold)
        if not isinstance(self.include_self, bool):
            raise InvalidQuery(f"include_self must be true or false, not {self.include_self!r}")


def retrieve(
    url: str,
    index: IndexSettings,
    backend: EmbeddingBackend,
    query: Query,
    budget: Budget | None = None,  # of the backend; None: no limits
) -> list[Passage]:
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
    _check_threshold(query.similarity_threshold, build)
    question = _question(query.text, recipe, backend)
    with (budget or Budget("", backend.model_id)).first(backend.count_tokens(question)):
        vector = backend.embed([question])[0]

    wanted = query.offset + query.limit
    candidates = max(FIRST_CANDIDATES, 2 * wanted)
    while True:
        with connection.checkout(url) as conn:
            hits = search.nearest(conn, build, vector, candidates=candidates, where=condition)
        passages = [_passage(hit, build) for hit in _distinct(hits, query.per_document)]
        if len(passages) >= wanted or len({hit.hash for hit in hits}) < candidates:
            break
        candidates *= 4
    return _near(passages, query.similarity_threshold)[query.offset : wanted]


def find_similar(url: str, index: IndexSettings, like: LikeDocument) -> list[Passage]:
    """The best passage of each of the documents nearest to one, nearest first, without a request.

    The mean of the document's vectors is the question. None for a document that shows readers no vectors yet.
    Raises InvalidQuery for a document that the index, or with TENANT_FIELD the tenant, does not have.
    """
    condition = compile_filter(like.filter, tenant_field=index.tenant_field)
    # the document itself need not pass the filter, but it must be the tenant's own
    own = {index.tenant_field: (like.filter or {})[index.tenant_field]} if index.tenant_field else None
    with connection.checkout(url) as conn, search.snapshot(conn):
        build = builds.live(conn, index.name)
        asked = search.asked(conn, build, like.id, where=compile_filter(own)) if build else None
        if build is None or asked is None:
            raise InvalidQuery(
                f"there is no document {like.id!r} in index {index.name!r}: index it first, or mend document_id"
            )
        _check_threshold(like.similarity_threshold, build)
        if asked.embedding is None or not asked.embedding.any():
            return []
        where = condition if like.include_self else search.both(condition, asked.others)
        candidates = max(FIRST_CANDIDATES, 2 * like.limit)
        while True:
            hits = search.nearest(
                conn, build, asked.embedding, candidates=candidates, where=where, per_content=like.limit
            )
            best: dict[str, Hit] = {}
            for hit in hits:
                best.setdefault(hit.document_id, hit)
            if len(best) >= like.limit or len({hit.hash for hit in hits}) < candidates:
                break
            candidates *= 4
    passages = [_passage(hit, build) for hit in best.values()]
    return _near(passages, like.similarity_threshold)[: like.limit]


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


def _near(passages: Sequence[Passage], threshold: float) -> list[Passage]:
    return [passage for passage in passages if not threshold or (passage.similarity or 0) >= threshold]


def _check_threshold(threshold: float, build: Build) -> None:
    distance = build.recipe["distance"]
    if threshold > 0 and distance != "cosine":
        raise InvalidQuery(
            f'similarity_threshold needs DISTANCE "cosine"; index {build.index!r} has {distance!r}'
        )


def _fraction(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InvalidQuery(f"{name} must be a number from 0 (off) to 1, not {value!r}")


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidQuery(f"{name} must be a whole number from {low} to {high:,}, not {value!r}")
