"""Vectors of an answer belong to the text that their number names, or to none."""

from typing import Any

import pytest

from worker.models.openai_embeddings import in_order


@pytest.mark.parametrize(
    ("numbers", "texts", "order"),
    [
        ([0, 1, 2], 3, [0, 1, 2]),
        ([2, 0, 1], 3, [1, 2, 0]),
        ([1, 2, 3], 3, [0, 1, 2]),
        ([3, 1, 2], 3, [1, 2, 0]),
        ([None, None, None], 3, [0, 1, 2]),
        ([0, 0, 0], 3, [0, 1, 2]),
        ([None, 1, 2], 3, [0, 1, 2]),
        ([1, None, 2], 3, [1, 0, 2]),
        ([0, 2], 3, [0, None, 1]),
        ([0, 0, 2], 3, [None, None, 2]),
        ([0, 1, 1, 2], 3, [0, None, 3]),
        ([None, None], 3, [None, None, None]),
        ([0, 1, 9], 3, [None, None, None]),
        ([0, 1, "2"], 3, [None, None, None]),
        ([0], 2, [0, None]),
        ([7], 1, [0]),
        ([0, 1], 1, [None]),
    ],
)
def test_an_item_belongs_to_the_text_of_its_number(
    numbers: list[Any], texts: int, order: list[int | None]
) -> None:
    data = [{"index": number, "at": at} for at, number in enumerate(numbers)]
    assert [item and item["at"] for item in in_order(data, texts)] == order
    without = [{name: value for name, value in item.items() if value is not None} for item in data]
    assert [item and item["at"] for item in in_order(without, texts)] == order
