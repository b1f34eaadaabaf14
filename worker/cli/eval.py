"""`eval`: measure how well and how fast an index finds the documents that answer known questions."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from celery.exceptions import TimeoutError as ResultTimeout
from rich import box
from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.table import Table

from worker.cli.answer_scores import AnswerScores
from worker.cli.bounds import broken
from worker.cli.bounds import parse as parse_bounds
from worker.cli.client import STALL_SECONDS, Client, result_of
from worker.cli.comparison import Baseline, Comparison
from worker.cli.judging import JudgedQuestion, Scores, none_known, read, share
from worker.cli.options import filter_option, index_and_json, parse_filter
from worker.cli.output import counted, first_lines, progress_bar
from worker.cli.streams import echo, print_json
from worker.cli.thresholds import Suggestion, suggest
from worker.cli.variants import RerankFailures, variants
from worker.configuration import IndexSettings, load
from worker.exit_codes import ExitCode
from worker.keyspace import CHAT, STAGING
from worker.search.queries import MODES

MESSAGE_IDS = 1000
CHAT_PASSAGES = 5  # the default of tasks.chat
MAX_SHOWN = 10  # questions or ids on a terminal; --json prints all


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
@click.option(
    "--against",
    metavar="FILE|MODE",
    help="Compare with an earlier run, a file that `eval --json` wrote, or with another mode of this run.",
)
@click.option(
    "--fail-below",
    "bounds",
    multiple=True,
    metavar="[MODE:]FIGURE=VALUE",
    help="Fail if a figure is lower, such as ndcg@10=0.9, in each mode or in the one named. Repeat it for several.",
)
@click.option(
    "--rerank",
    metavar="NAME",
    help="Measure each mode with this entry of RERANK_BACKENDS, too, as MODE+rerank.",
)
@click.option(
    "--answers",
    is_flag=True,
    help="Also ask each question of tasks.chat, and count right, declined and wrong answers. Costs a request each.",
)
@click.option(
    "--suggest-threshold",
    is_flag=True,
    help="Print the similarity threshold that separates questions with and without an answer best.",
)
@filter_option
@index_and_json
def eval(
    questions: Path,
    modes: tuple[str, ...],
    limit: int,
    against: str | None,
    bounds: tuple[str, ...],
    rerank: str | None,
    answers: bool,
    suggest_threshold: bool,
    filter_: str | None,
    index: str,
    as_json: bool,
) -> int:
    """Measure search quality on questions whose documents you know.

    Prints hit@k, MRR, nDCG and latency for each search mode. QUESTIONS is a file of JSON lines: {"question",
    "documents": [ids] or {id: grade}}; or {"question", "doc": id or null}. A question without documents has no
    answer in the index, and is counted separately. Each question is a tasks.search from this process, one passage
    per document. Latency is the time until its result arrives. --answers also asks the chat backend of the index.

    Exit code 1: a figure is below its --fail-below.
    """
    configuration = load()
    searches = variants(modes or modes_of(configuration.index(index)), rerank)
    asked = {"limit": limit, "filter": parse_filter(filter_), "per_document": 1, "index": index}
    limits = parse_bounds(bounds, modes=tuple(searches), limit=limit)
    baseline = None if against is None else Baseline.read(against, tuple(searches))
    judged = read(questions)
    client = Client(configuration)
    absent = _absent(client, index, judged)
    if absent and len(absent) == len({id for question in judged for id in question.grades}):
        raise none_known(index, questions, absent[0])
    found = {name: Scores(limit=limit) for name in searches}
    unranked = _measure(client, judged, found, {name: asked | own for name, own in searches.items()})
    comparison = None if baseline is None else baseline.compare(found)
    failures = list(broken(limits, found))
    report = Report(
        comparison=comparison,
        answers=_answers(client, judged, asked) if answers else None,
        threshold=suggest(found) if suggest_threshold else None,
    )
    if as_json:
        _print_json(index, judged, absent, found, report)
    else:
        _print(index, judged, absent, found, report)
    for sentence in (*unranked.sentences(), *failures):
        echo(sentence, err=True)
    return ExitCode.FAILED if failures else ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Report:
    """The parts of a run that were asked for."""

    comparison: Comparison | None
    answers: AnswerScores | None
    threshold: Suggestion | None

    def as_json(self) -> dict[str, Any]:
        parts = {"against": self.comparison, "answers": self.answers, "threshold": self.threshold}
        return {name: part.as_json() for name, part in parts.items() if part is not None}


def _measure(
    client: Client,
    judged: Sequence[JudgedQuestion],
    found: Mapping[str, Scores],
    arguments: Mapping[str, Mapping[str, Any]],
) -> RerankFailures:
    """Ask every question in every search, and add what is found to its scores. Returns what was not reranked."""
    failures = RerankFailures()
    with progress_bar("searching", MofNCompleteColumn(), total=len(judged) * len(found)) as update:
        for name, scores in found.items():
            _search(client, query=judged[0].text, **arguments[name])  # makes the worker load its model
            for question in judged:
                started = time.perf_counter()
                rows = _search(client, query=question.text, **arguments[name])
                scores.add(question, rows, time.perf_counter() - started)
                failures.add(name, rows)
                update(advance=1)
    return failures


def _answers(client: Client, judged: Sequence[JudgedQuestion], asked: Mapping[str, Any]) -> AnswerScores:
    """Ask every question of the chat task, one after the other."""
    scores = AnswerScores()
    chosen = {"limit": CHAT_PASSAGES, "filter": asked["filter"], "index": asked["index"]}
    with progress_bar("asking", MofNCompleteColumn(), total=len(judged)) as update:
        for question in judged:
            scores.add(question, client.call("tasks.chat", CHAT, question=question.text, **chosen))
            update(advance=1)
    return scores


def _print_json(
    index: str,
    judged: Sequence[JudgedQuestion],
    absent: Sequence[str],
    found: Mapping[str, Scores],
    report: Report,
) -> None:
    result = {
        "index": index,
        "questions": len(judged),
        "unanswerable": sum(not question.grades for question in judged),
        "absent": absent,
        "modes": {mode: scores.as_json() for mode, scores in found.items()},
    }
    print_json(result | report.as_json())


def _print(
    index: str,
    judged: Sequence[JudgedQuestion],
    absent: Sequence[str],
    found: Mapping[str, Scores],
    report: Report,
) -> None:
    answerable = sum(bool(question.grades) for question in judged)
    echo(f"{index}: {counted(answerable, 'question')} with an answer, {len(judged) - answerable:,} without")
    console = Console(highlight=False)
    console.print(_table(found))
    parts: list[Comparison | Suggestion | None] = [report.comparison, report.threshold]
    for part in parts:
        if part is not None:
            echo(part.heading)
            console.print(part.table())
    if report.answers is not None:
        for line in report.answers.lines():
            echo(line)
        wrong = [f"answered wrongly: {text}" for text in report.answers.wrongly_answered]
        for line in first_lines(wrong, MAX_SHOWN):
            echo(line)
    for line in _remarks(found, absent):
        echo(line)


def modes_of(index: IndexSettings) -> Sequence[str]:
    """The search modes that an index can answer."""
    return MODES if index.language else ("vector",)


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


def _table(found: Mapping[str, Scores]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("mode")
    for number, (mode, scores) in enumerate(found.items()):
        figures = scores.figures()
        if number == 0:
            for name in figures:
                table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
        cells = (f"{value:.1f}" if name.endswith("_ms") else share(value) for name, value in figures.items())
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
