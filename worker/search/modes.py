"""Rank contents in one of the three modes: by vector, by words, or by both (hybrid).

Vector search and full-text search each give a ranking of contents. Hybrid mode fuses the two rankings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from worker.search.halves import Halves
from worker.search.passages import ScoredHit
from worker.search.ranking import fused_score
from worker.search.similarity import passes_threshold, vector_score
from worker.store.search import NOTHING, Excluded, Found, Hit

# The best contents of each ranking that hybrid mode fuses. The other contents follow them, by vector, on every page.
FUSED = 100


class Ranking(NamedTuple):
    """The best hits of one query."""

    hits: Sequence[ScoredHit]  # best first
    more: bool  # whether a longer ranking may have further hits


@dataclass(kw_only=True)
class Ranker:
    """Ranks contents for one query, within one snapshot of the database."""

    halves: Halves
    weights: tuple[float, float]  # of the ranking by vector and of the one by words, in hybrid mode
    _last_score: float = field(default=inf, init=False)  # of the rankings before, in hybrid mode

    def rank(self, candidates: int, excluded: Excluded) -> Ranking:
        """Rank the `candidates` best contents in the query's mode, without what is excluded.

        The first ranking in hybrid mode fuses FUSED contents, so that all pages begin with the same. The further ones
        go on by vector.
        """
        if self.halves.query.mode == "text":
            found = self.halves.by_words(candidates, excluded)
            more = found.contents == candidates or (found.unread and bool(found.hits))
            return Ranking([(hit, hit.words) for hit in found.hits], more)
        if self.halves.query.mode == "vector":
            found = self.halves.by_vector(candidates, excluded)
            scored = [(hit, vector_score(hit, self.halves.build)) for hit in found.hits]
        elif excluded:
            found = self.halves.by_vector(candidates, excluded)
            scored = self._in_order([(hit, self._fused_score(hit)) for hit in found.hits])
        else:
            candidates = FUSED
            found = self.halves.by_vector(candidates, excluded)
            scored = self._in_order(self._fused(found.hits))
        return Ranking(scored, self._has_more(found, candidates))

    def _has_more(self, found: Found, candidates: int) -> bool:
        """Tell whether contents behind these may still pass the threshold."""
        threshold = self.halves.query.similarity_threshold
        return found.contents == candidates and passes_threshold(found.hits[-1], self.halves.build, threshold)

    def _fused(self, nearest: Sequence[Hit]) -> list[ScoredHit]:
        """The hits of both rankings, by fused score; a ranking of weight 0 adds none."""
        by_vector, by_words = self.weights
        found = [
            *(nearest if by_vector else ()),
            *(self.halves.by_words(FUSED, NOTHING).hits if by_words else ()),
        ]
        hits = {(hit.rev, hit.ordinal): hit for hit in found}.values()
        return sorted(((hit, self._fused_score(hit)) for hit in hits), key=lambda scored: -scored[1])

    def _fused_score(self, hit: Hit) -> float:
        assert hit.cosine is not None
        return fused_score(hit.cosine, hit.words, weights=self.weights)

    def _in_order(self, scored: Iterable[ScoredHit]) -> list[ScoredHit]:
        """Lower the scores of hits that come after better ones, so that scores fall from the first page to the last."""
        lowered = []
        for hit, score in scored:
            self._last_score = min(self._last_score, score)
            lowered.append((hit, self._last_score))
        return lowered
