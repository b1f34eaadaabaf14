"""Fuse two scores, or several questions, into one; group neighbouring chunks into passages. Pure functions."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from math import isfinite
from numbers import Real

import numpy as np
from numpy.typing import NDArray

MAX_MERGED = 3  # chunks of a passage: a single document cannot fill a page
WINDOW = 10  # ranks: a chunk joins a neighbour at most this far above it; farther ones fit the question much better

OPPOSITE = 1e-6  # length of the mean of normalised vectors that cancel out


def fused_score(cosine: float, relevance: float, *, weights: tuple[float, float]) -> float:
    """The weighted mean of a chunk's cosine similarity to the question and of its relevance by words.

    Unlike a fusion of ranks it keeps how far apart two chunks are: where one half cannot tell chunks apart, the other
    one decides. See Bruch, Gai and Ingber, An Analysis of Fusion Functions for Hybrid Retrieval (TOIS 2023).
    """
    by_vector, by_words = weights
    return (by_vector * cosine + by_words * relevance) / (by_vector + by_words)


def mean_vector(
    vectors: Sequence[NDArray[np.float32]], *, normalised: bool
) -> tuple[NDArray[np.float32], float]:
    """Fuse the vectors of several questions into one, and return it with a scale.

    The similarity of a chunk to the fused vector, times the scale, is the mean of its similarities to the questions. So
    one ranking by the fused vector is the ranking by that mean. `normalised`: give each question the same length first,
    so that this is exact for the cosine similarity. For other distances the vector is their mean, and the scale is
    exact for questions of the same length. Questions that point in opposite directions have the scale 0.
    """
    if len(vectors) == 1:
        return vectors[0], 1.0
    each = np.array(vectors, dtype=np.float64)
    lengths = np.linalg.norm(each, axis=1)
    if normalised:
        each /= np.where(lengths > 0, lengths, 1.0)[:, np.newaxis]
        lengths = np.ones(len(each))
    mean = each.mean(axis=0)
    scale = float(np.linalg.norm(mean) / (lengths.mean() or 1.0))
    if scale < OPPOSITE:
        return vectors[0], 0.0  # a vector of zeros has no direction to rank by
    return mean.astype(np.float32), scale


def mean_weights(weights: Sequence[Mapping[str, float]], most: int) -> dict[str, float]:
    """Fuse the weights of the words of several questions: the mean, where a question without a word gives it 0.

    The relevance of a chunk by these weights is the mean of its relevances to the questions. Only the `most` words of
    the highest weight are kept.
    """
    total: defaultdict[str, float] = defaultdict(float)
    for each in weights:
        for word, weight in each.items():
            total[word] += weight / len(weights)
    return {word: total[word] for word in sorted(total, key=lambda word: -total[word])[:most]}


def is_score(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def by_score(scores: Sequence[float]) -> list[int]:
    """Return positions, the highest score first; equal scores keep their order."""
    return sorted(range(len(scores)), key=lambda at: -scores[at])


def merge_neighbours(chunks: Sequence[tuple[Hashable, int]]) -> list[list[int]]:
    """Group chunks into passages. Chunks are (document, ordinal), best first, without repeats.

    A group has consecutive ordinals of one document, MAX_MERGED at most. It holds positions in `chunks`, in the order
    of the text. Groups are ordered by their best chunk. A chunk joins the first group that it touches and whose best
    chunk is at most WINDOW ranks above it. Groups stay apart, so a longer ranking keeps the groups of a shorter one and
    pages fit together.
    """
    groups: list[list[int]] = []  # the best chunk of each group first
    of_document: dict[Hashable, list[list[int]]] = defaultdict(list)
    for rank, (document, ordinal) in enumerate(chunks):
        near = (group for group in of_document[document] if rank - group[0] <= WINDOW)
        joined = next((group for group in near if _touches(ordinal, [chunks[at][1] for at in group])), None)
        if joined:
            joined.append(rank)
        else:
            groups.append([rank])
            of_document[document].append(groups[-1])
    return [sorted(group, key=lambda at: chunks[at][1]) for group in groups]


def _touches(ordinal: int, group: Sequence[int]) -> bool:
    return len(group) < MAX_MERGED and ordinal in (min(group) - 1, max(group) + 1)
