"""An explanation is one line that a person can add up."""

from typing import Any

from worker.cli.explanations import explained

EXPLAIN: dict[str, Any] = {
    "chunk": 0,
    "by_vector": 0.5,
    "by_words": 0.3,
    "words": [{"word": "owl", "share": 0.3}, {"word": "oak", "share": 0.0}],
    "weights": [2.0, 1.0],
    "fused": 0.4333,
    "boosts": [{"field": "date", "value": "2026-11-30", "factor": 0.5}],
    "boosted": 0.2167,
    "searched": 0.2,
}


def test_each_step_of_a_score_is_shown() -> None:
    row = {"score": 0.9, "explain": EXPLAIN, "rerank": {"model": "m", "score": 0.9}}
    assert explained(row) == (
        "vector 0.5000 x 2, words 0.3000 x 1 (owl 0.3000), mean 0.4333, date '2026-11-30' x 0.5000, "
        "lowered to 0.2000 behind better rows, reranked 0.9000"
    )


def test_a_mode_without_a_half_shows_the_other_alone() -> None:
    by_vector = EXPLAIN | {"by_words": None, "weights": None, "boosts": [], "searched": 0.2167}
    assert explained({"score": 0.5, "explain": by_vector}) == "vector 0.5000"
    by_words = EXPLAIN | {"by_vector": None, "words": [], "weights": None, "boosts": [], "searched": 0.2167}
    assert explained({"score": 0.3, "explain": by_words}) == "words 0.3000 (none)"
