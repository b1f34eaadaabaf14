"""Lower bounds for the figures of `eval`, so that a build can fail when search becomes worse."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from worker.cli.judging import Scores, figure_names
from worker.errors import InvalidQuery
from worker.search.queries import MODES

_FORM = re.compile(rf"(?:({'|'.join(MODES)}):)?([^:=]+)=(0(?:\.\d+)?|1(?:\.0+)?|\.\d+)")


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The lowest value that a figure may have."""

    mode: str | None  # None: every measured mode
    figure: str
    least: float  # 0 to 1


def parse(values: Sequence[str], *, modes: Sequence[str], limit: int) -> list[Bound]:
    """Read `[MODE:]FIGURE=VALUE`. Raises InvalidQuery for another form, and for a figure that is not measured."""
    return [_bound(value, modes, figure_names(limit)) for value in values]


def broken(bounds: Sequence[Bound], found: Mapping[str, Scores]) -> Iterator[str]:
    """Yield a sentence for each figure below its bound. Raises InvalidQuery if no question has an answer."""
    for bound in bounds:
        for mode in found if bound.mode is None else [bound.mode]:
            value = found[mode].quality()[bound.figure]
            if value is None:
                raise InvalidQuery(
                    f"--fail-below needs {bound.figure}, and no question has an answer: add questions with documents"
                )
            if value < bound.least:
                yield f"{mode}: {bound.figure} is {value:g}, below {bound.least:g}"


def _bound(value: str, modes: Sequence[str], names: Sequence[str]) -> Bound:
    form = _FORM.fullmatch(value)
    if form is None:
        raise InvalidQuery(
            f"--fail-below is {value!r:.100}: write FIGURE=VALUE or MODE:FIGURE=VALUE with a value from 0 to 1, as in "
            f"{names[-1]}=0.9"
        )
    mode, figure, least = form.groups()
    if figure not in names:
        raise InvalidQuery(
            f"--fail-below names {figure!r:.100}: choose {', '.join(names)}, or another --limit"
        )
    if mode is not None and mode not in modes:
        raise InvalidQuery(f"--fail-below names mode {mode!r}, which is not measured: add --mode {mode}")
    return Bound(mode=mode, figure=figure, least=float(least))
