"""Options and argument values that several commands share."""

import json
from collections.abc import Callable
from typing import Any

import click

from worker.errors import InvalidQuery

Command = Callable[..., Any]

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
filter_option = click.option(
    "--filter",
    "filter_",
    help='Metadata filter as JSON, such as \'{"language": "en"}\'. Operators: $in, $gt, $or and others.',
)


def index_and_json(command: Command) -> Command:
    """Add --index and --json to a command."""
    return click.option("--index", default="default", show_default=True, help="Name of the index.")(
        json_option(command)
    )


def loglevel_option(default: str) -> Callable[[Command], Command]:
    """Return the decorator that adds --loglevel to a command."""
    return click.option(
        "--loglevel",
        type=click.Choice(LOG_LEVELS, case_sensitive=False),
        default=default,
        show_default=True,
        help="Log messages of this level and above.",
    )


def parse_filter(text: str | None) -> Any:
    """Return the value of --filter. Raises InvalidQuery if it is not JSON."""
    return None if text is None else parse_json("--filter", text, '{"language": "en"}')


def parse_json(option: str, text: str, example: str) -> Any:
    """Return the value of an option. Raises InvalidQuery, with the example, if it is not JSON."""
    from worker.documents import read_json  # here, since most commands get none

    try:
        return read_json(text)
    except (json.JSONDecodeError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
        raise InvalidQuery(
            f"{option} is {text!r:.200}, which is not JSON ({reason}): write it as in '{example}'"
        ) from None
