"""Fuse two scores into one, and group neighbouring chunks into passages. Pure functions."""

from collections.abc import Hashable, Sequence

MAX_MERGED = 3  # chunks of a passage: a single document cannot fill a page
WINDOW = 10  # ranks: a chunk joins a neighbour at most this far above it; farther ones fit the question much better


def fused_score(cosine: float, relevance: float, *, weights: tuple[float, float]) -> float:
    """The weighted mean of a chunk's cosine similarity to the question and of its relevance by words.

    Unlike a fusion of ranks it keeps how far apart two chunks are: where one half cannot tell chunks apart, the other
    one decides. See Bruch, Gai and Ingber, An Analysis of Fusion Functions for Hybrid Retrieval (TOIS 2023).
    """
    by_vector, by_words = weights
    return (by_vector * cosine + by_words * relevance) / (by_vector + by_words)


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
