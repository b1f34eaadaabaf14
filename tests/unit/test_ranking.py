"""Scores are fused, and neighbouring chunks become passages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.search.ranking import MAX_MERGED, WINDOW, fused_score, merge_neighbours

PLACES = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12)), unique=True)


def test_the_score_is_the_weighted_mean_of_both_halves() -> None:
    assert fused_score(0.5, 1.0, weights=(1, 1)) == 0.75
    assert fused_score(0.5, 1.0, weights=(3, 1)) == 0.625
    assert fused_score(0.5, 1.0, weights=(1, 0)) == 0.5
    assert fused_score(0.5, 1.0, weights=(0, 7)) == 1.0


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
