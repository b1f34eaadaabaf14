"""What every command prints goes through here: text of documents must not control the terminal, or end in an error."""

import sys
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
    click.echo(printable(str(text)), err=err, nl=nl)


def print_json(value: object) -> None:
    """Print a value as one line of JSON; in ASCII where stdout is not UTF-8."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    click.echo(dumps(value, ascii_only=not utf8))
