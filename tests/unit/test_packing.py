"""Requests are filled in order, within their limits."""

from itertools import count, pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.packing import batches, fill


def test_a_request_closes_before_the_item_that_does_not_fit() -> None:
    assert fill([40, 40, 20, 1], token_limit=100, size_limit=10) == 3


def test_a_request_closes_at_the_number_of_inputs() -> None:
    assert fill([1] * 5, token_limit=100, size_limit=4) == 4


def test_no_inputs_fill_no_request() -> None:
    assert fill([], token_limit=100, size_limit=4) == 0


@given(tokens=st.lists(st.integers(1, 100)), token_limit=st.integers(100, 300), size_limit=st.integers(1, 20))
def test_requests_are_within_their_limits_and_keep_the_order(
    tokens: list[int], token_limit: int, size_limit: int
) -> None:
    """Two neighbouring requests never fit into one: the room left is smaller than the next item."""
    left, batches = tokens, []
    while left:
        size = fill(left, token_limit=token_limit, size_limit=size_limit)
        batches.append(left[:size])
        left = left[size:]
    assert [item for batch in batches for item in batch] == tokens
    assert all(batch and sum(batch) <= token_limit and len(batch) <= size_limit for batch in batches)
    for batch, following in pairwise(batches):
        assert len(batch) == size_limit or sum(batch) + following[0] > token_limit


@given(items=st.lists(st.integers(1, 50)), weight_limit=st.integers(1, 60), size_limit=st.integers(1, 5))
def test_batches_keep_the_order_and_only_a_single_item_exceeds_the_limit(
    items: list[int], weight_limit: int, size_limit: int
) -> None:
    made = list(batches(items, lambda item: item, weight_limit=weight_limit, size_limit=size_limit))
    assert [item for batch in made for item in batch] == items
    assert all(batch and len(batch) <= size_limit for batch in made)
    assert all(len(batch) == 1 or sum(batch) <= weight_limit for batch in made)
    for batch, following in pairwise(made):
        assert len(batch) == size_limit or sum(batch) + following[0] > weight_limit


def test_batches_are_yielded_as_they_fill() -> None:
    """An endless source is read only as far as the next batch needs."""
    assert next(batches(count(), lambda item: 1, weight_limit=10, size_limit=3)) == [0, 1, 2]
