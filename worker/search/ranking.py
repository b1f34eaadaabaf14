"""From several rankings to one, and from neighbouring chunks to one passage. Pure: places in, places out."""

from collections.abc import Hashable, Sequence
from math import fsum, inf
from typing import TypeVar

RANK_CONSTANT = 60  # of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009, who took 60)

MAX_MERGED = 3  # chunks of a passage: one document does not swallow a page
WINDOW = 10  # ranks: a chunk joins a neighbour that is at most so far above it, not one that it has little to do with

Item = TypeVar("Item", bound=Hashable)


def fuse(rankings: Sequence[Sequence[Item]], *, weights: Sequence[float]) -> list[tuple[Item, float]]:
    """One ranking of several, each best first and without repeats, with scores: reciprocal rank fusion.

    An item's score is the weighted mean, over the rankings, of 61 / (60 + rank), and nothing where a ranking lacks
    it: 1.0 is first everywhere. Of equal scores the one goes first that the first ranking has higher, then the
    second. A ranking of weight 0 is left out, and what only it has.
    """
    used = [(ranking, weight) for ranking, weight in zip(rankings, weights, strict=True) if weight > 0]
    total = fsum(weight for _, weight in used)
    ranks = [{item: rank for rank, item in enumerate(ranking, start=1)} for ranking, _ in used]
    places = {item: [rank.get(item, inf) for rank in ranks] for rank in ranks for item in rank}
    # fsum: two items with the same ranks in other rankings have the same score, to the last bit
    scores = {
        item: fsum(
            weight / total * (RANK_CONSTANT + 1) / (RANK_CONSTANT + rank)
            for rank, (_, weight) in zip(place, used, strict=True)
        )
        for item, place in places.items()
    }
    return sorted(scores.items(), key=lambda pair: (-pair[1], places[pair[0]]))


def merge_neighbours(chunks: Sequence[tuple[Hashable, int]]) -> list[list[int]]:
    """Group chunks, given as (document, ordinal) best first and without repeats, into passages.

    Each group holds positions in `chunks`, in the order of the text: consecutive ordinals of one document,
    MAX_MERGED at most. Groups go by their best chunk. A chunk joins the first group whose best is at most WINDOW
    ranks above it and that it touches; two groups never join, so that a longer ranking moves none of the groups
    of a shorter one, and pages fit together.
    """
    groups: list[list[int]] = []  # the best of each first
    for rank, chunk in enumerate(chunks):
        near = (group for group in groups[-WINDOW:] if rank - group[0] <= WINDOW)
        joined = next((group for group in near if _touches(chunk, [chunks[at] for at in group])), None)
        if joined:
            joined.append(rank)
        else:
            groups.append([rank])
    return [sorted(group, key=lambda at: chunks[at][1]) for group in groups]


def _touches(chunk: tuple[Hashable, int], group: Sequence[tuple[Hashable, int]]) -> bool:
    document, ordinal = chunk
    ordinals = [ordinal for _, ordinal in group]
    return (
        len(group) < MAX_MERGED
        and group[0][0] == document
        and ordinal in (min(ordinals) - 1, max(ordinals) + 1)
    )
