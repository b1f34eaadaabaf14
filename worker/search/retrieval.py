"""Retrieve: a question, or a document, becomes passages.

The build is resolved once and the question is embedded under that build's own recipe, so that a switch of builds
in between cannot pair the vector of one with the vectors of the other. What fits by its vector and what fits by its
words are two rankings of contents; the modes are one, the other, and both fused.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.backends.budgets import Budget
from worker.chunking import chunk
from worker.configuration import IndexSettings
from worker.documents import Passage, clean, embedding_text
from worker.errors import InvalidQuery
from worker.observability import events
from worker.protocols import EmbeddingBackend
from worker.recipes import Recipe
from worker.search.ranking import WINDOW, fuse, merge_neighbours
from worker.store import builds, connection, filters, search
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import Filter, compile_filter
from worker.store.search import Found, Hit

MODES = ("hybrid", "vector", "text")
MAX_LIMIT = 100
MAX_OFFSET = 10_000
FIRST_CANDIDATES = 10  # contents looked at first; four times as many each time they do not fill the page
FUSED = (
    100  # best contents of each ranking that are fused; behind them, on every page, come the others by vector
)

# Thai, Lao, Burmese, Khmer, Japanese and Chinese put no space between words: Postgres makes one lexeme of a clause
WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True, kw_only=True)
class Query:
    """The arguments of a search, checked. Raises InvalidQuery naming the argument, its value and the mend."""

    text: str
    limit: int = 5
    offset: int = 0
    filter: Mapping[str, Any] | None = None
    similarity_threshold: float = 0.0  # 0: off
    per_document: int | None = None  # passages of one document, at most
    mode: str = "hybrid"  # or "vector", or "text"

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InvalidQuery("query must be a string with at least one word")
        _whole("limit", self.limit, 1, MAX_LIMIT)
        _whole("offset", self.offset, 0, MAX_OFFSET)
        if self.per_document is not None:
            _whole("per_document", self.per_document, 1, MAX_LIMIT)
        _fraction("similarity_threshold", self.similarity_threshold)
        if self.mode not in MODES:
            raise InvalidQuery(f"mode must be one of {', '.join(MODES)}, not {self.mode!r:.40}")
        if self.mode == "text" and self.similarity_threshold:
            raise InvalidQuery(
                'similarity_threshold needs vectors: leave it out, or take the mode "hybrid" or "vector"'
            )


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
    """The passages that fit the question best, best first; none when nothing is indexed yet.

    Raises InvalidQuery for a filter that cannot be compiled or lacks the tenant, SettingsError when the backend
    makes other vectors than the index holds, TemporaryError when Postgres or the provider does not answer.
    """
    with events.search(index.name, query.mode):
        return _retrieve(url, index, backend, query, budget or Budget("", backend.model_id))


def _retrieve(
    url: str, index: IndexSettings, backend: EmbeddingBackend, query: Query, budget: Budget
) -> list[Passage]:
    condition = compile_filter(query.filter, tenant_field=index.tenant_field)
    with connection.checkout(url) as conn:
        build = builds.live(conn, index.name)
    if build is None:
        return []
    _check_threshold(query.similarity_threshold, build)
    vector = None
    if query.mode != "text":
        recipe = Recipe.stored(build.recipe)
        recipe.check(index.name, backend)
        question = _question(query.text, recipe, backend)
        tokens = backend.count_tokens(question)
        with budget.first(tokens), events.ProviderRequest(budget.name, "search", tokens=tokens):
            vector = backend.embed([question])[0]

    wanted = query.offset + query.limit
    with connection.checkout(url) as conn, search.snapshot(conn):
        rank = _ranking(conn, build, query, vector, condition, index.hybrid_weights)
        candidates = max(FUSED if query.mode == "hybrid" else FIRST_CANDIDATES, 2 * wanted)
        while True:
            ranked, more = rank(candidates)
            near = [(hit, score) for hit, score in ranked if _is_near(hit, build, query.similarity_threshold)]
            chosen = list(_distinct(near, query.per_document))
            groups = merge_neighbours([(hit.document_id, hit.ordinal) for hit, _ in chosen])
            # the last passage of the page may still grow by what is WINDOW ranks behind it: pages fit together
            if not more or (len(groups) >= wanted and min(groups[wanted - 1]) + WINDOW < len(chosen)):
                break
            candidates *= 4
        page = [[chosen[at] for at in group] for group in groups[query.offset : wanted]]
        return list(_passages(conn, build, page))


Ranking = tuple[list[tuple[Hit, float]], bool]  # hits with their scores, best first; whether there are more


def _ranking(
    conn: Connection,
    build: Build,
    query: Query,
    vector: NDArray[np.float32] | None,
    where: Filter,
    weights: tuple[float, float],
) -> Callable[[int], Ranking]:
    """How the mode ranks: a function of the number of contents."""

    def lexical(candidates: int) -> Found:
        words = search.lexemes(conn, build, clean(query.text))
        return search.lexical(conn, build, words, vector, candidates=candidates, where=where)

    if vector is None:

        def by_words(candidates: int) -> Ranking:
            found = lexical(candidates)
            return [(hit, hit.rank) for hit in found.hits], found.contents == candidates

        return by_words

    def goes_on(found: Found, candidates: int) -> bool:
        """Whether there are contents behind these that are near enough."""
        return found.contents == candidates and _is_near(found.hits[-1], build, query.similarity_threshold)

    if query.mode == "vector":

        def by_vector(candidates: int) -> Ranking:
            found = search.nearest(conn, build, vector, candidates=candidates, where=where)
            return [(hit, _score(hit, build)) for hit in found.hits], goes_on(found, candidates)

        return by_vector

    said = [] if WITHOUT_SPACES.search(query.text) else lexical(FUSED).hits

    def by_both(candidates: int) -> Ranking:
        found = search.nearest(conn, build, vector, candidates=candidates, where=where)
        chunks: dict[bytes, dict[tuple[int, int], Hit]] = {}
        for hit in (*found.hits, *said):
            chunks.setdefault(hit.hash, {})[hit.rev, hit.ordinal] = hit
        near = list(dict.fromkeys(hit.hash for hit in found.hits))
        head = fuse([near[:FUSED], list(dict.fromkeys(hit.hash for hit in said))], weights=weights)
        fused = dict(head)
        last = head[-1][1] if head else 1.0
        rest = (hash for hash in near if hash not in fused)
        tail = [(hash, last * FUSED / (FUSED + at)) for at, hash in enumerate(rest, start=1)]
        scored = [(hit, score) for hash, score in head + tail for hit in chunks[hash].values()]
        return scored, goes_on(found, candidates)

    return by_both


def find_similar(url: str, index: IndexSettings, like: LikeDocument) -> list[Passage]:
    """The best passage of each of the documents nearest to one, nearest first, without a request.

    The mean of the document's vectors is the question. None for a document that shows readers no vectors yet.
    Raises InvalidQuery for a document that the index, or with TENANT_FIELD the tenant, does not have.
    """
    with events.search(index.name, "similar"):
        return _find_similar(url, index, like)


def _find_similar(url: str, index: IndexSettings, like: LikeDocument) -> list[Passage]:
    condition = compile_filter(like.filter, tenant_field=index.tenant_field)
    # the document itself need not pass the filter, but it must be the tenant's own
    own = {index.tenant_field: (like.filter or {})[index.tenant_field]} if index.tenant_field else None
    with connection.checkout(url) as conn, search.snapshot(conn):
        build = builds.live(conn, index.name)
        asked = search.reference_document(conn, build, like.id, where=compile_filter(own)) if build else None
        if build is None or asked is None:
            raise InvalidQuery(
                f"there is no document {like.id!r} in index {index.name!r}: index it first, or mend document_id"
            )
        _check_threshold(like.similarity_threshold, build)
        if asked.embedding is None or not asked.embedding.any():
            return []
        where = condition if like.include_self else filters.both(condition, asked.others)
        candidates = max(FIRST_CANDIDATES, 10 * like.limit)
        while True:
            found = search.nearest(
                conn, build, asked.embedding, candidates=candidates, where=where, per_content=like.limit
            )
            best: dict[str, Hit] = {}
            for hit in found.hits:
                best.setdefault(hit.document_id, hit)
            if len(best) >= like.limit or found.contents < candidates:
                break
            candidates *= 4
        near = [hit for hit in best.values() if _is_near(hit, build, like.similarity_threshold)]
        return list(_passages(conn, build, [[(hit, _score(hit, build))] for hit in near[: like.limit]]))


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


def _distinct(ranked: Sequence[tuple[Hit, float]], per_document: int | None) -> Iterator[tuple[Hit, float]]:
    """Each text once, whatever it is titled, and at most so many of one document."""
    seen: set[str] = set()
    taken: dict[str, int] = {}
    for hit, score in ranked:
        if hit.text in seen or (per_document is not None and taken.get(hit.document_id, 0) >= per_document):
            continue
        seen.add(hit.text)
        taken[hit.document_id] = taken.get(hit.document_id, 0) + 1
        yield hit, score


def _passages(
    conn: Connection, build: Build, page: Sequence[Sequence[tuple[Hit, float]]]
) -> Iterator[Passage]:
    """A passage of each group of neighbouring chunks, with the score and similarity of its best."""
    ends = [(group[0][0], group[-1][0]) for group in page]
    texts = search.spans(conn, [(one.rev, one.start, last.end) for one, last in ends if one is not last])
    for group, (first, last) in zip(page, ends, strict=True):
        score = max(score for _, score in group)
        similarities = [similarity for hit, _ in group if (similarity := _similarity(hit, build)) is not None]
        yield Passage(
            document_id=first.document_id,
            title=first.title,
            metadata=first.metadata,
            text=first.text if first is last else texts[first.rev, first.start],
            start=first.start,
            end=last.end,
            chunks=(first.ordinal, last.ordinal),
            score=score,
            similarity=max(similarities, default=None),
        )


def _similarity(hit: Hit, build: Build) -> float | None:
    return 1.0 - hit.distance if hit.distance is not None and build.recipe["distance"] == "cosine" else None


def _score(hit: Hit, build: Build) -> float:
    """Of a hit by vector."""
    assert hit.distance is not None
    similarity = _similarity(hit, build)
    return -hit.distance if similarity is None else similarity


def _is_near(hit: Hit, build: Build, threshold: float) -> bool:
    return not threshold or (_similarity(hit, build) or 0) >= threshold


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
