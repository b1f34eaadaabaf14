"""`eval`: how well, and how fast, an index finds the documents that answer known questions."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import log2
from pathlib import Path
from statistics import fmean, median
from typing import Any

import click
import numpy as np
from celery.exceptions import TimeoutError as NotYet
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from worker.cli.client import PATIENCE_SECONDS, Client, outcome
from worker.cli.documents import filter_of, options
from worker.configuration import load
from worker.documents import document_id, document_ids
from worker.errors import InvalidDocument, InvalidQuery
from worker.keyspace import CHAT, STAGING
from worker.search.queries import MODES

CUTOFFS = (1, 5)  # of Hit@k, beside the limit
STATUS_IDS = 1000  # per message
MAX_SHOWN = 10  # questions or ids on a terminal; --json has all


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, and what is known of its answer."""

    text: str
    grades: Mapping[str, float]  # by document, over 0: the higher the better; empty: no document answers it


@dataclass(kw_only=True)
class Scores:
    """What a mode made of the questions; a question's ranking is the grades of the documents that it found."""

    limit: int  # documents per question
    rankings: list[tuple[Question, list[float]]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    # of each question's nearest passage, where the mode computes it: with an answer, and without any
    similarities: list[float] = field(default_factory=list)
    unanswerable: list[float] = field(default_factory=list)

    def add(self, question: Question, rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
        self.seconds.append(seconds)
        near = [row["similarity"] for row in rows if row["similarity"] is not None]
        (self.similarities if question.grades else self.unanswerable).extend([max(near)] if near else [])
        if question.grades:
            found = [question.grades.get(row["document_id"], 0.0) for row in rows]
            self.rankings.append((question, found))

    def figures(self) -> dict[str, float | None]:
        """Means over the questions that have an answer, 0 to 1, None without any; and milliseconds."""
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
        """`similarity`: least, median and highest of the nearest passages; `missed`: no document was found."""
        return {
            **self.figures(),
            "similarity": _spread(self.similarities),
            "similarity_unanswerable": _spread(self.unanswerable),
            "missed": [question.text for question, found in self.rankings if not any(found)],
        }


def reciprocal_rank(found: Sequence[float]) -> float:
    """1 / the rank of the first document with a grade; 0 where none has one."""
    return next((1 / rank for rank, grade in enumerate(found, start=1) if grade), 0.0)


def ndcg(found: Sequence[float], grades: Sequence[float], limit: int) -> float:
    """Normalised discounted cumulative gain: 1 where no other order of all documents would be better.

    A document's gain is its grade, its discount log2(1 + rank), as trec_eval counts. `grades` are of all documents
    that are worth finding, at least one.
    """
    ideal = sorted(grades, reverse=True)
    return _gain(found[:limit]) / _gain(ideal[:limit])


@click.command()
@click.argument("questions", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--mode", "modes", multiple=True, type=click.Choice(MODES), help="One mode, or several; default: all."
)
@click.option(
    "--limit", type=click.IntRange(1, 100), default=10, show_default=True, help="Documents per question."
)
@click.option("--filter", "filter_", help='On metadata, as JSON: \'{"language": "en"}\'.')
@options
def eval(
    questions: Path, modes: tuple[str, ...], limit: int, filter_: str | None, index: str, as_json: bool
) -> None:
    """Ask questions whose documents are known: Hit@k, MRR, nDCG and latency of each mode.

    QUESTIONS are JSON lines: {"question", "documents": [ids] or {id: grade}}, or with "doc" in place of
    "documents", one id or null. Without any, a question has no answer in the index, and is counted apart. It is
    asked with tasks.search as an application does, one row per document; latency is what the application waits.
    """
    configuration = load()
    configuration.index(index)
    chosen = filter_of(filter_)
    asked = read(questions)
    client = Client(configuration)
    absent = _absent(client, index, asked)
    if absent and len(absent) == len({id for question in asked for id in question.grades}):
        raise InvalidQuery(
            f"{index} has none of the documents that {questions} names, such as {absent[0]!r}: "
            "index them first, or name them by the ids that `vector-index search` shows"
        )
    arguments = {"limit": limit, "filter": chosen, "per_document": 1, "index": index}
    modes = modes or MODES
    found = {mode: Scores(limit=limit) for mode in modes}
    with _progress(len(asked) * len(modes)) as advance:
        for mode, scores in found.items():
            _search(client, query=asked[0].text, mode=mode, **arguments)  # the model of the worker is loaded
            for question in asked:
                started = time.perf_counter()
                rows = _search(client, query=question.text, mode=mode, **arguments)
                scores.add(question, rows, time.perf_counter() - started)
                advance()
    if as_json:
        result = {
            "index": index,
            "questions": len(asked),
            "unanswerable": sum(not question.grades for question in asked),
            "absent": absent,
            "modes": {mode: scores.as_json() for mode, scores in found.items()},
        }
        click.echo(json.dumps(result, ensure_ascii=False))
    else:
        answerable = sum(bool(question.grades) for question in asked)
        click.echo(f"{index}: {answerable:,} questions with an answer, {len(asked) - answerable:,} without")
        Console(highlight=False).print(_table(found))
        for line in _remarks(found, absent):
            click.echo(line)


def read(path: Path) -> list[Question]:
    """The questions of a file. Raises InvalidQuery naming the line and the mend."""
    questions = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    questions.append(_question(json.loads(line)))
                except (json.JSONDecodeError, InvalidDocument, InvalidQuery) as error:
                    reason = f"not JSON ({error.msg})" if isinstance(error, json.JSONDecodeError) else error
                    raise InvalidQuery(
                        f"{path}, line {number}: {reason}; a line is "
                        '{"question": "...", "documents": ["id", ...] or {"id": grade, ...}}'
                    ) from None
    if not questions:
        raise InvalidQuery(f"{path} has no questions: write one JSON object per line")
    return questions


def _question(value: object) -> Question:
    if not isinstance(value, dict):
        raise InvalidQuery("not an object")
    text = value.get("question")
    if not isinstance(text, str) or not text.strip():
        raise InvalidQuery("question must be a string with at least one word")
    if "documents" not in value and "doc" not in value:
        raise InvalidQuery("documents is missing; [] says that no document answers the question")
    documents = value["documents"] if "documents" in value else value["doc"]
    if not isinstance(documents, dict):
        ids = documents if isinstance(documents, list) else [] if documents is None else [documents]
        return Question(text=text, grades=dict.fromkeys(document_ids(ids), 1.0))
    for id, grade in documents.items():
        if isinstance(grade, bool) or not isinstance(grade, (int, float)) or not 0 <= grade < float("inf"):
            raise InvalidQuery(f"the grade of {id!r} must be a number, 0 (of no use) or more, not {grade!r}")
    grades = {document_id(id): float(grade) for id, grade in documents.items() if grade}
    return Question(text=text, grades=grades)


def _absent(client: Client, index: str, questions: Sequence[Question]) -> list[str]:
    """Documents that the questions name and that no search can find."""
    ids = sorted({id for question in questions for id in question.grades})
    absent: list[str] = []
    for at in range(0, len(ids), STATUS_IDS):
        some = ids[at : at + STATUS_IDS]
        states = client.call("tasks.status", STAGING, ids=some, index=index)["documents"]
        absent += [id for id in some if not states[id]["searchable"]]
    return absent


def _search(client: Client, **arguments: Any) -> list[dict[str, Any]]:
    """The rows of tasks.search, as soon as they are there: waiting in steps would be what is measured."""
    result = client.send("tasks.search", CHAT, **arguments)
    with client.reachable():
        try:
            result.get(timeout=PATIENCE_SECONDS, propagate=False)
        except NotYet:
            client.wait(result, CHAT)
    rows: list[dict[str, Any]] = outcome(result)
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
                    f"{mode}, nearest passage of questions {of} an answer: similarity {low:.2f} to {high:.2f}, "
                    f"median {middle:.2f}"
                )
        for text in values["missed"]:
            missed.setdefault(text, []).append(mode)
    yield from _first([f"missed by {', '.join(modes)}: {text}" for text, modes in missed.items()])
    yield from _first([f"not searchable, though named as an answer: {id}" for id in absent])


def _first(lines: Sequence[str]) -> Iterator[str]:
    yield from (" ".join(line.split()) for line in lines[:MAX_SHOWN])
    if len(lines) > MAX_SHOWN:
        yield f"and {len(lines) - MAX_SHOWN:,} more: --json shows all"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Searches on stderr where that is a terminal; the function is called after each."""
    console = Console(stderr=True)
    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("asking", total=total)
        yield lambda: progress.advance(bar)
