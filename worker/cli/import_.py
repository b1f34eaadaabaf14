"""`import`: take over the documents and the vectors of a file."""

import gzip
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

import click
from rich.progress import MofNCompleteColumn, TimeElapsedColumn

from worker import wiring
from worker.cli.input_files import MAX_SHOWN
from worker.cli.options import index_and_json
from worker.cli.output import counted, first_lines, print_result, progress_bar
from worker.cli.streams import echo
from worker.configuration import load
from worker.errors import InvalidQuery
from worker.exit_codes import ExitCode
from worker.indexing.transfer import lines
from worker.indexing.transfer.importing import Import, Imported, read_header

STDIN = Path("-")
GZIP = b"\x1f\x8b"
SHOWN_EVERY = 100  # lines


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--no-embed",
    is_flag=True,
    help="Stop before the first document if the index cannot use the file's vectors.",
)
@index_and_json
def import_(file: Path, no_embed: bool, index: str, as_json: bool) -> ExitCode:
    """Take over documents and vectors that `export` wrote, or others.

    Writes to Postgres alone; - reads stdin. If model, dimensions and chunk sizes of the index are those of the file, no
    request is sent. Otherwise workers embed what the index cannot use; the command says so first. A newer version in
    the index stays, and an unchanged document costs nothing: run it again after it was stopped. Exit code 1: some lines
    did not fit.
    """
    configuration = load()
    configuration.index(index)
    done, started, checksum = Imported(), time.monotonic(), lines.new_checksum()
    problem = None
    with _source(file) as source:
        header = read_header(source, str(file), checksum)
        target = wiring.index_without_broker(configuration, index, dimensions=header.dimensions)
        run = Import(index=target, header=header, max_bytes=configuration.max_document_bytes, done=done)
        _announce(run, no_embed)
        try:
            with progress_bar("importing", MofNCompleteColumn(), TimeElapsedColumn()) as update:
                run.run(_told(source, done, update), checksum)
        except KeyboardInterrupt:
            echo("stopped: what is imported stays; run it again for the rest", err=True)
            raise
        except InvalidQuery as error:
            problem = error
    report = {"index": index, **asdict(done), "seconds": round(time.monotonic() - started, 2)}
    print_result(report, as_json, _lines(index, done, report["seconds"]))
    if problem is not None:
        raise problem
    return ExitCode.FAILED if done.failed else ExitCode.DONE


def _announce(run: Import, no_embed: bool) -> None:
    """Say before the first request what the index cannot use."""
    differences = run.differences(run.recipe())
    if not differences:
        return
    reason = "; ".join(differences)
    if no_embed:
        raise InvalidQuery(
            f"index {run.index.name!r} cannot use all vectors of the file ({reason}): change its settings, import into "
            "another index, or leave out --no-embed"
        )
    echo(f"workers embed the chunks that the index cannot take over: {reason}", err=True)


def _told(source: Iterator[bytes], done: Imported, update: Any) -> Iterator[bytes]:
    """Yield the lines, and show the progress."""
    for number, line in enumerate(source):
        if number % SHOWN_EVERY == 0:
            update(completed=done.documents, total=done.total)
        yield line


@contextmanager
def _source(file: Path) -> Iterator[Iterator[bytes]]:
    """Yield the lines of a file, decompressed if it is gzip."""
    try:
        if file == STDIN:
            yield _read(sys.stdin.buffer, file)
            return
        with open(file, "rb") as raw:
            yield _read(raw, file)
    except OSError as error:
        raise InvalidQuery(f"{file} cannot be read: {error.strerror or error}; name another file") from error


def _read(raw: IO[bytes], file: Path) -> Iterator[bytes]:
    buffered = cast(BufferedReader, raw)
    compressed = buffered.peek(2)[:2] == GZIP
    try:
        yield from gzip.GzipFile(fileobj=buffered) if compressed else buffered
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InvalidQuery(
            f"{file} is truncated or damaged: its compressed data end too early. What is imported stays; import the "
            "complete file again"
        ) from None


def _lines(index: str, done: Imported, seconds: float) -> Iterator[str]:
    deleted = f", {done.deleted:,} deleted" if done.deleted else ""
    yield (
        f"{index}: {done.indexed:,} indexed, {done.unchanged:,} unchanged, {done.stale:,} stale{deleted}, "
        f"{len(done.failed):,} failed"
    )
    yield f"{counted(done.chunks, 'chunk')}, {counted(done.vectors, 'vector')} in the file, {seconds:.1f} s"
    if done.queued:
        yield (
            f"{counted(done.queued, 'chunk')} with {done.tokens:,} tokens have no vector yet: workers embed them, see "
            "`vector-index status`"
        )
    yield from first_lines([f"failed: {item['id']}: {item['error']}" for item in done.failed], MAX_SHOWN)
