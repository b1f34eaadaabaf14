"""`eval` compares two runs question by question, and fails below the bounds that it is given."""

import json
from pathlib import Path

import pytest

from worker.cli.bounds import broken, parse
from worker.cli.comparing import Run, compare, read_run
from worker.cli.comparison import Baseline
from worker.cli.judging import JudgedQuestion, Scores
from worker.errors import InvalidQuery


def run(*values: float) -> Run:
    return [(f"question {at}", {"mrr@10": value}) for at, value in enumerate(values)]


def scores(*ranks: int | None) -> Scores:
    """The scores of questions whose only document is found at these ranks, or not at all."""
    found = Scores(limit=10)
    for at, rank in enumerate(ranks):
        ids = ["x"] * 10 if rank is None else [*("x" for _ in range(rank - 1)), "a"]
        rows = [{"document_id": id, "similarity": None} for id in ids]
        found.add(JudgedQuestion(text=f"question {at}", grades={"a": 1.0}), rows, 0.001)
    return found


def test_a_gain_in_nearly_every_question_is_no_chance() -> None:
    questions, found = compare(run(*[0.5] * 40), run(*[1.0] * 38, 0.5, 0.0))
    difference = found["mrr@10"]
    assert questions == 40
    assert (difference.before, difference.after) == (0.5, pytest.approx(0.9625))
    assert 0 < difference.low < 0.4625 < difference.high <= 0.5
    assert difference.verdict == "better"
    assert compare(run(*[1.0] * 38, 0.5, 0.0), run(*[0.5] * 40))[1]["mrr@10"].verdict == "worse"


def test_a_gain_in_one_question_of_many_may_be_chance() -> None:
    before, after = run(*[1.0, 0.0] * 10), run(*[1.0, 0.0] * 9, 1.0, 1.0)
    difference = compare(before, after)[1]["mrr@10"]
    assert difference.low == 0 < difference.high
    assert difference.verdict == "may be chance"
    assert compare(before, before)[1]["mrr@10"].verdict == "equal"


def test_interval_is_that_of_the_normal_distribution_for_many_questions() -> None:
    """Half of 400 questions gain 1: the mean is 0.5, and its standard error 0.5 / sqrt(400)."""
    difference = compare(run(*[0.0] * 400), run(*[1.0, 0.0] * 200))[1]["mrr@10"]
    assert (difference.low, difference.high) == (
        pytest.approx(0.451, abs=0.004),
        pytest.approx(0.549, abs=0.004),
    )
    assert difference == compare(run(*[0.0] * 400), run(*[1.0, 0.0] * 200))[1]["mrr@10"]


def test_only_questions_and_figures_of_both_runs_are_compared() -> None:
    before = [("a", {"mrr@5": 0.0, "hit@1": 0.0}), ("b", {"mrr@5": 0.0, "hit@1": 1.0})]
    after = [("b", {"mrr@10": 1.0, "hit@1": 1.0}), ("c", {"mrr@10": 1.0, "hit@1": 0.0})]
    questions, found = compare(before, after)
    assert (questions, list(found)) == (1, ["hit@1"])
    assert compare(before, after[1:]) == (0, {})


def test_an_earlier_run_is_read_from_its_json(tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    path.write_text(json.dumps({"modes": {"text": scores(1, 2, None).as_json()}}))
    assert [figures["mrr@10"] for _, figures in read_run(path)["text"]] == [1.0, 0.5, 0.0]
    comparison = Baseline.read(str(path), ["text", "vector"]).compare({"text": scores(1, 1, 1)})
    assert comparison.questions == 3
    assert comparison.modes["text"]["hit@1"].after == 1.0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"modes": 1}', '{"modes": {"text": {"questions": [1]}}}', "\xff"]
)
def test_a_file_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidQuery, match="is no result of `vector-index eval --json`"):
        read_run(path)


def test_a_missing_file_and_other_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidQuery, match="cannot be read"):
        read_run(tmp_path / "missing.json")
    other = Baseline(against="x.json", runs={"text": [("other", {"hit@1": 1.0})]})
    with pytest.raises(InvalidQuery, match="has no mode, figure and question of this run"):
        other.compare({"text": scores(1)})


def test_modes_of_one_run_are_compared() -> None:
    found = {"text": scores(1, 1), "vector": scores(1, 2)}
    compared = Baseline.read("text", list(found)).compare(found).modes
    assert list(compared) == ["vector"]
    assert compared["vector"]["hit@1"].as_json()["difference"] == -0.5
    with pytest.raises(InvalidQuery, match="measure it and another one, as in --mode text --mode hybrid"):
        Baseline.read("text", ["text"])


def test_a_figure_below_its_bound_is_named() -> None:
    found = {"text": scores(1, 1), "vector": scores(1, None)}
    for bounds, sentences in {
        ("hit@1=0.9",): ["vector: hit@1 is 0.5, below 0.9"],
        ("text:hit@1=1", "hit@10=.5"): [],
        ("hit@1=1", "vector:mrr@10=0.6"): [
            "vector: hit@1 is 0.5, below 1",
            "vector: mrr@10 is 0.5, below 0.6",
        ],
    }.items():
        assert list(broken(parse(bounds, modes=list(found), limit=10), found)) == sentences


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("hit@1", "write FIGURE=VALUE"),
        ("hit@1=2", "with a value from 0 to 1"),
        ("hit@7=0.5", "choose hit@1, hit@5, hit@10, mrr@10, ndcg@10, or another --limit"),
        ("hybrid:hit@1=0.5", "which is not measured: add --mode hybrid"),
    ],
)
def test_a_wrong_bound_is_refused_before_any_search(value: str, reason: str) -> None:
    with pytest.raises(InvalidQuery, match=reason):
        parse([value], modes=["text"], limit=10)


def test_a_bound_needs_a_question_with_an_answer() -> None:
    with pytest.raises(InvalidQuery, match="no question has an answer"):
        list(broken(parse(["hit@1=0.5"], modes=["text"], limit=10), {"text": Scores(limit=10)}))
