"""`rebuild --sample`: what a rebuild costs, and how well the index would find documents after it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import MofNCompleteColumn, TimeElapsedColumn
from rich.table import Table

from worker import configuration, wiring
from worker.backends.budgets import MAX_PAUSE_SECONDS
from worker.cli.judging import JudgedQuestion, Scores, none_known, read, share
from worker.cli.output import counted, first_lines, progress_bar
from worker.cli.plan import price_line, price_of
from worker.cli.streams import echo, print_json
from worker.errors import InvalidQuery
from worker.exit_codes import ExitCode
from worker.index import Index
from worker.indexing import rebuilding
from worker.indexing.sampling import Estimate, Sample
from worker.search import retrieval
from worker.search.embedding import embed_questions
from worker.search.queries import MODES, SearchQuery
from worker.store import connection, indexes, languages, samples, statistics
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filling import Unfilled
from worker.tokens import ESTIMATE

MAX_SAMPLE = 10_000  # documents; the session keeps about 100 bytes for each of their chunks
LIMIT = 10  # documents found for a question
MAX_SHOWN = 10  # questions, ids or failures on a terminal; --json prints all


@dataclass(kw_only=True)
class Report:
    """What the command prints."""

    index: str
    differences: Sequence[str]
    sampled: int  # documents
    estimate: Estimate
    price_per_million_tokens: float | None
    is_upper_bound: bool  # of tokens: the tokenizer of the model is not known
    failed: Mapping[str, str]
    questions: Sequence[JudgedQuestion] = ()
    absent: Sequence[str] = ()
    scores: Mapping[str, Mapping[str, Scores]] | None = None  # by mode, then "old" and "new"

    def as_json(self) -> dict[str, Any]:
        price = price_of(self.estimate.tokens, self.price_per_million_tokens)
        value: dict[str, Any] = {
            "index": self.index,
            "differences": list(self.differences),
            "sampled": self.sampled,
            "estimate": {**asdict(self.estimate), "price": price},
            "failed": [{"id": id, "error": error} for id, error in self.failed.items()],
        }
        if self.scores is not None:
            value |= {
                "questions": len(self.questions),
                "absent": list(self.absent),
                "modes": {
                    mode: {side: {**each.quality(), "missed": each.missed} for side, each in sides.items()}
                    for mode, sides in self.scores.items()
                },
            }
        return value

    def estimate_lines(self) -> Iterator[str]:
        found, how = self.estimate, "at most " if self.is_upper_bound else "about "
        yield from self.differences
        yield (
            f"{self.index}: the whole rebuild, estimated from {counted(self.sampled, 'document')} "
            f"of {found.documents:,}"
        )
        yield f"chunks     about {found.chunks:,}, {found.reused:.0%} with a vector that is reused"
        yield f"tokens     {how if found.tokens else ''}{found.tokens:,}"
        yield f"requests   {'about ' if found.requests else ''}{found.requests:,}"
        if self.price_per_million_tokens is not None:
            yield price_line(found.tokens, self.price_per_million_tokens, how)
        if found.seconds is None:
            yield "time       depends on the model: --eval measures it"
        else:
            yield f"time       about {_duration(found.seconds)} with one embedding worker"

    def closing_lines(self) -> Iterator[str]:
        if self.scores is None:
            yield "nothing was embedded: add --eval QUESTIONS to compare the search results of both settings"
        else:
            for side, other in (("new", "old"), ("old", "new")):
                yield from first_lines(self._found_only(side, other), MAX_SHOWN)
            absent = [f"expected document is not searchable: {id}" for id in self.absent]
            yield from first_lines(absent, MAX_SHOWN)
        failures = [f"fails under the new settings: {id}: {error}" for id, error in self.failed.items()]
        yield from first_lines(failures, MAX_SHOWN)
        yield f"nothing has changed; `vector-index rebuild --index {self.index}` applies the settings"

    def table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("mode")
        table.add_column("settings")
        for number, (mode, sides) in enumerate((self.scores or {}).items()):
            for side, each in sides.items():
                figures = each.quality()
                if number == 0 and side == "old":
                    for name in figures:
                        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
                table.add_row(mode if side == "old" else "", side, *map(share, figures.values()))
        return table

    def _found_only(self, side: str, other: str) -> list[str]:
        """The questions that one side answers in a mode and the other one misses."""
        modes: dict[str, list[str]] = {}
        for mode, sides in (self.scores or {}).items():
            for text in sides[other].missed:
                if text not in sides[side].missed:
                    modes.setdefault(text, []).append(mode)
        return [
            f"found under the {side} settings alone ({', '.join(of)}): {text}" for text, of in modes.items()
        ]


def try_out(name: str, size: int, questions: Path | None, as_json: bool) -> ExitCode:
    """Sample an index under the settings of today, and print the report. Raises as `rebuild` does."""
    known = configuration.current()
    known.index(name)
    judged = [] if questions is None else read(questions)
    logging.getLogger("vector_index").addHandler(logging.NullHandler())  # errors are raised as well
    target = wiring.index(name)
    live = rebuilding.live_build(target)
    differences = [str(each) for each in rebuilding.differences(target, live)]
    if not differences:
        nothing = f"{name}: nothing to do: the index is as the settings ask for"
        print_json({"index": name, "differences": []}) if as_json else echo(nothing)
        return ExitCode.DONE
    with connection.session(target.url) as session:
        expected = sorted({id for question in judged for id in question.grades})
        present = samples.searchable(session, live, expected)
        if questions is not None:
            _check(session, name, questions, expected, present)
        chosen = samples.choose(session, live, sorted(present), limit=max(size, len(present)))
        _announce(name, size, chosen, present)
        make = Sample.estimating if questions is None else Sample.searchable
        sample = make(target, session, live)
        with progress_bar("sampling", MofNCompleteColumn(), TimeElapsedColumn(), total=len(chosen)) as update:
            sample.run(chosen, lambda documents: update(advance=documents))
        report = Report(
            index=name,
            differences=differences,
            sampled=sample.documents,
            estimate=sample.estimate(samples.totals(session, live)),
            price_per_million_tokens=known.price_per_million_tokens,
            is_upper_bound=target.backend.tokenizer == ESTIMATE,
            failed=sample.failed,
            questions=judged,
            absent=sorted(set(expected) - present),
            scores=None if questions is None else _scores(target, session, sample, judged),
        )
    _print(report, as_json)
    return ExitCode.FAILED if report.failed else ExitCode.DONE


def _check(
    session: Connection, name: str, questions: Path, expected: Sequence[str], present: set[str]
) -> None:
    """Refuse questions about other documents, and an index that may send nothing."""
    if expected and not present:
        raise none_known(name, questions, expected[0])
    if indexes.paused_at(session, name) is not None:
        raise InvalidQuery(
            f"index {name!r} is paused, so a sample may not be embedded: run `vector-index resume --index {name}`, or "
            "leave out --eval"
        )


def _announce(name: str, size: int, chosen: Sequence[Unfilled], present: set[str]) -> None:
    """Say where the sample has another size than was asked for."""
    if not chosen:
        raise InvalidQuery(f"index {name!r} has no searchable documents yet: see `vector-index status`")
    if len(chosen) < size:
        echo(
            f"{name} has {counted(len(chosen), 'searchable document')}: the sample has all of them", err=True
        )
    elif len(chosen) > size:
        echo(f"the questions expect {len(present):,} documents: the sample has all of them", err=True)


def _scores(
    target: Index, session: Connection, sample: Sample, judged: Sequence[JudgedQuestion]
) -> dict[str, dict[str, Scores]]:
    """Search both samples for each question, in each mode."""
    assert sample.old is not None
    found = {mode: {side: Scores(limit=LIMIT) for side in ("old", "new")} for mode in MODES}
    for build in (sample.old, sample.new):
        statistics.analyze(session, build)
    sides = {
        side: replace(build, languages=languages.named(session, build)[0])
        for side, build in (("old", sample.old), ("new", sample.new))
    }
    weights = target.settings.hybrid_weights
    with progress_bar("searching", MofNCompleteColumn(), total=len(judged)) as update:
        for question in judged:
            vectors: dict[str, list[NDArray[np.float32]]] = {}
            for side, build in sides.items():
                if side == "old" or not _asks_alike(sample.old, build):
                    vectors[side] = embed_questions(
                        target, build, [question.text], max_wait_seconds=MAX_PAUSE_SECONDS
                    )
                for mode in MODES:
                    query = SearchQuery(text=question.text, limit=LIMIT, per_document=1, mode=mode)
                    asked = None if mode == "text" else vectors.get(side, vectors["old"])
                    ids = retrieval.rank_documents(session, build, query, asked, weights=weights)
                    found[mode][side].add(
                        question, [{"document_id": id, "similarity": None} for id in ids], 0.0
                    )
            update(advance=1)
    return found


def _asks_alike(old: Build, new: Build) -> bool:
    """Whether both builds embed a question as the same string with the same model."""
    fields = ("query_prefix", "tokenizer", "token_limit")
    return old.shares_vectors(new) and all(old.recipe[field] == new.recipe[field] for field in fields)


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(report.as_json())
        return
    for line in report.estimate_lines():
        echo(line)
    if report.scores is not None:
        answerable = sum(bool(question.grades) for question in report.questions)
        echo(f"\n{counted(answerable, 'question')} with an answer, over the same documents")
        Console(highlight=False).print(report.table())
    for line in report.closing_lines():
        echo(line)


def _duration(seconds: float) -> str:
    """Format an estimate of time, in the unit that a reader plans with."""
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7_200 else f"{seconds / 3600:,.1f} h"
