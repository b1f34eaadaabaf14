"""Citations of passages that were not sent are removed, and groundedness tells held sentences from others."""

import pytest

from worker.chat.citations import cited, without_unsent
from worker.chat.groundedness import groundedness


@pytest.mark.parametrize(
    ("answer", "left", "removed"),
    [
        ("Owls hunt [7].", "Owls hunt.", 1),
        ("Owls hunt[7]. They eat [2].", "Owls hunt. They eat [2].", 1),
        ("Owls hunt [1, 9].", "Owls hunt [1].", 1),
        ("Owls hunt [1][7][2].", "Owls hunt [1][2].", 1),
        ("Owls hunt [2-3] by night [2-9].", "Owls hunt [2-3] by night.", 1),
        ("Owls hunt [1]–[9].", "Owls hunt.", 1),
        ("Owls hunt 【7†source】.", "Owls hunt.", 1),
        ("Owls hunt [^8], [Passage 9].", "Owls hunt,.", 2),
        ("Owls hunt (Source 7).", "Owls hunt.", 1),
        ("Owls hunt [[8]](https://a.b/c).", "Owls hunt.", 1),
        ("Owls hunt <cite>8</cite>.", "Owls hunt.", 1),
        ("Owls hunt.<sup>8</sup>", "Owls hunt.", 1),
        ("Совы охотятся ［7］.", "Совы охотятся.", 1),
        ("Read `x[7]` [2].", "Read `x[7]` [2].", 0),
        ("10 m<sup>2</sup> in [2024] at [12:30] for [1,000] of [a-z0-9] and [0-9] (8).",) * 2 + (0,),
        ("No [0].", "No.", 0),
    ],
)
def test_numbers_that_were_not_sent_are_removed(answer: str, left: str, removed: int) -> None:
    assert without_unsent(answer, 3) == (left, removed)
    assert cited(left, 3) == cited(answer, 3)


def test_without_citations_no_number_of_a_passage_is_left() -> None:
    assert without_unsent("Owls hunt [1], and eat [2, 3] 【1†source】.", 0)[0] == "Owls hunt, and eat."


PASSAGES = [
    "Owls are hunting at night, and rest for 12 hours.",
    "本は四週間借りられます。",
    "Книга выдаётся на четыре недели.",
]


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("Owls hunt at night [1].", 1.0),
        ("Owls hunt at night [1]. Zebras graze on wide plains.", 0.5),
        ("They rest for 14 hours [1].", 0.0),
        ("They rest for 12 hours [1].", 1.0),
        ("本は四週間借りられます。図書館は月曜日に休みです。", 0.5),
        ("Книгу выдают на четыре недели.", 1.0),
        ("Quoted from the documents: “Owls are hunting at night” [1]", 1.0),
        ("Yes.", None),
    ],
)
def test_groundedness_is_the_share_of_sentences_whose_words_occur(answer: str, share: float | None) -> None:
    assert groundedness(answer, PASSAGES) == share
