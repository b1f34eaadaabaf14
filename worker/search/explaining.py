"""Tell how the scores of a search came about, step by step."""

from collections.abc import Mapping, Sequence

from worker.search.boosting import at_path
from worker.search.modes import Ranker
from worker.search.passages import ScoredHit
from worker.search.similarity import vector_score
from worker.search_results import AppliedBoost, Explanation, WordShare
from worker.store import explanation
from worker.store.search import Hit, Place


def explain(ranker: Ranker, groups: Sequence[Sequence[ScoredHit]]) -> list[Explanation]:
    """Explain the score of each passage, given as its chunks: that of the best one."""
    best = [max(group, key=lambda scored: scored[1]) for group in groups]
    shares = _shares(ranker, [hit for hit, _ in best])
    return [_explained(ranker, hit, score, shares.get((hit.rev, hit.ordinal), {})) for hit, score in best]


def _explained(ranker: Ranker, hit: Hit, score: float, shares: Mapping[str, float]) -> Explanation:
    query, build = ranker.halves.query, ranker.halves.build
    words: list[WordShare] = [{"word": word, "share": share} for word, share in shares.items()]
    boosts: list[AppliedBoost] = [
        {
            "field": boost.field,
            "value": at_path(ranker.metadata[hit.rev], boost.field),
            "factor": boost.factor(ranker.metadata[hit.rev]),
        }
        for boost in query.boosting
    ]
    return {
        "chunk": hit.ordinal,
        "by_vector": vector_score(hit, build) if query.mode == "vector" else hit.cosine,
        "by_words": None if query.mode == "vector" else hit.words,
        "words": words,
        "weights": list(ranker.weights) if query.mode == "hybrid" else None,
        "fused": ranker.score(hit),
        "boosts": boosts,
        "boosted": ranker.boosted_score(hit),
        "searched": score,
    }


def _shares(ranker: Ranker, hits: Sequence[Hit]) -> Mapping[Place, Mapping[str, float]]:
    """What each word adds to the relevance of these chunks, in each build."""
    halves = ranker.halves
    found: dict[Place, Mapping[str, float]] = {}
    for target, words in zip(halves.targets, halves.words, strict=True):
        places = [(hit.rev, hit.ordinal) for hit in hits if hit.index_name == target.build.index]
        if places and words.weights:
            found |= explanation.word_shares(halves.connection, target.build, words, places)
    return found
