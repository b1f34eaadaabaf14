"""Rank the contents of an index in one of the three modes: by vector, by words, or by both (hybrid).

Vector search and full-text search each give a ranking of contents. Hybrid mode fuses the two rankings.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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
from worker.store.search import Found, Hit

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


@dataclass(frozen=True, kw_only=True)
class Ranker:
    """Ranks the contents of a build for one query, within one snapshot of the database."""

    connection: Connection
    build: Build
    query: SearchQuery
    vector: NDArray[np.float32] | None  # of the question; None in mode "text"
    where: Filter
    weights: tuple[float, float]  # of the ranking by vector and of the one by words, in hybrid mode

    def rank(self, candidates: int) -> Ranking:
        """Rank the `candidates` best contents in the query's mode."""
        if self.vector is None:
            found = self._by_words(candidates)
            return Ranking([(hit, hit.rank) for hit in found.hits], found.contents == candidates)
        found = search.nearest(
            self.connection, self.build, self.vector, candidates=candidates, where=self.where
        )
        if self.query.mode == "vector":
            scored = [(hit, vector_score(hit, self.build)) for hit in found.hits]
        else:
            scored = self._fused(found.hits)
        return Ranking(scored, self._has_more(found, candidates))

    def _has_more(self, found: Found, candidates: int) -> bool:
        """Tell whether contents behind these may still pass the threshold."""
        threshold = self.query.similarity_threshold
        return found.contents == candidates and passes_threshold(found.hits[-1], self.build, threshold)

    def _by_words(self, candidates: int) -> Found:
        words = search.lexemes(self.connection, self.build, clean(self.query.text))
        return search.lexical(
            self.connection, self.build, words, self.vector, candidates=candidates, where=self.where
        )

    @cached_property
    def _hits_by_words(self) -> Sequence[Hit]:
        return [] if WITHOUT_SPACES.search(self.query.text) else self._by_words(FUSED).hits

    def _fused(self, nearest: Sequence[Hit]) -> list[ScoredHit]:
        """Fuse the FUSED best of both rankings, then append the other contents by vector."""
        chunks: dict[bytes, dict[tuple[int, int], Hit]] = {}
        for hit in (*nearest, *self._hits_by_words):
            chunks.setdefault(hit.hash, {})[hit.rev, hit.ordinal] = hit
        by_vector = list(dict.fromkeys(hit.hash for hit in nearest))
        by_words = list(dict.fromkeys(hit.hash for hit in self._hits_by_words))
        head = fuse([by_vector[:FUSED], by_words], weights=self.weights)
        fused = dict(head)
        last = head[-1][1] if head else 1.0
        rest = (hash for hash in by_vector if hash not in fused)
        tail = [(hash, last * FUSED / (FUSED + at)) for at, hash in enumerate(rest, start=1)]
        return [(hit, score) for hash, score in head + tail for hit in chunks[hash].values()]
