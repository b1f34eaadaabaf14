"""Rank the contents of an index in one of the three modes: by vector, by words, or by both (hybrid).

Vector search and full-text search each give a ranking of contents. Hybrid mode fuses the two rankings.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.documents import clean
from worker.search.passages import ScoredHit
from worker.search.queries import SearchQuery
from worker.search.ranking import fuse
from worker.search.similarity import passes_threshold, vector_score
from worker.store import search
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import Filter
from worker.store.search import NOTHING, Excluded, Found, Hit

# The best contents of each ranking that hybrid mode fuses. The other contents follow them, by vector, on every page.
FUSED = 100

# Thai, Lao, Burmese, Khmer, Japanese and Chinese put no space between words: Postgres makes one lexeme of a clause
WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


class Ranking(NamedTuple):
    """The best hits of one query."""

    hits: Sequence[ScoredHit]  # best first
    more: bool  # whether a longer ranking may have further hits


@dataclass(kw_only=True)
class Ranker:
    """Ranks the contents of a build for one query, within one snapshot of the database."""

    connection: Connection
    build: Build
    query: SearchQuery
    vector: NDArray[np.float32] | None  # of the question; None in mode "text"
    where: Filter
    weights: tuple[float, float]  # of the ranking by vector and of the one by words, in hybrid mode
    _last_score: float = field(default=1.0, init=False)  # of the first ranking in hybrid mode
    _behind_fused: int = field(default=0, init=False)  # contents ranked behind it

    def rank(self, candidates: int, excluded: Excluded) -> Ranking:
        """Rank the `candidates` best contents in the query's mode, without what is excluded.

        The first ranking in hybrid mode fuses FUSED contents, so that all pages begin with the same. The further ones
        go on by vector.
        """
        if self.vector is None:
            found = self._by_words(candidates, excluded)
            more = found.contents == candidates or (found.unread and bool(found.hits))
            return Ranking([(hit, hit.rank) for hit in found.hits], more)
        fusing = self.query.mode == "hybrid" and not excluded
        candidates = FUSED if fusing else candidates
        found = search.nearest(
            self.connection,
            self.build,
            self.vector,
            candidates=candidates,
            where=self.where,
            excluded=excluded,
        )
        if self.query.mode == "vector":
            scored = [(hit, vector_score(hit, self.build)) for hit in found.hits]
        else:
            scored = self._fused(found.hits) if fusing else self._behind(found.hits)
        return Ranking(scored, self._has_more(found, candidates))

    def _has_more(self, found: Found, candidates: int) -> bool:
        """Tell whether contents behind these may still pass the threshold."""
        threshold = self.query.similarity_threshold
        return found.contents == candidates and passes_threshold(found.hits[-1], self.build, threshold)

    def _by_words(self, candidates: int, excluded: Excluded) -> Found:
        words = search.lexemes(self.connection, self.build, clean(self.query.text))
        return search.lexical(
            self.connection,
            self.build,
            words,
            self.vector,
            candidates=candidates,
            where=self.where,
            excluded=excluded,
        )

    def _fused(self, nearest: Sequence[Hit]) -> list[ScoredHit]:
        """Fuse the ranking by vector with the one by words."""
        spaced = not WITHOUT_SPACES.search(self.query.text)
        by_words = self._by_words(FUSED, NOTHING).hits if spaced else []
        chunks = _by_content([*nearest, *by_words])
        orders = [list(dict.fromkeys(hit.hash for hit in hits)) for hits in (nearest, by_words)]
        fused = fuse(orders, weights=self.weights)
        self._last_score = fused[-1][1] if fused else 1.0
        return [(hit, score) for hash, score in fused for hit in chunks[hash]]

    def _behind(self, nearest: Sequence[Hit]) -> list[ScoredHit]:
        """Score contents by vector, below all that were fused and those before."""
        scored = []
        for hits in _by_content(nearest).values():
            self._behind_fused += 1
            score = self._last_score * FUSED / (FUSED + self._behind_fused)
            scored += [(hit, score) for hit in hits]
        return scored


def _by_content(hits: Iterable[Hit]) -> dict[bytes, list[Hit]]:
    """Group hits by content, each once."""
    chunks: dict[bytes, dict[tuple[int, int], Hit]] = {}
    for hit in hits:
        chunks.setdefault(hit.hash, {})[hit.rev, hit.ordinal] = hit
    return {hash: list(each.values()) for hash, each in chunks.items()}
