"""Rank the contents of an index in one of the three modes: by vector, by words, or by both (hybrid).

Vector search and full-text search each give a ranking of contents. Hybrid mode fuses the two rankings. Several
questions are fused before, into one vector and one set of weighted words: each score is the mean over the questions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, zip_longest
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.documents import clean
from worker.search.passages import ScoredHit
from worker.search.queries import SearchQuery
from worker.search.ranking import fused_score, mean_vector, mean_weights
from worker.search.similarity import passes_threshold, scaled, vector_score
from worker.store import rarity, search
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import Filter
from worker.store.rarity import NO_WORDS, QUESTION_LEXEMES, RAREST_LEXEMES, Words
from worker.store.search import NOTHING, Excluded, Found, Hit

# The best contents of each ranking that hybrid mode fuses. The other contents follow them, by vector, on every page.
FUSED = 100


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
    vectors: Sequence[NDArray[np.float32]] | None  # one for each question; None in mode "text"
    where: Filter
    weights: tuple[float, float]  # of the ranking by vector and of the one by words, in hybrid mode
    _last_score: float = field(default=inf, init=False)  # of the rankings before, in hybrid mode

    def rank(self, candidates: int, excluded: Excluded) -> Ranking:
        """Rank the `candidates` best contents in the query's mode, without what is excluded.

        The first ranking in hybrid mode fuses FUSED contents, so that all pages begin with the same. The further ones
        go on by vector.
        """
        if self.vectors is None:
            found = self._by_words(candidates, excluded)
            more = found.contents == candidates or (found.unread and bool(found.hits))
            return Ranking([(hit, hit.words) for hit in found.hits], more)
        if self.query.mode == "vector":
            found = self._by_vector(candidates, excluded)
            scored = [(hit, vector_score(hit, self.build)) for hit in found.hits]
        elif excluded:
            found = self._by_vector(candidates, excluded)
            scored = self._in_order([(hit, self._fused_score(hit)) for hit in found.hits])
        else:
            candidates = FUSED
            found = self._by_vector(candidates, excluded)
            scored = self._in_order(self._fused(found.hits))
        return Ranking(scored, self._has_more(found, candidates))

    def _has_more(self, found: Found, candidates: int) -> bool:
        """Tell whether contents behind these may still pass the threshold."""
        threshold = self.query.similarity_threshold
        return found.contents == candidates and passes_threshold(found.hits[-1], self.build, threshold)

    @cached_property
    def _words(self) -> Words:
        """The words of the question; none where the query does not search by words."""
        if self.query.mode == "vector":
            return NO_WORDS
        each = [
            rarity.read_words(self.connection, self.build, clean(text), self.query.filter)
            for text in self.query.texts
        ]
        return _fused_words(each)

    @cached_property
    def _vector(self) -> tuple[NDArray[np.float32] | None, float]:
        """The vector to search with, and what to multiply similarities with; `None` in mode "text"."""
        if self.vectors is None:
            return None, 1.0
        return mean_vector(self.vectors, normalised=self.build.recipe["distance"] == "cosine")

    def _by_vector(self, candidates: int, excluded: Excluded) -> Found:
        vector, scale = self._vector
        assert vector is not None
        found = search.nearest(
            self.connection,
            self.build,
            vector,
            candidates=candidates,
            where=self.where,
            excluded=excluded,
            words=self._words,
        )
        return scaled(found, scale, self.build)

    def _by_words(self, candidates: int, excluded: Excluded) -> Found:
        vector, scale = self._vector
        found = search.lexical(
            self.connection,
            self.build,
            self._words,
            vector,
            candidates=candidates,
            where=self.where,
            excluded=excluded,
        )
        return scaled(found, scale, self.build)

    def _fused(self, nearest: Sequence[Hit]) -> list[ScoredHit]:
        """The hits of both rankings, by fused score; a ranking of weight 0 adds none."""
        by_vector, by_words = self.weights
        found = [*(nearest if by_vector else ()), *(self._by_words(FUSED, NOTHING).hits if by_words else ())]
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


def _fused_words(each: Sequence[Words]) -> Words:
    """The words of several questions with their mean weights; the rarest words of each question find chunks."""
    if len(each) == 1:
        return each[0]
    weights = mean_weights([words.weights for words in each], QUESTION_LEXEMES)
    in_turn = chain.from_iterable(zip_longest(*(words.finding for words in each)))
    finding = list(dict.fromkeys(word for word in in_turn if word in weights))
    return Words(finding=finding[: max(RAREST_LEXEMES, len(each))], weights=weights)
