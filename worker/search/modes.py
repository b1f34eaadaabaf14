"""Rank contents in one of the three modes: by vector, by words, or by both (hybrid).

Vector search and full-text search each give a ranking of contents. Hybrid mode fuses the two rankings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from worker.search.boosting import boosted
from worker.search.halves import Halves
from worker.search.passages import ScoredHit
from worker.search.ranking import fused_score
from worker.search.similarity import passes_threshold, vector_score
from worker.store import search
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
    metadata: dict[int, Mapping[str, Any]] = field(
        default_factory=dict, init=False
    )  # by revision, for boosts
    _last_score: float = field(default=inf, init=False)  # of the rankings before, in hybrid mode

    def rank(self, candidates: int, excluded: Excluded) -> Ranking:
        """Rank the `candidates` best contents in the query's mode, without what is excluded.

        The first ranking in hybrid mode, and of a search with boosts, has FUSED contents of each half, so that all
        pages begin with the same. It is ordered by score. The further ones go on by vector, or by words, with lower
        scores.
        """
        query = self.halves.query
        is_first = not excluded
        if is_first and (query.mode == "hybrid" or query.boosting):
            candidates = FUSED
        by_words = query.mode == "text"
        found = (self.halves.by_words if by_words else self.halves.by_vector)(candidates, excluded)
        hits = self._with_best_by_words(found.hits) if is_first and query.mode == "hybrid" else found.hits
        if query.boosting:
            unread = {hit.rev for hit in hits} - self.metadata.keys()
            self.metadata |= search.metadata(self.halves.connection, unread)
        scored = [(hit, self.boosted_score(hit)) for hit in hits]
        if query.mode == "hybrid" or query.boosting:
            scored = self._in_order(sorted(scored, key=lambda each: -each[1]) if is_first else scored)
        if by_words:
            return Ranking(scored, found.contents == candidates or (found.unread and bool(found.hits)))
        return Ranking(scored, self._has_more(found, candidates))

    def score(self, hit: Hit) -> float:
        """The score of a hit in the query's mode, without boosts."""
        match self.halves.query.mode:
            case "text":
                return hit.words
            case "vector":
                return vector_score(hit, self.halves.build)
        assert hit.cosine is not None
        return fused_score(hit.cosine, hit.words, weights=self.weights)

    def boosted_score(self, hit: Hit) -> float:
        """The score of a hit with the boosts of the query."""
        boosting = self.halves.query.boosting
        if not boosting:
            return self.score(hit)
        return boosted(self.score(hit), [boost.factor(self.metadata[hit.rev]) for boost in boosting])

    def _has_more(self, found: Found, candidates: int) -> bool:
        """Tell whether contents behind these may still pass the threshold."""
        threshold = self.halves.query.similarity_threshold
        return found.contents == candidates and passes_threshold(found.hits[-1], self.halves.build, threshold)

    def _with_best_by_words(self, nearest: Sequence[Hit]) -> Sequence[Hit]:
        """The hits of both rankings, each once; a ranking of weight 0 adds none."""
        by_vector, by_words = self.weights
        found = [
            *(nearest if by_vector else ()),
            *(self.halves.by_words(FUSED, NOTHING).hits if by_words else ()),
        ]
        return list({(hit.rev, hit.ordinal): hit for hit in found}.values())

    def _in_order(self, scored: Iterable[ScoredHit]) -> list[ScoredHit]:
        """Lower the scores of hits that come after better ones, so that scores fall from the first page to the last."""
        lowered = []
        for hit, score in scored:
            self._last_score = min(self._last_score, score)
            lowered.append((hit, self._last_score))
        return lowered
