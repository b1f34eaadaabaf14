"""The two halves of a search: contents ranked by vector, and contents ranked by words.

A search may have several questions and read several builds. The questions are fused into one vector and one set of
weighted words. The builds are read one after the other, in one snapshot, and their contents are ranked as those of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, zip_longest
from math import inf

import numpy as np
from numpy.typing import NDArray

from worker.documents import clean
from worker.search.queries import SearchQuery
from worker.search.ranking import mean_vector, mean_weights
from worker.search.similarity import scaled, vector_score
from worker.store import rarity, search
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import Filter
from worker.store.rarity import (
    NO_WORDS,
    QUESTION_LEXEMES,
    RAREST_LEXEMES,
    SHARE_BESIDE_VECTORS,
    Words,
)
from worker.store.search import Excluded, Found, Hit


@dataclass(frozen=True, kw_only=True)
class Target:
    """A build to search, and the condition that its documents must meet."""

    build: Build
    where: Filter


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Both halves of one search, within one snapshot of the database."""

    connection: Connection
    targets: Sequence[Target]  # at least one; their vectors and words can be compared
    query: SearchQuery
    vectors: Sequence[NDArray[np.float32]] | None  # one for each question; None in mode "text"

    @property
    def build(self) -> Build:
        """A build that stands for all, as far as their recipes agree."""
        return self.targets[0].build

    @cached_property
    def vector(self) -> tuple[NDArray[np.float32] | None, float]:
        """The vector to search with, and what to multiply similarities with; `None` in mode "text"."""
        if self.vectors is None:
            return None, 1.0
        return mean_vector(self.vectors, normalised=self.build.recipe["distance"] == "cosine")

    @cached_property
    def words(self) -> Sequence[Words]:
        """The words of the questions, for each target; none where the query does not search by words."""
        if self.query.mode == "vector":
            return [NO_WORDS] * len(self.targets)
        return _comparable([self._words_in(target.build) for target in self.targets])

    def _words_in(self, build: Build) -> Words:
        texts = map(clean, self.query.texts)
        share = inf if self.query.mode == "text" else SHARE_BESIDE_VECTORS
        filter = self.query.filter
        return _fused(
            [rarity.read_words(self.connection, build, text, filter, share=share) for text in texts]
        )

    def by_vector(self, candidates: int, excluded: Excluded) -> Found:
        """The nearest contents; the similarity to several questions is the mean."""
        vector, scale = self.vector
        assert vector is not None
        found = [
            search.nearest(
                self.connection,
                target.build,
                vector,
                candidates=candidates,
                where=target.where,
                excluded=excluded,
                words=words,
            )
            for target, words in zip(self.targets, self.words, strict=True)
        ]
        return scaled(_best(found, candidates, lambda hit: vector_score(hit, self.build)), scale, self.build)

    def by_words(self, candidates: int, excluded: Excluded) -> Found:
        """The contents that are most relevant by words."""
        vector, scale = self.vector
        found = [
            search.lexical(
                self.connection,
                target.build,
                words,
                vector,
                candidates=candidates,
                where=target.where,
                excluded=excluded,
            )
            for target, words in zip(self.targets, self.words, strict=True)
        ]
        return scaled(_best(found, candidates, lambda hit: hit.words), scale, self.build)


def _fused(each: Sequence[Words]) -> Words:
    """The words of several questions with their mean weights; the rarest words of each question find chunks."""
    if len(each) == 1:
        return each[0]
    most = max(QUESTION_LEXEMES, *(len(words.weights) for words in each))
    weights = mean_weights([words.weights for words in each], most)
    in_turn = chain.from_iterable(zip_longest(*(words.finding for words in each)))
    finding = list(dict.fromkeys(word for word in in_turn if word in weights))
    kept = max(RAREST_LEXEMES, len(each), *(len(words.finding) for words in each))
    return Words(finding=finding[:kept], weights=weights)


def _comparable(each: Sequence[Words]) -> Sequence[Words]:
    """Give a word the same weight in every build: the mean over the builds that have it."""
    if len(each) == 1:
        return each
    have = {
        word: [words.weights[word] for words in each if word in words.weights]
        for words in each
        for word in words.weights
    }
    return [
        replace(words, weights={word: sum(have[word]) / len(have[word]) for word in words.weights})
        for words in each
    ]


def _best(found: Sequence[Found], candidates: int, score: Callable[[Hit], float]) -> Found:
    """The `candidates` contents of the highest score over all builds, ordered as those of one build."""
    if len(found) == 1:
        return found[0]
    best: dict[bytes, float] = {}  # score by content
    hits = list(chain.from_iterable(each.hits for each in found))
    for hit in hits:
        best[hit.hash] = max(best.get(hit.hash, score(hit)), score(hit))
    contents = sorted(best, key=lambda hash: -best[hash])[:candidates]
    places = {hash: place for place, hash in enumerate(contents)}
    kept = [hit for hit in hits if hit.hash in places]
    return Found(
        hits=sorted(kept, key=lambda hit: (-best[hit.hash], hit.doc, hit.ordinal)),
        contents=len(contents),
        unread=any(each.unread for each in found),
    )
