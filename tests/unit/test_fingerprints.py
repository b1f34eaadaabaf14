"""The fingerprint of a message tells whether it repeats an earlier one."""

from typing import Any

import pytest

from worker.indexing.fingerprints import fingerprint

DOCUMENT: dict[str, Any] = {"id": 1, "text": "Words – and more.", "metadata": {"b": [1], "a": None}}


def test_the_order_of_keys_makes_no_difference() -> None:
    other = {"metadata": {"a": None, "b": [1]}, "text": DOCUMENT["text"], "id": 1}
    assert fingerprint("index", [other]) == fingerprint("index", [DOCUMENT])


@pytest.mark.parametrize(
    "messages",
    [
        [{**DOCUMENT, "text": "Words – and less."}],
        [{**DOCUMENT, "text": None}],
        [{**DOCUMENT, "text": len(DOCUMENT["text"])}],
        [{**DOCUMENT, "id": "1"}],
        [{**DOCUMENT, "metadata": {"b": [1]}}],
        [DOCUMENT, DOCUMENT],
        [],
    ],
)
def test_any_other_value_makes_a_difference(messages: list[Any]) -> None:
    assert fingerprint("index", messages) != fingerprint("index", [DOCUMENT])


def test_a_text_does_not_run_into_the_next_one() -> None:
    pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc")]
    messages = [[{"text": first}, {"text": second}] for first, second in pairs]
    assert len({fingerprint("index", message) for message in messages}) == len(pairs)


def test_whatever_a_message_holds_has_a_fingerprint() -> None:
    odd: list[Any] = [{"text": "a lone \ud800"}, {"text": ["list"]}, "string", None, {"metadata": {1, 2}}]
    assert len({fingerprint("index", [value]) for value in odd}) == len(odd)
