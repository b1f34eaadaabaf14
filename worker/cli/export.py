"""`export`: write an index to a file or to stdout."""

import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import click
from rich.progress import MofNCompleteColumn, TimeElapsedColumn

from worker import services
from worker.cli.options import index_and_json
from worker.cli.output import counted, print_result, progress_bar
from worker.cli.streams import echo
from worker.configuration import load
from worker.errors import InvalidQuery
from worker.indexing.transfer.exporting import Exported
from worker.indexing.transfer.exporting import export as write_index

STDOUT = Path("-")
COMPRESSION = 1  # vectors hardly shrink with more, and take twice as long
SHOWN_EVERY = 100  # lines


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-")
@index_and_json
def export(file: Path, index: str, as_json: bool) -> None:
    """Write an index with its vectors to a file of JSON lines.

    Reads Postgres alone, and one moment of it, while the workers go on. A name that ends in .gz is compressed. Without
    a FILE, or with -, the lines go to stdout. `vector-index import` takes the file over without a request.
    """
    configuration = load()
    configuration.index(index)
    if file == STDOUT and (as_json or sys.stdout.isatty()):
        raise InvalidQuery("the lines go to stdout: name a file, as in `vector-index export index.jsonl.gz`")
    url = configuration.database_url or services.attach(configuration.home, valkey=False).database_url
    done = Exported()
    with (
        _target(file) as target,
        progress_bar("exporting", MofNCompleteColumn(), TimeElapsedColumn()) as update,
    ):

        def write(line: bytes) -> None:
            target.write(line)
            if done.documents % SHOWN_EVERY == 0:
                update(completed=done.documents + done.tombstones, total=done.total)

        write_index(url, index, write, done)
    if file == STDOUT:
        echo("\n".join(_lines(index, file, done)), err=True)
    else:
        print_result({"index": index, "file": str(file), **asdict(done)}, as_json, _lines(index, file, done))


@contextmanager
def _target(file: Path) -> Iterator[IO[bytes]]:
    """Open the target. A file gets its name once it is complete, so that a failure leaves an older one as it was."""
    if file == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    is_special = file.exists() and not file.is_file()  # a pipe or a device
    partial = file if is_special else file.with_name(f"{file.name}.partial")
    try:
        with open(partial, "wb") as raw, _compressed(raw, file) as target:
            yield target
        if not is_special:
            partial.replace(file)
    except OSError as error:
        raise InvalidQuery(
            f"{file} cannot be written: {error.strerror or error}; name another file"
        ) from error
    finally:
        if not is_special:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def _compressed(raw: IO[bytes], file: Path) -> Iterator[IO[bytes]]:
    if file.suffix != ".gz":
        yield raw
        return
    # without a name and a time in its header, the same index makes the same file
    with gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=raw, mtime=0) as target:
        wrapped: Any = target
        yield wrapped


def _lines(index: str, file: Path, done: Exported) -> Iterator[str]:
    tombstones = f", {counted(done.tombstones, 'tombstone')}" if done.tombstones else ""
    to = "" if file == STDOUT else f" to {file}"
    yield (
        f"{index}: exported {counted(done.documents, 'document')}{tombstones}, {counted(done.chunks, 'chunk')} and "
        f"{counted(done.vectors, 'vector')}{to}, {done.bytes / 1e6:,.1f} MB of JSON"
    )
