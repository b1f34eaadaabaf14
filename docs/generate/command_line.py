"""The page `command-line.md`: the help of every command."""

from copy import copy

import click

from worker.cli import COMMANDS, PROGRAM, SECTIONS, cli

from .text import block, page, table

COLUMNS = 100  # of a help text

JSON = """\
## The keys of --json

Most commands print the result of their task, as [tasks](tasks.md#objects-in-results) describes it.
"""
JSON_KEYS = {
    "`up`": (
        "an object per service: `DATABASE_URL`, `BROKER_URL`, one `METRICS_URL_...` for each kind of worker, "
        "`FLOWER_URL` with `FLOWER_USER` and `FLOWER_PASSWORD`; at the end `ready`"
    ),
    "`addresses`": "`DATABASE_URL`, `BROKER_URL`, and of the embedded Postgres `POSTGRES_PROGRAMS`",
    "`index`": (
        "`index`, `documents`, `indexed`, `unchanged`, `stale`, `chunks`, `embedded`, `tokens`, `failed` (as "
        "in [Rejected](tasks.md#rejected)), `unread`, `passed_over`, `passed_over_files`, "
        "`replaced`, `guessed`, `without_text`, `left_out`, "
        "`seconds`"
    ),
    "`plan`": (
        "`index`, `model`, `documents`, `bytes`, `chunks`, `distinct`, `tokens`, `tokens_are`, `requests`, "
        "`fill_tokens`, `fill_inputs`, `price`, `unread`, `passed_over`, `passed_over_files`, "
        "`replaced`, `guessed`, `without_text`, `left_out`"
    ),
    "`delete`": "[Deleted](tasks.md#deleted)",
    "`rebuild`": "[Rebuilt](tasks.md#rebuilt)",
    "`reindex`": "[Reindexed](tasks.md#reindexed)",
    "`export`": "`index`, `file`, `total`, `documents`, `tombstones`, `chunks`, `vectors`, `bytes`",
    "`import`": (
        "`index`, `total`, `documents`, `indexed`, `unchanged`, `stale`, `deleted`, `chunks`, `vectors`, `queued`, "
        "`tokens`, `failed` (as in [Rejected](tasks.md#rejected)), `seconds`"
    ),
    "`schedule`": "[Schedules](tasks.md#schedules)",
    "`search`": "`index`, and `results`: a list of [Row](tasks.md#row)",
    "`ask`": "[Answer](tasks.md#answer)",
    "`questions`": "`index`, `file`, `questions`",
    "`eval`": (
        "`index`, `questions`, `unanswerable`, `absent`, and `modes`: an object of figures for each mode, with a list "
        "of `questions` and their figures; with `--against` also `against`: `against`, `questions`, `modes`"
    ),
    "`doctor`": "`ok`, and `checks`: a list of `name`, `ok`, `detail`, `code`",
    "`models`": (
        "`folder`, `plugins`, and the lists `embedding` and `chat` of `model`, `aliases`, `backend`, "
        "`token_limit`, `batch_token_limit`, `batch_size`, `dimensions`, `output_tokens`, `counted`, `key`, "
        "`error`"
    ),
    "`status`": (
        "[IndexState](tasks.md#indexstate); with ids [DocumentStates](tasks.md#documentstates); with "
        "`--watch` also `documents_per_second`, `chunks_per_second`, `seconds_left`"
    ),
    "`failures`": "`index`, and `failures`: a list of [Failure](tasks.md#failure)",
    "`retry`": "[Retried](tasks.md#retried)",
    "`verify`": "[Verified](tasks.md#verified)",
    "`pause`, `resume`": "[Paused](tasks.md#paused)",
    "`drop`": "[Dropped](tasks.md#dropped)",
}

INTRODUCTION = """\
# Command line

Each command prints its help with `--help` or `-h`. Most commands send tasks through the broker, as your application
does, so a worker must be running. They read the same [settings](settings.md) as the workers. An
[error](errors.md) is one line on stderr, and the process ends with an [exit code](exit-codes.md).
"""


def text() -> str:
    """Return the page."""
    parts = [INTRODUCTION, block(help_of(cli)), JSON, table(("command", "keys"), JSON_KEYS.items())]
    for section, commands in SECTIONS.items():
        parts.append(f"## {section}")
        parts += [f"### {name}\n\n{block(help_of(command(name)))}" for name in commands]
    return page(*parts)


def command(name: str) -> click.Command:
    """Return a command of the program by its name."""
    found = cli.get_command(click.Context(cli), name)
    assert found is not None, f"{name} is not among {COMMANDS}"
    return found


def help_of(command: click.Command) -> str:
    """Return the help that the program prints on a terminal of COLUMNS columns."""
    context = click.Context(cli, info_name=PROGRAM, terminal_width=COLUMNS, **cli.context_settings)
    if command is not cli:
        command = copy(command)
        command._help_option = None  # click keeps the names that the first context of the process gave it
        context = click.Context(command, info_name=command.name, parent=context)
    return command.get_help(context)
