"""Boosts make factors of dates and numbers in the metadata, and a wrong boost is named."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import InvalidQuery
from worker.search.boosting import LEAST_FACTOR, MOST_FACTOR, boosted, checked_boosts

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def factor(boost: dict[str, Any], metadata: dict[str, Any]) -> float:
    [made] = checked_boosts([boost], NOW)
    return made.factor(metadata)


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("2026-11-30T12:00:00Z", 1.0),
        ("2026-11-20T12:00:00+00:00", 0.5),
        ("2026-11-20T14:00:00+02:00", 0.5),
        ("2026-11-10T12:00:00", 0.25),
        ("2027-03-01", 1.0),
        ("20261120T120000", 0.5),
        ("0001-01-01", 0.0),
    ],
    ids=["now", "one half-life", "another zone", "no zone is UTC", "the future", "basic form", "very old"],
)
def test_a_score_halves_with_each_half_life(date: str, expected: float) -> None:
    boost = {"decay": "date", "half_life_days": 10}
    assert factor(boost, {"date": date}) == pytest.approx(expected, abs=1e-5)
    assert factor(boost | {"weight": 0.4}, {"date": date}) == pytest.approx(0.6 + 0.4 * expected, abs=1e-5)


def test_ages_count_from_the_time_that_the_boost_names() -> None:
    boost = {"decay": "date", "half_life_days": 10, "now": "2026-11-20"}
    assert factor(boost, {"date": "2026-11-10"}) == 0.5


@pytest.mark.parametrize(
    ("boost", "value", "expected"),
    [
        ({"factor": "votes"}, 3, 3.0),
        ({"factor": "votes", "power": 0.5}, 16, 4.0),
        ({"factor": "votes", "power": 0}, 16, 1.0),
        ({"factor": "votes"}, 0, LEAST_FACTOR),
        ({"factor": "votes"}, 10**400, MOST_FACTOR),
        ({"factor": "votes", "power": 10}, 10**9, MOST_FACTOR),
    ],
)
def test_a_number_is_a_factor_within_bounds(boost: dict[str, Any], value: float, expected: float) -> None:
    assert factor(boost, {"votes": value}) == expected


@pytest.mark.parametrize(
    "value", [None, "", "soon", "3", True, -1, [3], {"a": 1}, float("nan"), float("inf")]
)
def test_a_missing_or_unreadable_value_is_neutral(value: Any) -> None:
    for boost in ({"factor": "f"}, {"decay": "f", "half_life_days": 10}):
        assert factor(boost, {"f": value}) == factor(boost, {}) == 1.0


def test_a_field_may_be_inside_of_others() -> None:
    assert factor({"factor": "shop.votes"}, {"shop": {"votes": 2}}) == 2.0
    assert factor({"factor": "shop.votes"}, {"shop": 2}) == 1.0


@given(st.floats(-5, 5), st.lists(st.floats(LEAST_FACTOR, MOST_FACTOR), max_size=5), st.floats(1, 10))
def test_a_higher_factor_never_lowers_a_score(score: float, factors: list[float], more: float) -> None:
    """Also a negative one, as that of a distance."""
    assert boosted(score, [*factors, more]) >= boosted(score, factors)
    assert boosted(score, []) == score


@pytest.mark.parametrize(
    ("boosts", "message"),
    [
        ({"decay": "date"}, "boosts must be a list of objects, not an object"),
        ([{"factor": "a"}] * 6, "boosts has 6 boosts: send at most 5"),
        (["date"], r'boosts\[0\] must be an object with either "decay"'),
        ([{"field": "date"}], r'boosts\[0\] must be an object with either "decay"'),
        ([{"decay": "a", "factor": "b"}], r'boosts\[0\] must be an object with either "decay"'),
        ([{"factor": "a"}, {"factor": 3}], r"factor of boosts\[1\] must be the path of a metadata field, not 3"),
        ([{"decay": "a"}], r"half_life_days of boosts\[0\] is missing"),
        ([{"decay": "a", "half_life_days": 0}], r"half_life_days of boosts\[0\] is 0: set it to a number above 0"),
        ([{"decay": "a", "half_life_days": "7"}], r"half_life_days of boosts\[0\] must be a number from 0"),
        ([{"decay": "a", "half_life_days": 7, "weight": 2}], r"weight of boosts\[0\] must be a number from 0 to 1"),
        ([{"decay": "a", "half_life_days": 7, "now": "today"}], r"now of boosts\[0\] must be a date such as"),
        ([{"decay": "a", "half_life": 7}], r"the unknown key 'half_life': a decay has decay, half_life_days"),
        ([{"factor": "a", "power": -1}], r"power of boosts\[0\] must be a number from 0 to 10, not -1"),
    ],
)  # fmt: skip
def test_a_wrong_boost_is_named_with_the_fix(boosts: Any, message: str) -> None:
    with pytest.raises(InvalidQuery, match=message):
        checked_boosts(boosts, NOW)
