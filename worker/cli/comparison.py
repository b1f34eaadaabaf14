"""What `eval --against` compares with: the results of an earlier run, or another mode of the same run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from worker.cli.comparing import LEVEL, Difference, Run, compare, read_run
from worker.cli.judging import Scores
from worker.errors import InvalidQuery
from worker.search.queries import MODES


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The differences between the modes of a run and their baseline."""

    against: str  # the file or the mode
    questions: int  # that have an answer and are in both runs
    modes: Mapping[str, Mapping[str, Difference]]  # by mode, then by figure

    @property
    def heading(self) -> str:
        return f"compared with {self.against}, {self.questions:,} questions in both, {LEVEL}% intervals"

    def as_json(self) -> dict[str, Any]:
        return {
            "against": self.against,
            "questions": self.questions,
            "modes": {
                mode: {name: difference.as_json() for name, difference in figures.items()}
                for mode, figures in self.modes.items()
            },
        }

    def table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("mode", "figure"):
            table.add_column(name)
        for name in ("before", "after", "difference", "interval"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for mode, figures in self.modes.items():
            for at, (name, found) in enumerate(figures.items()):
                table.add_row(
                    "" if at else mode,
                    name,
                    f"{found.before:.3f}",
                    f"{found.after:.3f}",
                    f"{found.after - found.before:+.3f}",
                    f"{found.low:+.3f} to {found.high:+.3f}",
                    found.verdict,
                )
        return table


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a run is compared with."""

    against: str
    runs: Mapping[str, Run] | None  # of a file, by mode; None: a mode of this run

    @classmethod
    def read(cls, against: str, modes: Sequence[str]) -> "Baseline":
        """Read the file, or check that the mode is measured and another one is, too. Raises InvalidQuery."""
        if against not in MODES:
            return cls(against=against, runs=read_run(Path(against)))
        if against not in modes or len(set(modes)) < 2:
            raise InvalidQuery(
                f"--against names mode {against!r}: measure it and another one, as in --mode {against} --mode "
                f"{next(mode for mode in MODES if mode != against)}"
            )
        return cls(against=against, runs=None)

    def compare(self, found: Mapping[str, Scores]) -> Comparison:
        """Compare each measured mode with the baseline. Raises InvalidQuery if both share no mode or no question."""
        pairs = {mode: (self._before(mode, found), scores.by_question()) for mode, scores in found.items()}
        compared = {mode: compare(before, after) for mode, (before, after) in pairs.items() if before}
        shared = {mode: figures for mode, (_, figures) in compared.items() if figures}
        if not shared:
            raise InvalidQuery(
                f"--against {self.against} has no mode, figure and question of this run: ask the same questions with "
                "the same --mode and --limit"
            )
        return Comparison(
            against=self.against, questions=max(number for number, _ in compared.values()), modes=shared
        )

    def _before(self, mode: str, found: Mapping[str, Scores]) -> Run:
        if self.runs is not None:
            return self.runs.get(mode, [])
        return [] if mode == self.against else found[self.against].by_question()
