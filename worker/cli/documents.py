"""`index`, `delete`, `search`."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import click
from celery.result import AsyncResult
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worker.cli.client import LOOK_SECONDS, Client, TaskFailed, Waiting, outcome
from worker.configuration import load
from worker.documents import document_ids
from worker.errors import InvalidQuery
from worker.indexing.packing import batches
from worker.keyspace import CHAT, STAGING
from worker.protocols import Skipped
from worker.sources import files

# A message is stored base64 in the broker, and again while its task runs: about 100 kB each is kind to it.
MESSAGE_BYTES, MESSAGE_DOCUMENTS = 100_000, 100
MAX_IN_FLIGHT = 32  # messages; what is not sent yet stays on disk
MAX_SHOWN = 20  # failures on a terminal; --json has all
DELETE_IDS = 1000  # per message
SHOWN_CHARACTERS = 300  # of a passage

Command = Callable[..., Any]


def options(command: Command) -> Command:
    """--index and --json."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)
    return click.option("--index", default="default", show_default=True, help="Name of the index.")(command)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@options
def index(paths: tuple[Path, ...], index: str, as_json: bool) -> int:
    """Index files and folders, and wait until all is searchable.

    Text, Markdown, reStructuredText, HTML, and JSON lines of documents ({"id", "text", "title"?,
    "metadata"?, "version"?}).
    A document's id is its path below the folder; indexing again replaces it. Exit code 1: some failed.
    """
    configuration = load()
    configuration.index(index)
    report = Report()
    documents = read(paths, configuration.max_document_bytes, report)
    client = Client(configuration)
    messages = batches(documents, _bytes, weight_limit=MESSAGE_BYTES, size_limit=MESSAGE_DOCUMENTS)
    started = time.monotonic()
    for batch, result in _sent(client, index, messages, report):
        report.add(batch, result)
    report.check(paths)
    report.seconds = time.monotonic() - started
    output(report.as_json(index), as_json, report.lines(index))
    return 1 if report.problems else 0


@click.command()
@click.argument("ids", nargs=-1, required=True)
@options
def delete(ids: tuple[str, ...], index: str, as_json: bool) -> None:
    """Delete documents by their ids; an id that the index does not have is no error."""
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    total = {"index": index, "deleted": 0, "stale": 0}
    unsent = iter(document_ids(list(ids)))
    while some := list(islice(unsent, DELETE_IDS)):
        counts = client.call("tasks.delete_documents", STAGING, index=index, ids=some)
        total |= {key: total[key] + counts[key] for key in ("deleted", "stale")}
    output(total, as_json, [f"{total['deleted']:,} deleted from {index}"])


@click.command()
@click.argument("query")
@click.option("--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="Passages at most.")
@click.option("--mode", default="hybrid", show_default=True, help="Or vector, or text.")
@click.option("--filter", "filter_", help='On metadata, as JSON: \'{"language": "en"}\'.')
@options
def search(query: str, limit: int, mode: str, filter_: str | None, index: str, as_json: bool) -> None:
    """Search an index: passages, the best first."""
    configuration = load()
    configuration.index(index)
    kwargs = {"query": query, "limit": limit, "mode": mode, "filter": filter_of(filter_), "index": index}
    rows = Client(configuration).call("tasks.search", CHAT, **kwargs)
    output(
        {"index": index, "results": rows}, as_json, _passages(rows) if rows else [f"nothing found in {index}"]
    )


# Indexing


@dataclass
class Report:
    """What became of all that was named."""

    documents: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("indexed", "unchanged", "stale", "chunks", "embedded", "tokens"), 0
        )
    )
    failed: list[dict[str, str]] = field(default_factory=list)  # documents: id and error
    unread: list[dict[str, str]] = field(default_factory=list)  # files and lines: path and reason
    passed_over: int = 0  # files in named folders whose ending is none of ours
    seconds: float = 0.0

    @property
    def problems(self) -> int:
        return len(self.failed) + len(self.unread)

    def skip(self, skipped: Skipped, named: Iterable[Path]) -> None:
        path = Path(skipped.path)
        if path.suffix.lower() not in files.ENDINGS and path not in named and path.is_file():
            self.passed_over += 1
        else:
            self.unread.append({"path": skipped.path, "reason": skipped.reason})

    def add(self, documents: list[dict[str, Any]], result: "AsyncResult[Any]") -> None:
        """Count one message's result; raises the errors that every further message would meet."""
        self.documents += len(documents)
        try:
            counts = outcome(result)
        except TaskFailed as error:
            self.failed += [{"id": str(document["id"]), "error": str(error)} for document in documents]
            return
        self.counts = {key: value + counts[key] for key, value in self.counts.items()}
        self.failed += counts["failed"]

    def check(self, paths: Iterable[Path]) -> None:
        """Raises InvalidQuery where there was nothing to index."""
        if not (self.documents or self.problems):
            endings = ", ".join(sorted(files.ENDINGS))
            raise InvalidQuery(
                f"nothing to index in {', '.join(map(str, paths))}: name files that end in {endings}"
            )

    def as_json(self, index: str) -> dict[str, Any]:
        return {
            "index": index,
            "documents": self.documents,
            **self.counts,
            "failed": self.failed,
            "unread": self.unread,
            "passed_over": self.passed_over,
            "seconds": round(self.seconds, 2),
        }

    def lines(self, index: str) -> Iterator[str]:
        counts = {key: f"{value:,}" for key, value in self.counts.items()}
        yield (
            f"{index}: {counts['indexed']} indexed, {counts['unchanged']} unchanged, {counts['stale']} stale, "
            f"{self.problems:,} failed"
        )
        yield (
            f"{counts['chunks']} chunks, {counts['embedded']} embedded with {counts['tokens']} tokens, "
            f"{self.seconds:.1f} s"
        )
        yield from self.problem_lines()

    def problem_lines(self) -> Iterator[str]:
        if self.passed_over:
            yield f"{self.passed_over:,} files of other kinds were passed over"
        for item in (self.failed + self.unread)[:MAX_SHOWN]:
            yield f"failed: {' '.join(': '.join(item.values()).split())}"
        if self.problems > MAX_SHOWN:
            yield f"and {self.problems - MAX_SHOWN:,} more: --json shows all"


