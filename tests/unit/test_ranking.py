"""Scores are fused, and neighbouring chunks become passages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.search.ranking import (
    MAX_MERGED,
    WINDOW,
    fused_score,
    mean_vector,
    mean_weights,
    merge_neighbours,
)

PLACES = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12)), unique=True)


def test_the_score_is_the_weighted_mean_of_both_halves() -> None:
    assert fused_score(0.5, 1.0, weights=(1, 1)) == 0.75
    assert fused_score(0.5, 1.0, weights=(3, 1)) == 0.625
    assert fused_score(0.5, 1.0, weights=(1, 0)) == 0.5
    assert fused_score(0.5, 1.0, weights=(0, 7)) == 1.0


@given(st.integers(2, 10), st.integers(0, 1000))
def test_the_similarity_to_the_fused_vector_is_the_mean_of_the_similarities(number: int, seed: int) -> None:
    """For the cosine with vectors of any length, for the inner product up to the scale."""
    random = np.random.default_rng(seed)
    questions = [(random.normal(size=8) * random.uniform(0.1, 9)).astype(np.float32) for _ in range(number)]
    chunk = random.normal(size=8)
    chunk /= np.linalg.norm(chunk)
    vector, scale = mean_vector(questions, normalised=True)
    cosines = [question @ chunk / np.linalg.norm(question) for question in questions]
    assert scale * (vector @ chunk) / np.linalg.norm(vector) == pytest.approx(np.mean(cosines), abs=1e-5)
    vector, _ = mean_vector(questions, normalised=False)
    assert vector @ chunk == pytest.approx(np.mean([question @ chunk for question in questions]), abs=1e-5)


def test_questions_in_opposite_directions_rank_no_chunk_above_another() -> None:
    forth = np.array([3.0, 4.0], dtype=np.float32)
    vector, scale = mean_vector([forth, -2 * forth], normalised=True)
    assert (vector.any(), scale) == (True, 0.0)


def test_a_word_has_the_mean_weight_of_all_questions() -> None:
    assert mean_weights([{"owl": 1.0}, {"owl": 0.25, "oak": 0.75}], 9) == {"owl": 0.625, "oak": 0.375}
    assert list(mean_weights([{"oak": 0.1, "owl": 0.9}, {"elm": 1.0}], 2)) == ["elm", "owl"]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([("a", 4), ("a", 5)], [[0, 1]]),
        ([("a", 5), ("a", 4)], [[1, 0]]),
        ([("a", 4), ("b", 5)], [[0], [1]]),
        ([("a", 4), ("a", 6)], [[0], [1]]),
        ([("a", 4), ("b", 1), ("a", 3), ("a", 5)], [[2, 0, 3], [1]]),
        ([("a", 4), ("a", 6), ("a", 5)], [[0, 2], [1]]),
        ([("a", 1), ("a", 2), ("a", 3), ("a", 4)], [[0, 1, 2], [3]]),
    ],
    ids=["next", "previous", "documents", "gap", "both sides", "bridge", "bounded"],
)
def test_chunks_next_to_each_other_become_one_passage(
    places: list[tuple[str, int]], expected: list[list[int]]
) -> None:
    assert merge_neighbours(places) == expected


def test_a_chunk_far_down_does_not_lengthen_a_passage_at_the_top() -> None:
    others = [(f"x{number}", 0) for number in range(WINDOW)]
    assert merge_neighbours([("a", 0), *others[1:], ("a", 1)])[0] == [0, WINDOW]
    assert merge_neighbours([("a", 0), *others, ("a", 1)])[0] == [0]


@given(PLACES)
def test_a_passage_has_consecutive_chunks_of_one_document_and_every_chunk_is_in_one_passage(
    places: list[tuple[str, int]],
) -> None:
    groups = merge_neighbours(places)
    assert sorted(at for group in groups for at in group) == list(range(len(places)))
    assert [min(group) for group in groups] == sorted(min(group) for group in groups)
    for group in groups:
        document, first = places[group[0]]
        assert [places[at] for at in group] == [(document, first + n) for n in range(len(group))]
        assert len(group) <= MAX_MERGED


@given(PLACES, st.integers(0, 30))
def test_pages_fit_together_for_every_length_of_the_ranking(places: list[tuple[str, int]], end: int) -> None:
    """From the first `end` chunks of a ranking, each passage begins with the same chunk as in the whole ranking."""
    best = [min(group) for group in merge_neighbours(places)]
    assert [min(group) for group in merge_neighbours(places[:end])] == [at for at in best if at < end]
