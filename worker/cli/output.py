"""The output of commands: results as JSON or lines on stdout, a progress bar on stderr."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from worker.cli.streams import echo, print_json

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


def print_result(value: object, as_json: bool, lines: Iterable[str]) -> None:
    """Print a result: as one JSON object, or as lines for a person."""
    if as_json:
        print_json(value)
    else:
        # a line break in an id or a title would begin a line that looks like ours
        echo("\n".join(line.replace("\n", " ") for line in lines))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 document", "2,000 documents"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def first_lines(lines: Sequence[str], limit: int) -> Iterator[str]:
    """Yield the first lines, each without line breaks, and how many more --json would print."""
    yield from (" ".join(line.split()) for line in lines[:limit])
    if len(lines) > limit:
        yield f"and {len(lines) - limit:,} more: use --json to print all"


def source_lines(sources: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the numbered sources of an answer; * marks those that the answer cites."""
    for number, source in enumerate(sources, start=1):
        title = f"{source['title']}  " if source["title"] else ""
        cited = " *" if source["cited"] else ""
        yield f"[{number}] {title}{source['document_id']}, {source['start']}-{source['end']}{cited}"


@contextmanager
def progress_bar(
    description: str, *columns: "ProgressColumn", total: float | None = None
) -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr while the block runs, if stderr is a terminal.

    Yields the function that updates it: `completed`, `total` or `advance` as keywords.
    """
    # here, since most commands print none
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    shown = (TextColumn(description), BarColumn(), *columns)
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield partial(progress.update, progress.add_task(description, total=total))
