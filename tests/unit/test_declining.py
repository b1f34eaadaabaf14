"""An answer that declines is known in any language, by the mark of the prompt or by its words."""

import time
import tomllib
from pathlib import Path

import pytest

from worker.chat.declining import declines, unmarked

EXAMPLES = tomllib.loads(
    (Path(__file__).parents[1] / "fixtures" / "answers.toml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("answer", EXAMPLES["declined"])
def test_an_answer_that_declines_in_its_own_words_is_known(answer: str) -> None:
    assert declines(answer, cites=False)


@pytest.mark.parametrize("answer", EXAMPLES["answered"])
def test_an_answer_is_not_taken_for_one_that_declines(answer: str) -> None:
    assert not declines(answer, cites=False)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("[0] Das steht nicht da.", "Das steht nicht da."),
        ("[0]: Ez nincs benne [1].", "Ez nincs benne [1]."),
        ("**[0]** No.", "No."),
        ("\n[0]\nNo.", "No."),
    ],
)
def test_the_mark_declines_in_any_words_and_is_not_shown(answer: str, shown: str) -> None:
    assert declines(answer, cites=True)
    assert unmarked(answer) == shown


def test_an_answer_with_a_citation_does_not_decline() -> None:
    text = "October [1]. The rest cannot be answered from these documents."
    assert not declines(text, cites=True)
    assert unmarked(text) == text


def test_no_text_takes_long() -> None:
    began = time.process_time()
    declines("the documents " * 20_000, cites=False)
    assert time.process_time() - began < 2
