"""The page `exit-codes.md`: each code, and what it means for a command, from the help texts."""

import re
from collections.abc import Iterator

from worker.cli import COMMANDS
from worker.exit_codes import ExitCode

from .command_line import command
from .text import page, paragraphs, table

INTRODUCTION = """\
# Exit codes

Every command and every worker ends with one of these codes. An error is one line on stderr: [errors](errors.md) lists
them.
"""
COMMANDS_TEXT = """\
## By command

Every command may end with {refused}, {unreachable} or {interrupted}. These say more:
"""


def text() -> str:
    """Return the page. Raises ValueError for a code in a help text that does not exist."""
    for code in ExitCode:
        if not code.meaning:
            raise ValueError(f"{code.name} of worker/exit_codes.py has no meaning")
    codes = [[f"`{code.value}`", code.meaning] for code in ExitCode]
    rows = [[f"[{name}](command-line.md#{name})", f"`{code}`", meaning] for name, code, meaning in cases()]
    return page(
        INTRODUCTION,
        table(["code", "meaning"], codes),
        COMMANDS_TEXT.format(
            refused=ExitCode.REFUSED.value,
            unreachable=ExitCode.UNREACHABLE.value,
            interrupted=ExitCode.INTERRUPTED.value,
        ),
        table(["command", "code", "meaning"], rows),
    )


def cases() -> Iterator[tuple[str, int, str]]:
    """Yield what a code means for a command: `Exit code 1: ...; 3: ...` in its help."""
    for name in COMMANDS:
        for said in re.findall(
            r"Exit code (\d+: .+?)\.(?: |$)", " ".join(paragraphs(command(name).callback))
        ):
            for part in re.split(r"; (?=\d+: )", said):
                code, _, meaning = part.partition(": ")
                yield name, ExitCode(int(code)).value, meaning
