"""`eval` asks as an application does, and its figures are those of the literature."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import STAGING, System
from worker.cli import run
from worker.cli.eval import Question, Scores, ndcg, read, reciprocal_rank

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


def test_an_index_that_holds_the_answers_has_full_marks(system: System, index: str, questions: Path) -> None:
    """And a question without an answer is counted apart: it spoils no mean, and its similarity is told."""
    system.call("tasks.index_documents", STAGING, documents=DOCUMENTS, index=index)
    found = scores(system, str(questions), "--mode", "vector", "--index", index)
    assert (found["questions"], found["unanswerable"], found["absent"]) == (4, 1, [])
    figures = found["modes"]["vector"]
    assert [figures[name] for name in ("hit@1", "hit@5", "hit@10", "mrr@10", "ndcg@10")] == [1.0] * 5
    assert 0 < figures["p50_ms"] <= figures["p95_ms"]
    assert figures["missed"] == []
    assert figures["similarity_unanswerable"][2] < figures["similarity"][1]


def test_what_is_not_found_is_named(system: System, index: str, questions: Path) -> None:
    """Given a filter that hides one answer, and a document that is not indexed, both are told."""
    system.call("tasks.index_documents", STAGING, documents=DOCUMENTS[:3], index=index)
    chosen = ("--filter", '{"kind": 1}', "--mode", "vector", "--index", index, "--limit", "3")
    found = scores(system, str(questions), *chosen)
    assert found["absent"] == ["42"]
    assert found["modes"]["vector"]["missed"] == [QUESTIONS[2]["question"]]
    assert found["modes"]["vector"]["hit@3"] == pytest.approx(2 / 3, abs=1e-4)

    done = system.command("eval", str(questions), *chosen)
    assert done.returncode == 0
    assert f"missed by vector: {QUESTIONS[2]['question']}\n" in done.stdout
    assert done.stdout.endswith("not searchable, though named as an answer: 42\n")


def test_questions_for_another_index_are_refused(system: System, index: str, questions: Path) -> None:
    done = system.command("eval", str(questions), "--index", index)
    assert done.returncode == 2
    assert f"{index} has none of the documents that {questions} names, such as '42'" in done.stderr


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes)"),
        ("[]", "not an object"),
        ('{"documents": ["a"]}', "question must be a string with at least one word"),
        ('{"question": "x"}', "documents is missing; [] says that no document answers the question"),
        ('{"question": "x", "documents": [1.5]}', "id must be a string or an integer, not of type float"),
        ('{"question": "x", "documents": {"a": -1}}', "the grade of 'a' must be a number"),
        ('{"question": "x", "documents": {"a": true}}', "the grade of 'a' must be a number"),
        ('{"question": "x", "documents": {"": 1}}', "id is missing"),
    ],
)
def test_a_bad_line_is_told_by_its_number(
    line: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f'{{"question": "x", "documents": ["a"]}}\n\n{line}\n')
    assert run(["eval", str(path)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"vector-index: {path}, line 3: {reason}")
    assert told.err.count("\n") == 1


def test_a_file_without_questions_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", str(lines(tmp_path, []))]) == 2
    assert "has no questions: write one JSON object per line" in capsys.readouterr().err


def test_judgements_have_three_forms(tmp_path: Path) -> None:
    """Ids, grades by id, or one id as "doc": an integer is its decimal string, a grade of 0 is none."""
    forms = [
        {"question": "x", "documents": ["a", 7]},
        {"question": "x", "documents": {"a": 3, "b": 0, "c": 0.5}},
        {"question": "x", "doc": "a", "answer": "y"},
        {"question": "x", "doc": None},
        {"question": "x", "documents": []},
    ]
    grades = [question.grades for question in read(lines(tmp_path, forms))]
    assert grades == [{"a": 1, "7": 1}, {"a": 3, "c": 0.5}, {"a": 1}, {}, {}]


def test_reciprocal_rank_is_of_the_first_document_with_a_grade() -> None:
    assert reciprocal_rank([0, 0, 1, 3]) == pytest.approx(1 / 3)
    assert reciprocal_rank([0, 0]) == 0.0


def test_ndcg_is_that_of_the_textbook() -> None:
    """The example of https://en.wikipedia.org/wiki/Discounted_cumulative_gain: grades 3, 2, 3, 0, 1, 2 as found,
    and two more documents of 3 and 2: 0.785 among the first six."""
    found = [3, 2, 3, 0, 1, 2]
    assert ndcg(found, [3, 3, 3, 2, 2, 2, 1, 0], 6) == pytest.approx(0.785, abs=5e-4)
    assert ndcg(sorted(found, reverse=True), found, 6) == 1.0
    assert ndcg([0, 1], [1], 1) == 0.0
    assert ndcg([0, 1], [1], 2) == pytest.approx(1 / math.log2(3))


def test_means_are_over_the_questions_that_have_an_answer() -> None:
    """Given answers at the first and at the third place, and a question without any."""
    found = Scores(limit=3)
    for grades, ids in (({"a": 1.0}, "abc"), ({"a": 1.0}, "bca"), ({}, "abc")):
        rows = [{"document_id": id, "similarity": None} for id in ids]
        found.add(Question(text="x", grades=grades), rows, 0.002)
    expected = {"hit@1": 0.5, "hit@3": 1.0, "mrr@3": 0.6667, "ndcg@3": 0.75, "p50_ms": 2.0, "p95_ms": 2.0}
    assert found.figures() == expected
    assert found.as_json()["similarity"] is None
