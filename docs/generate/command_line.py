"""The page `command-line.md`: the help of every command."""

from copy import copy

import click

from worker.cli import COMMANDS, PROGRAM, SECTIONS, cli

from .text import block, page

COLUMNS = 100  # of a help text

INTRODUCTION = """\
# Command line

Each command prints its help with `--help` or `-h`. Most commands send tasks through the broker, as your application
does, so a worker must be running. They read the same [settings](settings.md) as the workers. An
[error](errors.md) is one line on stderr, and the process ends with an [exit code](exit-codes.md).
"""


def text() -> str:
    """Return the page."""
    parts = [INTRODUCTION, block(help_of(cli))]
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
