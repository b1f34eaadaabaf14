"""What `eval --suggest-threshold` prints: how a similarity threshold separates questions with and without an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rich import box
from rich.table import Table

from worker.cli.judging import Scores
from worker.errors import InvalidQuery

FEW = 30  # questions of a kind: with fewer, a threshold may be chance
DIGITS = 3


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A similarity threshold, and the questions on each side of it."""

    value: float
    kept: int  # questions with an answer whose nearest passage has at least this similarity
    left_out: int  # questions without one whose nearest passage has less


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Three thresholds between the nearest passages of both kinds of questions."""

    mode: str
    answerable: int
    unanswerable: int
    keeping: Threshold  # the highest that keeps every question with an answer
    best: Threshold  # the one that separates best
    strict: Threshold  # the lowest that leaves out every question without an answer

    def as_json(self) -> dict[str, Any]:
        rows = {"keeping": self.keeping, "best": self.best, "strict": self.strict}
        return {
            "mode": self.mode,
            "suggested": self.best.value,
            **{
                name: {"threshold": row.value, "kept": row.kept, "left_out": row.left_out}
                for name, row in rows.items()
            },
        }

    @property
    def heading(self) -> str:
        few = min(self.answerable, self.unanswerable) < FEW
        return f"mode {self.mode}: similarity_threshold {self.best.value:.{DIGITS}f} separates best" + (
            f"; with fewer than {FEW} questions of a kind, it may be chance" if few else ""
        )

    def table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("threshold", no_wrap=True)
        for name in ("similarity", "with an answer", "without"):
            table.add_column(name, justify="right", no_wrap=True)
        rows = {
            "keeps all with an answer": self.keeping,
            "separates best": self.best,
            "leaves out all without": self.strict,
        }
        for name, row in rows.items():
            table.add_row(
                name,
                f"{row.value:.{DIGITS}f}",
                f"{row.kept:,} of {self.answerable:,} kept",
                f"{row.left_out:,} of {self.unanswerable:,} left out",
            )
        return table


def suggest(found: Mapping[str, Scores]) -> Suggestion:
    """Suggest a threshold from the similarities of a run, of mode "vector" if it was measured.

    Raises InvalidQuery without similarities of both kinds of questions.
    """
    mode = next((name for name in ("vector", "hybrid") if name in found), None)
    if mode is None:
        raise InvalidQuery("--suggest-threshold needs similarities: measure --mode vector or --mode hybrid")
    high, low = found[mode].similarities, found[mode].unanswerable
    if not high or not low:
        raise InvalidQuery(
            f"--suggest-threshold needs questions with and without an answer, and there are {len(high):,} and "
            f'{len(low):,} with a similarity: add lines with "documents": [] for questions without one'
        )
    rows = [_threshold(value, high, low) for value in _between(sorted({*high, *low}))]
    return Suggestion(
        mode=mode,
        answerable=len(high),
        unanswerable=len(low),
        keeping=max((row for row in rows if row.kept == len(high)), key=lambda row: row.value),
        best=max(rows, key=lambda row: (row.kept / len(high) + row.left_out / len(low), -row.value)),
        strict=min((row for row in rows if row.left_out == len(low)), key=lambda row: row.value),
    )


def _between(values: Sequence[float]) -> list[float]:
    """A threshold below all values, one in the middle of each two, and one above all, as far as thresholds go."""
    middles = [(one + other) / 2 for one, other in pairwise(values)]
    return [values[0] - 10**-DIGITS, *middles, values[-1] + 10**-DIGITS]


def _threshold(value: float, high: Sequence[float], low: Sequence[float]) -> Threshold:
    value = round(min(max(value, 0.0), 1.0), DIGITS)
    return Threshold(
        value=value, kept=sum(each >= value for each in high), left_out=sum(each < value for each in low)
    )
