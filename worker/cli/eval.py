"""`eval`: measure how well and how fast an index finds the documents that answer known questions."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from pathlib import Path
from statistics import fmean, median
from typing import Any

import click
import numpy as np
from celery.exceptions import TimeoutError as ResultTimeout
from rich import box
from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.table import Table

from worker.cli.client import STALL_SECONDS, Client, result_of
from worker.cli.options import filter_option, index_and_json, parse_filter
from worker.cli.output import counted, first_lines, progress_bar
from worker.cli.streams import echo, print_json
from worker.configuration import load
from worker.documents import document_id, document_ids, read_json
from worker.errors import InvalidDocument, InvalidQuery
from worker.keyspace import CHAT, STAGING
from worker.search.queries import MODES
from worker.sources.encodings import decoded_lines

MAX_LINE_CHARACTERS = 1_000_000  # of a question with its documents
CUTOFFS = (1, 5)  # k of hit@k, in addition to --limit
MESSAGE_IDS = 1000
MAX_SHOWN = 10  # questions or ids on a terminal; --json prints all


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

    def figures(self) -> dict[str, float | None]:
        """Return means over the questions that have an answer, 0 to 1 or `None`; and latencies in milliseconds."""
        cutoffs = [*(at for at in CUTOFFS if at < self.limit), self.limit]
        rankings = [found for _, found in self.rankings]
        p50, p95 = np.percentile(self.seconds, [50, 95]) * 1000
        return {
            **{f"hit@{at}": _mean(float(any(found[:at])) for found in rankings) for at in cutoffs},
            f"mrr@{self.limit}": _mean(map(reciprocal_rank, rankings)),
            f"ndcg@{self.limit}": _mean(
                ndcg(found, list(question.grades.values()), self.limit) for question, found in self.rankings
            ),
            "p50_ms": round(float(p50), 1),
            "p95_ms": round(float(p95), 1),
        }

    def as_json(self) -> dict[str, Any]:
        """Add `similarity` (lowest, median, highest of the nearest passages) and the `missed` questions."""
        return {
            **self.figures(),
            "similarity": _spread(self.similarities),
            "similarity_unanswerable": _spread(self.unanswerable),
            "missed": [question.text for question, found in self.rankings if not any(found)],
        }


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


@click.command()
@click.argument("questions", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--mode",
    "modes",
    multiple=True,
    type=click.Choice(MODES),
    help="Search mode to measure; repeat it for several.  [default: all]",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 100),
    default=10,
    show_default=True,
    help="Maximum number of documents found per question.",
)
@filter_option
@index_and_json
def eval(
    questions: Path, modes: tuple[str, ...], limit: int, filter_: str | None, index: str, as_json: bool
) -> None:
    """Measure search quality on questions whose documents you know.

    Prints hit@k, MRR, nDCG and latency for each search mode. QUESTIONS is a file of JSON lines: {"question",
    "documents": [ids] or {id: grade}}; or {"question", "doc": id or null}. A question without documents has no
    answer in the index, and is counted separately. Each question is a tasks.search from this process, one passage
    per document. Latency is the time until its result arrives.
    """
    configuration = load()
    configuration.index(index)
    filter_value = parse_filter(filter_)
    judged = read(questions)
    client = Client(configuration)
    absent = _absent(client, index, judged)
    if absent and len(absent) == len({id for question in judged for id in question.grades}):
        raise InvalidQuery(
            f"{index} has none of the documents that {questions} names, such as {absent[0]!r}: "
            "index them first, or use the ids that `vector-index search` prints"
        )
    arguments = {"limit": limit, "filter": filter_value, "per_document": 1, "index": index}
    modes = modes or MODES
    found = {mode: Scores(limit=limit) for mode in modes}
    with progress_bar("searching", MofNCompleteColumn(), total=len(judged) * len(modes)) as update:
        for mode, scores in found.items():
            _search(client, query=judged[0].text, mode=mode, **arguments)  # makes the worker load its model
            for question in judged:
                started = time.perf_counter()
                rows = _search(client, query=question.text, mode=mode, **arguments)
                scores.add(question, rows, time.perf_counter() - started)
                update(advance=1)
    if as_json:
        result = {
            "index": index,
            "questions": len(judged),
            "unanswerable": sum(not question.grades for question in judged),
            "absent": absent,
            "modes": {mode: scores.as_json() for mode, scores in found.items()},
        }
        print_json(result)
    else:
        answerable = sum(bool(question.grades) for question in judged)
        echo(
            f"{index}: {counted(answerable, 'question')} with an answer, {len(judged) - answerable:,} without"
        )
        Console(highlight=False).print(_table(found))
        for line in _remarks(found, absent):
            echo(line)


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


def _absent(client: Client, index: str, questions: Sequence[JudgedQuestion]) -> list[str]:
    """Return the ids that the questions name and that are not searchable."""
    ids = sorted({id for question in questions for id in question.grades})
    absent: list[str] = []
    for at in range(0, len(ids), MESSAGE_IDS):
        batch = ids[at : at + MESSAGE_IDS]
        states = client.call("tasks.status", STAGING, ids=batch, index=index)["documents"]
        absent += [id for id in batch if not states[id]["searchable"]]
    return absent


def _search(client: Client, **arguments: Any) -> list[dict[str, Any]]:
    """Return the rows of tasks.search. Waits for a notification: polling would add to the latency measured."""
    result = client.send("tasks.search", CHAT, **arguments)
    with client.reachable():
        try:
            result.get(timeout=STALL_SECONDS, propagate=False)
        except ResultTimeout:
            client.wait(result, CHAT)
    rows: list[dict[str, Any]] = result_of(result)
    return rows


def _gain(grades: Sequence[float]) -> float:
    return sum(grade / log2(1 + rank) for rank, grade in enumerate(grades, start=1))


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(fmean(found), 4) if found else None


def _spread(values: Sequence[float]) -> list[float] | None:
    return [round(of(values), 3) for of in (min, median, max)] if values else None


def _table(found: Mapping[str, Scores]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("mode")
    for number, (mode, scores) in enumerate(found.items()):
        figures = scores.figures()
        if number == 0:
            for name in figures:
                table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
        cells = (f"{value:.1f}" if name.endswith("_ms") else _share(value) for name, value in figures.items())
        table.add_row(mode, *cells)
    return table


def _remarks(found: Mapping[str, Scores], absent: Sequence[str]) -> Iterator[str]:
    missed: dict[str, list[str]] = {}
    for mode, scores in found.items():
        values = scores.as_json()
        for name, of in (("similarity", "with"), ("similarity_unanswerable", "without")):
            if values[name]:
                low, middle, high = values[name]
                yield (
                    f"{mode}: questions {of} an answer have a nearest passage of similarity {low:.2f} to {high:.2f}, "
                    f"median {middle:.2f}"
                )
        for text in values["missed"]:
            missed.setdefault(text, []).append(mode)
    yield from first_lines(
        [f"missed by {', '.join(modes)}: {text}" for text, modes in missed.items()], MAX_SHOWN
    )
    yield from first_lines([f"expected document is not searchable: {id}" for id in absent], MAX_SHOWN)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
