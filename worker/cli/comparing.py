"""Compare two runs of `eval` question by question: differences of means, with intervals from a paired bootstrap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.documents import read_json
from worker.errors import InvalidQuery

RESAMPLES = 10_000
SEED = 0  # the same runs have the same interval
LEVEL = 95  # percent
DRAWN_AT_ONCE = 500_000  # questions of several resamples: 20 MB with five figures

Run = Sequence[tuple[str, Mapping[str, float]]]  # figures by question, for one mode


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a figure differs between two runs, over the questions of both."""

    before: float  # means
    after: float
    low: float  # of the interval for after - before
    high: float

    @property
    def verdict(self) -> str:
        """Say in words what the interval means."""
        if self.low > 0:
            return "better"
        if self.high < 0:
            return "worse"
        return "equal" if self.before == self.after else "may be chance"

    def as_json(self) -> dict[str, Any]:
        return {
            "before": round(self.before, 4),
            "after": round(self.after, 4),
            "difference": round(self.after - self.before, 4),
            "interval": [round(self.low, 4), round(self.high, 4)],
            "verdict": self.verdict,
        }


def compare(before: Run, after: Run) -> tuple[int, dict[str, Difference]]:
    """Compare the figures that both runs have; returns the number of questions in both, and a difference by figure.

    The interval holds LEVEL percent of the differences of RESAMPLES sets of questions, drawn with replacement. Both
    runs are drawn alike, because a question that is hard for one is mostly hard for the other (Sakai, Evaluating
    Evaluation Metrics based on the Bootstrap, SIGIR 2006). No questions in common: no differences.
    """
    known, measured = dict(before), dict(after)
    shared = [text for text in measured if text in known]
    if not shared:
        return 0, {}
    names = [
        name
        for name in measured[shared[0]]
        if all(name in run[text] for run in (known, measured) for text in shared)
    ]
    old, new = (
        np.array([[run[text][name] for name in names] for text in shared]) for run in (known, measured)
    )
    low, high = np.percentile(_means(new - old), [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
    return len(shared), {
        name: Difference(
            before=float(old[:, at].mean()),
            after=float(new[:, at].mean()),
            low=float(low[at]),
            high=float(high[at]),
        )
        for at, name in enumerate(names)
    }


def read_run(path: Path) -> dict[str, Run]:
    """Read the output of `eval --json`: the figures by question, for each mode. Raises InvalidQuery."""
    try:
        modes = read_json(path.read_text())["modes"]
        return {mode: [_figures(row) for row in values["questions"]] for mode, values in modes.items()}
    except OSError as error:
        raise InvalidQuery(f"--against names {path}, which cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise InvalidQuery(
            f"--against names {path}, which is no result of `vector-index eval --json`: write one with "
            f"`vector-index eval QUESTIONS --json > {path}`"
        ) from error


def _figures(row: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    text = row["question"]
    return text, {name: float(value) for name, value in row.items() if name != "question"}


def _means(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean differences of RESAMPLES sets, one row each."""
    random = np.random.default_rng(SEED)
    questions = len(differences)
    at_once = max(1, DRAWN_AT_ONCE // questions)
    drawn = [
        differences[random.integers(questions, size=(min(at_once, RESAMPLES - start), questions))].mean(
            axis=1
        )
        for start in range(0, RESAMPLES, at_once)
    ]
    return np.concatenate(drawn)
