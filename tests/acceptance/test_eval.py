"""`eval` searches as an application does, and its measures follow the literature."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import STAGING, System
from worker.cli import run
from worker.cli.answer_scores import AnswerScores
from worker.cli.judging import JudgedQuestion, Scores, ndcg, read, reciprocal_rank
from worker.cli.thresholds import suggest
from worker.errors import InvalidQuery

DOCUMENTS = [
    {"id": "birds", "text": "The nightingale is a small bird that sings at night.", "metadata": {"kind": 1}},
    {"id": "ships", "text": "The harbour closes to large ships when the wind is strong.", "metadata": {"kind": 1}},
    {"id": "bread", "text": "Bread rises because yeast makes gas out of sugar.", "metadata": {"kind": 2}},
    {"id": 42, "text": "The mountain hut has beds for twenty hikers.", "metadata": {"kind": 2}},
]  # fmt: skip
QUESTIONS = [
    {"question": "Which bird sings at night?", "documents": ["birds"]},
    {"question": "When does the harbour close to ships?", "documents": {"ships": 2, "birds": 0}},
    {"question": "How many hikers have a bed in the hut?", "documents": [42]},
    {"id": "n1", "question": "What is the price of tea in China?", "doc": None, "answer": "", "evidence": ""},
]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lines(tmp_path_factory.mktemp("questions"), QUESTIONS)


def lines(folder: Path, values: Sequence[object]) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return path


def scores(system: System, *arguments: str) -> dict[str, Any]:
    done = system.command("eval", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_an_index_that_has_all_answers_scores_1(system: System, index: str, questions: Path) -> None:
    """A question without an answer is counted separately: the means exclude it, and its similarity is reported."""
    system.call("tasks.index_documents", STAGING, documents=DOCUMENTS, index=index)
    found = scores(system, str(questions), "--mode", "vector", "--index", index)
    assert (found["questions"], found["unanswerable"], found["absent"]) == (4, 1, [])
    figures = found["modes"]["vector"]
    assert [figures[name] for name in ("hit@1", "hit@5", "hit@10", "mrr@10", "ndcg@10")] == [1.0] * 5
    assert 0 < figures["p50_ms"] <= figures["p95_ms"]
    assert figures["missed"] == []
    assert figures["similarity_unanswerable"][2] < figures["similarity"][1]


@pytest.mark.slow
def test_missed_questions_and_absent_documents_are_listed(
    system: System, index: str, questions: Path
) -> None:
    """Given a filter that hides one answer, and an expected document that is not indexed."""
    system.call("tasks.index_documents", STAGING, documents=DOCUMENTS[:3], index=index)
    chosen = ("--filter", '{"kind": 1}', "--mode", "vector", "--index", index, "--limit", "3")
    found = scores(system, str(questions), *chosen)
    assert found["absent"] == ["42"]
    assert found["modes"]["vector"]["missed"] == [QUESTIONS[2]["question"]]
    assert found["modes"]["vector"]["hit@3"] == pytest.approx(2 / 3, abs=1e-4)

    done = system.command("eval", str(questions), *chosen)
    assert done.returncode == 0
    assert f"missed by vector: {QUESTIONS[2]['question']}\n" in done.stdout
    assert done.stdout.endswith("expected document is not searchable: 42\n")


@pytest.mark.slow
def test_a_run_is_compared_with_an_earlier_one_and_fails_below_a_bound(
    system: System, index: str, questions: Path, tmp_path: Path
) -> None:
    """Given a later run whose filter hides one of three answers."""
    system.call("tasks.index_documents", STAGING, documents=DOCUMENTS, index=index)
    chosen = (str(questions), "--mode", "vector", "--index", index)
    before = tmp_path / "before.json"
    before.write_text(json.dumps(scores(system, *chosen)))
    worse = (*chosen, "--filter", '{"kind": 1}', "--against", str(before), "--fail-below", "ndcg@10=0.9")

    done = system.command("eval", *worse, "--json")
    assert (done.returncode, done.stderr) == (1, "vector: ndcg@10 is 0.6667, below 0.9\n")
    figures = json.loads(done.stdout)["against"]["modes"]["vector"]["hit@1"]
    assert (figures["before"], figures["after"], figures["verdict"]) == (1.0, 0.6667, "may be chance")

    done = system.command("eval", *worse)
    assert f"compared with {before}, 3 questions in both, 95% intervals\n" in done.stdout
    assert "-0.333" in done.stdout


@pytest.mark.slow
def test_answers_are_counted_and_a_threshold_is_suggested(
    system: System, index: str, questions: Path
) -> None:
    system.call("tasks.index_documents", STAGING, documents=DOCUMENTS, index=index)
    chosen = (str(questions), "--mode", "vector", "--index", index, "--answers", "--suggest-threshold")
    found = scores(system, *chosen)
    assert found["answers"]["answerable"] == {"right": 3, "elsewhere": 0, "declined": 0}
    assert found["answers"]["unanswerable"] == {"declined": 1, "answered": 0}
    best = found["threshold"]["best"]
    assert (best["kept"], best["left_out"]) == (3, 1)

    done = system.command("eval", *chosen)
    assert "answers to 3 questions with an answer: 3 cite a right document, 0 only others" in done.stdout
    assert f"similarity_threshold {best['threshold']:.3f} separates best; with fewer than 30" in done.stdout


def judged(documents: Sequence[str]) -> JudgedQuestion:
    return JudgedQuestion(text="Why?", grades=dict.fromkeys(documents, 1.0))


def answered(reason: str | None, cited: str = "", grounded: bool | None = True) -> dict[str, Any]:
    sources = [{"document_id": id, "cited": id == cited} for id in ("a", "b")]
    held = 1.0 if reason is None else None
    return {
        "answered": reason is None,
        "reason": reason,
        "sources": sources,
        "grounded": grounded,
        "groundedness": held,
    }


def test_answers_are_told_apart_by_what_they_cite() -> None:
    found = AnswerScores()
    found.add(judged(["a"]), answered(None, "a"))
    found.add(judged(["a"]), answered(None, "b"))
    found.add(judged(["a"]), answered(None, grounded=False))
    found.add(judged(["b"]), answered(None, grounded=None))  # without citations, each source counts
    found.add(judged(["a"]), answered("declined"))
    found.add(judged([]), answered("unknown_words"))
    found.add(judged([]), answered(None, "a"))
    assert found.as_json() == {
        "answerable": {"right": 2, "elsewhere": 2, "declined": 1},
        "unanswerable": {"declined": 1, "answered": 1},
        "reasons": {"declined": 1, "unknown_words": 1},
        "ungrounded": 1,
        "groundedness": 1.0,
        "wrongly_answered": ["Why?"],
    }


def measured(similar: Sequence[float], unlike: Sequence[float]) -> dict[str, Scores]:
    return {"vector": Scores(limit=5, similarities=list(similar), unanswerable=list(unlike))}


def test_a_suggested_threshold_separates_the_questions_best() -> None:
    found = suggest(measured([0.5, 0.6, 0.7, 0.8], [0.1, 0.2, 0.55]))
    assert (found.best.value, found.best.kept, found.best.left_out) == (0.575, 3, 3)
    assert (found.keeping.value, found.keeping.kept, found.keeping.left_out) == (0.35, 4, 2)
    assert found.strict == found.best
    assert "it may be chance" in found.heading


def test_a_threshold_needs_both_kinds_of_questions() -> None:
    with pytest.raises(InvalidQuery, match=r"there are 1 and 0 with a similarity: add lines"):
        suggest(measured([0.5], []))
    with pytest.raises(InvalidQuery, match="measure --mode vector"):
        suggest({"text": Scores(limit=5)})


@pytest.mark.slow
def test_questions_about_documents_of_another_index_are_rejected(
    system: System, index: str, questions: Path
) -> None:
    done = system.command("eval", str(questions), "--index", index)
    assert done.returncode == 2
    assert f"{index} has none of the documents that {questions} names, such as '42'" in done.stderr


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes)"),
        ("[]", "not an object"),
        ('{"documents": ["a"]}', "question must be a string with at least one word"),
        ('{"question": "x"}', "documents is missing; write [] if no document answers the question"),
        ('{"question": "x", "documents": [1.5]}', "id must be a string or an integer, not of type float"),
        ('{"question": "x", "documents": {"a": -1}}', "the grade of 'a' must be a number"),
        ('{"question": "x", "documents": {"a": true}}', "the grade of 'a' must be a number"),
        ('{"question": "x", "documents": {"": 1}}', "id is missing"),
    ],
)
def test_a_wrong_line_is_reported_with_its_number(
    line: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f'{{"question": "x", "documents": ["a"]}}\n\n{line}\n')
    assert run(["eval", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"vector-index: {path}, line 3: {reason}")
    assert printed.err.count("\n") == 1


def test_a_file_without_questions_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", str(lines(tmp_path, []))]) == 2
    assert "has no questions: write one JSON object per line" in capsys.readouterr().err


def test_documents_of_a_question_have_three_forms(tmp_path: Path) -> None:
    """Ids, grades by id, or one id as "doc". An integer id becomes a string; a grade of 0 counts as not relevant."""
    forms = [
        {"question": "x", "documents": ["a", 7]},
        {"question": "x", "documents": {"a": 3, "b": 0, "c": 0.5}},
        {"question": "x", "doc": "a", "answer": "y"},
        {"question": "x", "doc": None},
        {"question": "x", "documents": []},
    ]
    grades = [question.grades for question in read(lines(tmp_path, forms))]
    assert grades == [{"a": 1, "7": 1}, {"a": 3, "c": 0.5}, {"a": 1}, {}, {}]


def test_reciprocal_rank_counts_the_first_document_with_a_grade() -> None:
    assert reciprocal_rank([0, 0, 1, 3]) == pytest.approx(1 / 3)
    assert reciprocal_rank([0, 0]) == 0.0


def test_ndcg_matches_the_textbook() -> None:
    """The example in https://en.wikipedia.org/wiki/Discounted_cumulative_gain: grades 3, 2, 3, 0, 1, 2 as found,
    and two more documents of 3 and 2: 0.785 among the first six."""
    found = [3, 2, 3, 0, 1, 2]
    assert ndcg(found, [3, 3, 3, 2, 2, 2, 1, 0], 6) == pytest.approx(0.785, abs=5e-4)
    assert ndcg(sorted(found, reverse=True), found, 6) == 1.0
    assert ndcg([0, 1], [1], 1) == 0.0
    assert ndcg([0, 1], [1], 2) == pytest.approx(1 / math.log2(3))


def test_means_exclude_questions_without_an_answer() -> None:
    """Given answers at ranks 1 and 3, and a question without an answer."""
    found = Scores(limit=3)
    for grades, ids in (({"a": 1.0}, "abc"), ({"a": 1.0}, "bca"), ({}, "abc")):
        rows = [{"document_id": id, "similarity": None} for id in ids]
        found.add(JudgedQuestion(text="x", grades=grades), rows, 0.002)
    expected = {"hit@1": 0.5, "hit@3": 1.0, "mrr@3": 0.6667, "ndcg@3": 0.75, "p50_ms": 2.0, "p95_ms": 2.0}
    assert found.figures() == expected
    assert found.as_json()["similarity"] is None
