"""Questions whose documents are known, and the measures of a search that looks for them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from worker.documents import document_id, document_ids, read_json
from worker.errors import InvalidDocument, InvalidQuery
from worker.sources.encodings import decoded_lines

MAX_LINE_CHARACTERS = 1_000_000  # of a question with its documents
CUTOFFS = (1, 5)  # k of hit@k, in addition to the limit of the search


@dataclass(frozen=True, kw_only=True)
class JudgedQuestion:
    """A question and the documents that answer it."""

    text: str
    grades: Mapping[str, float]  # relevance by document id, above 0; empty: no document answers the question


@dataclass(kw_only=True)
class Scores:
    """The measurements of one search mode."""

    limit: int  # documents per question
    # each question that has an answer, with the grades of the documents found, best first
    rankings: list[tuple[JudgedQuestion, list[float]]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    # similarity of each question's nearest passage, if the mode computes it: questions with and without an answer
    similarities: list[float] = field(default_factory=list)
    unanswerable: list[float] = field(default_factory=list)

    def add(self, question: JudgedQuestion, rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
        self.seconds.append(seconds)
        near = [row["similarity"] for row in rows if row["similarity"] is not None]
        (self.similarities if question.grades else self.unanswerable).extend([max(near)] if near else [])
        if question.grades:
            found = [question.grades.get(row["document_id"], 0.0) for row in rows]
            self.rankings.append((question, found))

    @property
    def missed(self) -> list[str]:
        """The questions whose documents were not found."""
        return [question.text for question, found in self.rankings if not any(found)]

    def by_question(self) -> list[tuple[str, dict[str, float]]]:
        """Return the figures of each question that has an answer, 0 to 1, with its text."""
        return [
            (
                question.text,
                {
                    **{f"hit@{at}": float(any(found[:at])) for at in cutoffs(self.limit)},
                    f"mrr@{self.limit}": reciprocal_rank(found),
                    f"ndcg@{self.limit}": ndcg(found, list(question.grades.values()), self.limit),
                },
            )
            for question, found in self.rankings
        ]

    def quality(self) -> dict[str, float | None]:
        """Return means over the questions that have an answer, 0 to 1 or `None`."""
        each = [figures for _, figures in self.by_question()]
        return {name: _mean(figures[name] for figures in each) for name in figure_names(self.limit)}

    def figures(self) -> dict[str, float | None]:
        """Return the quality, and latencies in milliseconds."""
        p50, p95 = np.percentile(self.seconds, [50, 95]) * 1000
        return {**self.quality(), "p50_ms": round(float(p50), 1), "p95_ms": round(float(p95), 1)}

    def as_json(self) -> dict[str, Any]:
        """Add `similarity` (lowest, median, highest of the nearest passages), `missed`, and figures by question."""
        return {
            **self.figures(),
            "similarity": _spread(self.similarities),
            "similarity_unanswerable": _spread(self.unanswerable),
            "missed": self.missed,
            "questions": [
                {"question": text, **{name: round(value, 4) for name, value in figures.items()}}
                for text, figures in self.by_question()
            ],
        }


def cutoffs(limit: int) -> list[int]:
    """Return each k of hit@k, for a search of `limit` documents."""
    return [*(at for at in CUTOFFS if at < limit), limit]


def figure_names(limit: int) -> list[str]:
    """Return the names of the figures of quality, for a search of `limit` documents."""
    return [*(f"hit@{at}" for at in cutoffs(limit)), f"mrr@{limit}", f"ndcg@{limit}"]


def reciprocal_rank(found: Sequence[float]) -> float:
    """Return 1 / rank of the first document with a grade, or 0 if no document has one."""
    return next((1 / rank for rank, grade in enumerate(found, start=1) if grade), 0.0)


def ndcg(found: Sequence[float], grades: Sequence[float], limit: int) -> float:
    """Return the normalised discounted cumulative gain: 1 if no other order of all documents would be better.

    A document's gain is its grade, its discount log2(1 + rank), as in trec_eval. `grades` has the grades of all
    relevant documents, at least one.
    """
    ideal = sorted(grades, reverse=True)
    return _gain(found[:limit]) / _gain(ideal[:limit])


def read(path: Path) -> list[JudgedQuestion]:
    """Read the questions of a file. Raises InvalidQuery with the number of the wrong line."""
    questions = []
    with path.open("rb") as file:
        for number, line in enumerate(decoded_lines(file, MAX_LINE_CHARACTERS), start=1):
            if line.text.strip():
                try:
                    questions.append(_question(read_json(line.text)))
                except (json.JSONDecodeError, RecursionError, InvalidDocument, InvalidQuery) as error:
                    reason = f"not JSON ({error.msg})" if isinstance(error, json.JSONDecodeError) else error
                    raise InvalidQuery(
                        f"{path}, line {number}: {reason}; a line is "
                        '{"question": "...", "documents": ["id", ...] or {"id": grade, ...}}'
                    ) from None
    if not questions:
        raise InvalidQuery(f"{path} has no questions: write one JSON object per line")
    return questions


def none_known(index: str, path: Path, id: str) -> InvalidQuery:
    """Make the error of questions that name no document of the index, such as `id`."""
    return InvalidQuery(
        f"{index} has none of the documents that {path} names, such as {id!r}: "
        "index them first, or use the ids that `vector-index search` prints"
    )


def _question(value: object) -> JudgedQuestion:
    if not isinstance(value, dict):
        raise InvalidQuery("not an object")
    text = value.get("question")
    if not isinstance(text, str) or not text.strip():
        raise InvalidQuery("question must be a string with at least one word")
    if "documents" not in value and "doc" not in value:
        raise InvalidQuery("documents is missing; write [] if no document answers the question")
    documents = value["documents"] if "documents" in value else value["doc"]
    if not isinstance(documents, dict):
        ids = documents if isinstance(documents, list) else [] if documents is None else [documents]
        return JudgedQuestion(text=text, grades=dict.fromkeys(document_ids(ids), 1.0))
    for id, grade in documents.items():
        if isinstance(grade, bool) or not isinstance(grade, (int, float)) or not 0 <= grade < float("inf"):
            raise InvalidQuery(
                f"the grade of {id!r} must be a number, 0 (not relevant) or more, not {grade!r}"
            )
    grades = {document_id(id): float(grade) for id, grade in documents.items() if grade}
    return JudgedQuestion(text=text, grades=grades)


def share(value: float | None) -> str:
    """Format a figure from 0 to 1."""
    return "" if value is None else f"{value:.3f}"


def _gain(grades: Sequence[float]) -> float:
    return sum(grade / log2(1 + rank) for rank, grade in enumerate(grades, start=1))


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(fmean(found), 4) if found else None


def _spread(values: Sequence[float]) -> list[float] | None:
    return [round(of(values), 3) for of in (min, median, max)] if values else None
