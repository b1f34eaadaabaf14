"""Fuse rankings into one, and group neighbouring chunks into passages. Pure functions."""

from collections.abc import Hashable, Sequence
from math import fsum, inf
from typing import TypeVar

RANK_CONSTANT = 60  # of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009, who used 60)

MAX_MERGED = 3  # chunks of a passage: a single document cannot fill a page
WINDOW = 10  # ranks: a chunk joins a neighbour at most this far above it; farther ones fit the question much better

Item = TypeVar("Item", bound=Hashable)


def fuse(rankings: Sequence[Sequence[Item]], *, weights: Sequence[float]) -> list[tuple[Item, float]]:
    """Fuse rankings into one with scores, by reciprocal rank fusion. Each is best first, without repeats.

    The score of an item is the weighted mean of 61 / (60 + rank) over the rankings. A ranking without the item
    contributes 0, so 1.0 is first everywhere. Ties go to the item that is higher in the first ranking, then in the
    second. A ranking of weight 0 is ignored, with the items that only it has.
    """
    used = [(ranking, weight) for ranking, weight in zip(rankings, weights, strict=True) if weight > 0]
    total = fsum(weight for _, weight in used)
    ranks = [{item: rank for rank, item in enumerate(ranking, start=1)} for ranking, _ in used]
    places = {item: [rank.get(item, inf) for rank in ranks] for rank in ranks for item in rank}
    # fsum: items with the same ranks in different rankings get the same score, to the last bit
    scores = {
        item: fsum(
            weight / total * (RANK_CONSTANT + 1) / (RANK_CONSTANT + rank)
            for rank, (_, weight) in zip(place, used, strict=True)
        )
        for item, place in places.items()
    }
    return sorted(scores.items(), key=lambda pair: (-pair[1], places[pair[0]]))


def merge_neighbours(chunks: Sequence[tuple[Hashable, int]]) -> list[list[int]]:
    """Group chunks into passages. Chunks are (document, ordinal), best first, without repeats.

    A group has consecutive ordinals of one document, MAX_MERGED at most. It holds positions in `chunks`, in the order
    of the text. Groups are ordered by their best chunk. A chunk joins the first group that it touches and whose best
    chunk is at most WINDOW ranks above it. Groups stay apart, so a longer ranking keeps the groups of a shorter one and
    pages fit together.
    """
    groups: list[list[int]] = []  # the best chunk of each group first
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
