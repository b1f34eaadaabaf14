"""`index`: send files to the workers in batches, and wait for the results."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import click
from celery.result import AsyncResult
from rich.progress import MofNCompleteColumn, TimeElapsedColumn

from worker.cli.client import POLL_SECONDS, Client, StallDetector, TaskFailed, progress_of, result_of
from worker.cli.input_files import InputFiles
from worker.cli.options import index_and_json
from worker.cli.output import counted, print_result, progress_bar
from worker.cli.waiting import WaitReason, work_goes_on
from worker.configuration import load
from worker.exit_codes import ExitCode
from worker.keyspace import EMBED, STAGING
from worker.packing import batches

# The broker stores a message base64-encoded, and a second time while its task runs: keep it near 100 kB.
MESSAGE_BYTES, MESSAGE_DOCUMENTS = 100_000, 100
MAX_IN_FLIGHT = 32  # messages; later documents are read when earlier ones are done
COUNTS = ("indexed", "unchanged", "stale", "chunks", "embedded", "tokens")

Documents = list[dict[str, Any]]


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@index_and_json
def index(paths: tuple[Path, ...], index: str, as_json: bool) -> ExitCode:
    """Index files and folders, and wait until they are searchable.

    Reads text, Markdown, reStructuredText, HTML, and JSON lines of documents ({"id", "text", "title"?,
    "metadata"?, "version"?}). A document's id is its path relative to the folder that you name. Indexing it again
    replaces it. On Ctrl-C, the workers go on with the documents that were sent. Exit code 1: some documents failed.
    """
    configuration = load()
    configuration.index(index)
    files = InputFiles(paths, configuration.max_document_bytes)
    report = Report()
    client = Client(configuration)
    messages = batches(files.documents(), _bytes, weight_limit=MESSAGE_BYTES, size_limit=MESSAGE_DOCUMENTS)
    started = time.monotonic()
    with work_goes_on(
        lambda: f"{counted(report.sent, 'document')}: see `vector-index status`; run it again for the others"
    ):
        for batch, result in _send_all(client, index, messages, report):
            report.add(batch, result)
    files.check_found(report.documents)
    report.seconds = time.monotonic() - started
    print_result(report.as_json(index, files), as_json, report.lines(index, files))
    return ExitCode.FAILED if report.failed or files.unread else ExitCode.DONE


@dataclass
class Report:
    """The results of the documents that were sent."""

    sent: int = 0  # documents
    documents: int = 0  # of these, those with a result
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    failed: list[dict[str, str]] = field(default_factory=list)  # documents: id and error
    seconds: float = 0.0

    def add(self, documents: Documents, result: "AsyncResult[Any]") -> None:
        """Add the result of one message. Raises an error that would repeat with every message."""
        self.documents += len(documents)
        try:
            counts = result_of(result)
        except TaskFailed as error:
            self.failed += [{"id": str(document["id"]), "error": str(error)} for document in documents]
            return
        self.counts = {key: value + counts[key] for key, value in self.counts.items()}
        self.failed += counts["failed"]

    def as_json(self, index: str, files: InputFiles) -> dict[str, Any]:
        return {
            "index": index,
            "documents": self.documents,
            **self.counts,
            "failed": self.failed,
            **files.as_json(),
            "seconds": round(self.seconds, 2),
        }

    def lines(self, index: str, files: InputFiles) -> Iterator[str]:
        counts = {key: f"{value:,}" for key, value in self.counts.items()}
        yield (
            f"{index}: {counts['indexed']} indexed, {counts['unchanged']} unchanged, {counts['stale']} stale, "
            f"{len(self.failed) + len(files.unread):,} failed"
        )
        yield (
            f"{counts['chunks']} chunks, {counts['embedded']} embedded with {counts['tokens']} tokens, "
            f"{self.seconds:.1f} s"
        )
        yield from files.problem_lines(self.failed)


def _bytes(document: dict[str, Any]) -> int:
    return len(document["text"].encode(errors="replace"))


def _send_all(
    client: Client, index: str, messages: Iterator[Documents], report: Report
) -> Iterator[tuple[Documents, "AsyncResult[Any]"]]:
    """Send all batches, MAX_IN_FLIGHT at a time; yield each batch with its result when that is ready."""
    in_flight: list[tuple[Documents, AsyncResult[Any]]] = []
    stall, reason = StallDetector(client, STAGING, EMBED), WaitReason(client, index)
    with progress_bar("indexing", MofNCompleteColumn(), TimeElapsedColumn()) as update:
        while True:
            for batch in islice(messages, MAX_IN_FLIGHT - len(in_flight)):
                result = client.send("tasks.index_documents", STAGING, index=index, documents=batch)
                in_flight.append((batch, result))
                report.sent += len(batch)
            with client.reachable():
                ready = [pair for pair in in_flight if pair[1].ready()]
                states = [progress_of(result) for _, result in in_flight]
            in_flight = [pair for pair in in_flight if pair not in ready]
            yield from ready
            update(
                completed=report.documents + sum(counts.get("done", 0) for _, counts in states),
                total=report.documents + _count(batch for batch, _ in in_flight),
            )
            if not in_flight:
                return
            if not ready:
                stall.check((report.documents, states))
                reason.check((report.documents, states))
                time.sleep(POLL_SECONDS)


def _count(batches: Iterator[Sequence[object]]) -> int:
    return sum(map(len, batches))
