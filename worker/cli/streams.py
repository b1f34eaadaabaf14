"""What every command prints goes through here: text of documents must not control the terminal, or end in an error."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

import click

from worker.observability.printing import dumps, printable


def prepare_streams() -> None:
    """Let stdout and stderr print every character, as an escape where their encoding lacks it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print text that may come from a document, a file name or a server; control characters show as escapes."""
    with _told():
        click.echo(printable(str(text)), err=err, nl=nl)


def print_json(value: object) -> None:
    """Print a value as one line of JSON; in ASCII where stdout is not UTF-8."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    with _told():
        click.echo(dumps(value, ascii_only=not utf8))


def flush() -> None:
    """Write what stdout has in its buffer; a program may have closed it before it started us."""
    if sys.stdout is not None:
        with _told():
            sys.stdout.flush()


def discard_stdout() -> None:
    """Send stdout nowhere: it cannot be written to, and the interpreter's flush at exit must not raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _told() -> Iterator[None]:
    """Turn an output that cannot be written, as on a full disk, into one sentence. Raises BrokenPipeError as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise click.ClickException(
            f"the output cannot be written ({error.strerror}); free space, or send it elsewhere"
        ) from None