def read(paths: tuple[Path, ...], max_bytes: int, report: Report) -> Iterator[dict[str, Any]]:
    """The documents of files and folders; the report learns what gives none. Raises InvalidQuery."""
    # reading begins, and a path that does not exist is told, before the broker is asked for
    items = files.read(paths, max_bytes=max_bytes)

    def documents() -> Iterator[dict[str, Any]]:
        for item in items:
            if isinstance(item, Skipped):
                report.skip(item, paths)
            else:
                yield item

    return documents()


def _bytes(document: dict[str, Any]) -> int:
    return len(document["text"].encode(errors="replace"))


def _sent(
    client: Client, index: str, messages: Iterator[list[dict[str, Any]]], report: "Report"
) -> Iterator[tuple[list[dict[str, Any]], "AsyncResult[Any]"]]:
    """Send all batches, MAX_IN_FLIGHT at a time; yield each with its result when that is ready."""
    flying: list[tuple[list[dict[str, Any]], AsyncResult[Any]]] = []
    waiting = Waiting(client, STAGING)
    with _progress() as show:
        while True:
            for batch in islice(messages, MAX_IN_FLIGHT - len(flying)):
                result = client.send("tasks.index_documents", STAGING, index=index, documents=batch)
                flying.append((batch, result))
            with client.reachable():
                ready = [pair for pair in flying if pair[1].ready()]
                signs = [_progress_of(result) for _, result in flying]
            flying = [pair for pair in flying if pair not in ready]
            yield from ready
            show(
                report.documents + sum(done for _, done in signs),
                report.documents + sum(len(batch) for batch, _ in flying),
            )
            if not flying:
                return
            if not ready:
                waiting.check((report.documents, signs))
                time.sleep(LOOK_SECONDS)


def _progress_of(result: "AsyncResult[Any]") -> tuple[str, int]:
    """State of a task, and how many of its documents are searchable; one look, as it may end any moment."""
    meta = result.backend.get_task_meta(result.id)
    return meta["status"], meta["result"]["done"] if meta["status"] == "PROGRESS" else 0


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal; the function takes what is done and what was sent so far."""
    console = Console(stderr=True)
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("indexing", total=None)
        yield lambda done, sent: progress.update(bar, completed=done, total=sent)


# Output


def output(value: object, as_json: bool, lines: Iterable[str]) -> None:
    click.echo(json.dumps(value, ensure_ascii=False) if as_json else "\n".join(lines))


def _passages(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        similarity = "" if row["similarity"] is None else f"  {row['similarity']:.3f}"
        title = f"{row['title']}  " if row["title"] else ""
        yield f"{number}. {title}[{row['document_id']}, {row['start']}-{row['end']}]{similarity}"
        text = " ".join(row["text"].split())
        yield f"   {text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + '…'}"


def filter_of(text: str | None) -> Any:
    """The value of --filter; raises InvalidQuery where it is not JSON."""
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidQuery(
            f'--filter is {text!r}, not JSON ({error.msg}): write it as in \'{{"language": "en"}}\''
        ) from None
