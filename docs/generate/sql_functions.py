"""The page `sql-functions.md`: the functions for applications, from the migrations that define them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from tasks.arguments import Index
from worker.documents import Document
from worker.reference import Meaning, meanings

from .text import block, bullets, page, table, wrapped

INTRODUCTION = """\
# SQL functions

Call these in the transaction that changes a row: [how to](../how-to/transactions.md). They return nothing, and run with
the rights of their owner. Pass arguments by position or by name (`title => 'Lending'`). Workers create the functions
when they first start.
"""
RIGHTS = """\
## Rights

Nobody but the owner may call them at first. Grant them to the role of your application:
"""
ERRORS = """\
## Errors

A function that refuses its input raises one of these, with SQLSTATE 22023 (`invalid_parameter_value`); your transaction
fails, as for any other error. `…` is in place of values.
"""
KINDS = {"anynonarray": "any other type with a text form, except arrays"}
DEFINITION = re.compile(
    r"CREATE (?:OR REPLACE )?FUNCTION vector_index\.(\w+)\((.*?)\)\s*RETURNS (.*?)(?:\$\$;|AS '.*?';)",
    re.DOTALL,
)
COMMENT = re.compile(r"COMMENT ON FUNCTION vector_index\.(\w+)\(([^)]*)\) IS '((?:[^']|'')*)'")
DROP = re.compile(r"DROP FUNCTION (?:IF EXISTS )?vector_index\.(\w+)\(([^)]*)\)")
MESSAGE = re.compile(r"MESSAGE = (?:format\()?\s*'((?:[^']|'')*)'")


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function as its newest migration defines it."""

    name: str
    arguments: Sequence[tuple[str, str, str | None]]  # name, type, default
    body: str
    comment: str = ""

    @property
    def types(self) -> str:
        return ", ".join(kind for _, kind, _ in self.arguments)

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.types


def text() -> str:
    """Return the page. Raises ValueError for a function without a comment, and an argument without a meaning."""
    offered = [function for function in functions() if not _is_helper(function)]
    by_name = {
        function.name: [each for each in offered if each.name == function.name] for function in offered
    }
    granted = ",\n".join(f"    vector_index.{function.name}({function.types})" for function in offered)
    grant = f"GRANT USAGE ON SCHEMA vector_index TO application;\nGRANT EXECUTE ON FUNCTION\n{granted}\nTO application;"
    sections = [section(*overloads) for overloads in by_name.values()]
    return page(INTRODUCTION, *sections, RIGHTS, block(grant, "sql"), ERRORS, bullets(messages()))


def section(*overloads: Function) -> str:
    """Return the section of a function, with all types that its arguments may have."""
    for function in overloads:
        if not function.comment:
            raise ValueError(f"vector_index.{function.name}({function.types}) has no COMMENT ON FUNCTION")
    known, rows = described(), []
    for same in zip(*(function.arguments for function in overloads), strict=True):
        name, _, default = same[0]
        if name not in known:
            raise ValueError(f"argument {name!r} of vector_index.{overloads[0].name} has no meaning")
        kinds = " or ".join(dict.fromkeys(KINDS.get(kind, f"`{kind}`") for _, kind, _ in same))
        rows.append([f"`{name}`", kinds, "required" if default is None else f"`{default}`", known[name].text])
    called = "\n".join(f"vector_index.{function.name}({function.types})" for function in overloads)
    return page(
        f"## {overloads[0].name}",
        block(called),
        wrapped(overloads[0].comment),
        table(["argument", "type", "default", "meaning"], rows),
    )


@cache
def migrations() -> str:
    """Return all migrations, in order."""
    folder = resources.files("worker.store").joinpath("sql", "migrations")
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name
    )
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def functions() -> Sequence[Function]:
    """Return the functions that all migrations together leave, the oldest first."""
    found: dict[tuple[str, str], Function] = {}
    for match in sorted(
        (match for pattern in (DEFINITION, COMMENT, DROP) for match in pattern.finditer(migrations())),
        key=lambda match: match.start(),
    ):
        if match.re is DEFINITION:
            function = Function(name=match[1], arguments=_arguments(match[2]), body=match[3])
            before = found.get(function.key)
            found[function.key] = replace(function, comment=before.comment if before else "")
        elif match.re is DROP:
            found.pop((match[1], match[2]), None)
        elif (key := (match[1], match[2])) in found:
            found[key] = replace(found[key], comment=match[3].replace("''", "'"))
    return list(found.values())


def described() -> Mapping[str, Meaning]:
    """Return the meaning of each argument: the fields of a document, and the index."""

    def owner(index_name: Index) -> None: ...

    return {**meanings(Document), **meanings(owner)}


def messages() -> Sequence[str]:
    """Return the messages of the errors that the functions raise."""
    said = {text for function in functions() for text in MESSAGE.findall(function.body)}
    return sorted(re.sub(r"%[sLI]", "…", text.replace("''", "'")) for text in said)


def _is_helper(function: Function) -> bool:
    """Whether only other functions call it."""
    return any(
        f"vector_index.{function.name}(" in other.body for other in functions() if other.name != function.name
    )


def _arguments(declared: str) -> Sequence[tuple[str, str, str | None]]:
    parts = [" ".join(part.split()) for part in declared.split(",")]
    found = []
    for part in parts:
        left, _, default = part.partition(" DEFAULT ")
        name, _, kind = left.partition(" ")
        found.append((name, kind, default or None))
    return found
