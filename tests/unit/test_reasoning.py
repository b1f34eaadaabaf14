"""What a model thinks is kept apart from what it answers, however its text is cut into pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.chat.reasoning import Separator, separate

ANSWER = "A book may be kept for four weeks [1]."

SEPARATED = [
    (f"<think>\nfees [2]\n</think>\n\n{ANSWER}", "fees [2]", ANSWER),
    (f"\n<think>fees</think>{ANSWER}", "fees", ANSWER),
    (f"<thinking>fees</thinking>\n{ANSWER}", "fees", ANSWER),
    (f"<antThinking>fees</antThinking>\n{ANSWER}", "fees", ANSWER),
    (f"<scratchpad>\nfees\n</scratchpad>\n{ANSWER}", "fees", ANSWER),
    (f"<|begin_of_thought|>fees<|end_of_thought|>\n{ANSWER}", "fees", ANSWER),
    (f"<|thinking|>fees<|/thinking|>\n{ANSWER}", "fees", ANSWER),
    (f"<THINK>fees</THINK>\n{ANSWER}", "fees", ANSWER),
    (f"<reasoning>fees</reasoning>\n{ANSWER}", "fees", ANSWER),
    (f'<thinking effort="low">fees</thinking>\n{ANSWER}', "fees", ANSWER),
    (f"<thought>fees</thought>\n{ANSWER}", "fees", ANSWER),
    (f"<thinking>fees</think>\n{ANSWER}", "fees", ANSWER),
    (f"<seed:think>fees</seed:think>{ANSWER}", "fees", ANSWER),
    (f"[THINK]fees[/THINK]{ANSWER}", "fees", ANSWER),
    (f"◁think▷fees◁/think▷{ANSWER}", "fees", ANSWER),
    (f"<|START_THINKING|>fees<|END_THINKING|>{ANSWER}", "fees", ANSWER),
    (
        f"<|channel|>analysis<|message|>fees<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
        "fees",
        ANSWER,
    ),
    # empty, without an end, several, within a line
    (f"<think>\n\n</think>\n\n{ANSWER}", "", ANSWER),
    ("<think>\nfees [2], and then", "fees [2], and then", ""),
    (f"<think>one</think>\n{ANSWER}\n<think>two</think>\nYes.", "onetwo", f"{ANSWER}\nYes."),
    (f"Well, <think>fees</think> {ANSWER}", "fees", f"Well, {ANSWER}"),
    # opened in the prompt
    (f"fees [2]\n</think>\n\n{ANSWER}", "fees [2]", ANSWER),
    (f"fees [2]</think>{ANSWER}", "fees [2]", ANSWER),
    (f"</think>\n{ANSWER}", "", ANSWER),
    # text
    (ANSWER, "", ANSWER),
    ("R1 writes `<think>` and `</think>` [1].", "", "R1 writes `<think>` and `</think>` [1]."),
    ("Send:\n```\n<think>\nhm\n</think>\n```\nas is.", "", "Send:\n```\n<think>\nhm\n</think>\n```\nas is."),
    ("Send:\n\n    <think>hm</think>\n\nas is.", "", "Send:\n\n    <think>hm</think>\n\nas is."),
    ("The tag <think> begins it.", "", "The tag <think> begins it."),
    ("if a < b [1] or <thinker> or <thesis>", "", "if a < b [1] or <thinker> or <thesis>"),
]


@pytest.mark.parametrize(("text", "reasoning", "answer"), SEPARATED)
def test_a_text_is_separated(text: str, reasoning: str, answer: str) -> None:
    found = separate(text)
    assert (found.reasoning.strip(), found.answer) == (reasoning, answer)


def streamed(pieces: list[str], *, opened: bool = False) -> tuple[str, str]:
    """The reasoning and the answer that the reader of a stream ends with."""
    shown = {"answer": "", "reasoning": ""}
    separator = Separator(opened=opened)
    for at, piece in enumerate(pieces):
        for kind, text in separator.feed(piece, final=at == len(pieces) - 1):
            if kind == "again":
                shown = {"answer": "", "reasoning": ""}
            else:
                shown[kind] += text
    return shown["reasoning"], shown["answer"]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.sampled_from([text for text, _, _ in SEPARATED]),
        st.lists(
            st.sampled_from(["<think>", "</think>", "`", "```\n", "\n", " a", "<", "[1]", "[THINK]"])
        ).map("".join),
    ),
    cuts=st.lists(st.integers(0, 60), max_size=40),
    opened=st.booleans(),
)
def test_a_stream_shows_what_the_whole_text_has(text: str, cuts: list[int], opened: bool) -> None:
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[start:end] for start, end in zip(ends, [*ends[1:], len(text)], strict=True)]
    whole = separate(text, opened=opened)
    assert streamed(pieces, opened=opened) == (whole.reasoning, whole.answer)


def test_an_answer_arrives_as_it_is_said() -> None:
    """Only the beginning of a mark is held back."""
    separator = Separator()
    assert [list(separator.feed(piece)) for piece in ("A book", " is <th", "ick> [1", "].")] == [
        [("answer", "A book")],
        [("answer", " is ")],
        [("answer", "<thick> [1")],
        [("answer", "].")],
    ]


def test_a_model_whose_tag_is_opened_in_the_prompt_is_known_from_its_first_answer_on() -> None:
    text = f"fees</think>{ANSWER}"
    assert separate(text).closed_unopened
    assert not separate(ANSWER).closed_unopened
    assert [kind for kind, _ in Separator(opened=True).feed(text, final=True)] == ["reasoning", "answer"]


@pytest.mark.parametrize("text", [ANSWER, f"<think>fees</think>{ANSWER}"])
def test_an_answer_without_reasoning_is_the_answer_also_where_reasoning_was_expected(text: str) -> None:
    assert separate(text, opened=True).answer == ANSWER
