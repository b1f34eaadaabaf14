"""Rankings are fused, and neighbouring chunks become passages."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.search.ranking import MAX_MERGED, WINDOW, fuse, merge_neighbours

RANKING = st.lists(st.integers(0, 30), unique=True)
PLACES = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12)), unique=True)


def items(rankings: list[list[str]], *weights: float) -> list[str]:
    return [item for item, _ in fuse(rankings, weights=weights)]


def test_an_item_of_both_rankings_beats_an_item_of_one() -> None:
    """The third item of both rankings beats the first item of a single one."""
    assert items([["a", "b", "x"], ["c", "d", "x"]], 1, 1)[0] == "x"


def test_a_score_of_one_is_the_first_place_everywhere() -> None:
    assert fuse([["a", "b"], ["a"]], weights=[1, 2]) == [("a", 1.0), ("b", pytest.approx(61 / 62 / 3))]


def test_scores_follow_the_formula_of_the_paper() -> None:
    """The sum of 1 / (60 + rank) over the rankings, apart from a constant factor."""
    scores = dict(fuse([["a", "b"], ["b", "c"]], weights=[1, 1]))
    paper = {"a": 1 / 61, "b": 1 / 62 + 1 / 61, "c": 1 / 62}
    assert scores == pytest.approx({item: score * 61 / 2 for item, score in paper.items()})


def test_the_first_ranking_decides_ties() -> None:
    assert items([["b", "a"], ["a", "b"]], 1, 1) == ["b", "a"]
    assert items([["b"], ["a"]], 1, 1) == ["b", "a"]


def test_the_ranking_with_the_higher_weight_decides() -> None:
    assert items([["a", "b"], ["b", "a"]], 1, 2) == ["b", "a"]
    assert items([["a", "b"], ["b", "a"]], 2, 1) == ["a", "b"]


def test_a_ranking_without_weight_adds_nothing() -> None:
    assert fuse([["a", "b"], ["c", "b"]], weights=[1, 0]) == fuse([["a", "b"]], weights=[1])


def test_nothing_found_is_an_empty_ranking() -> None:
    assert fuse([[], []], weights=[1, 1]) == []
    assert fuse([], weights=[]) == []


@given(RANKING, RANKING)
def test_an_item_that_leads_in_every_ranking_leads_in_the_fusion(one: list[int], other: list[int]) -> None:
    """Each item occurs once, by falling scores. Scores are equal only for mirrored or equal places."""
    fused = fuse([one, other], weights=[1, 1])
    assert sorted(item for item, _ in fused) == sorted({*one, *other})
    scores = dict(fused)
    assert [scores[item] for item, _ in fused] == sorted(scores.values(), reverse=True)
    for before, after in pairwise(item for item in one if item in other):
        if other.index(before) < other.index(after):
            assert scores[before] > scores[after]


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
