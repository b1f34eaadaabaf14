"""The page `errors.md`: every error class, and every message that the code can raise, as the code spells it."""

import ast
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cache

from worker import errors
from worker.configuration.messages import FIXES

from .code import modules, nodes
from .text import block, bullets, page, wrapped

UNKNOWN = "…"  # in place of a value
REASONS = ("message", "KILLED", "TEXT_IS_MISSING")  # names of reasons of failed documents
LEAST_WORDS = 3  # of a message; a shorter one is made of others

INTRODUCTION = """\
# Errors

Every error is one sentence that says what is wrong, with the value, and what to do. Search this page for a part of your
message; `…` is in place of values. A message never contains the text of a document, a question or a key.

You meet errors in four places:

- [A task raises one](tasks.md#errors). Your application catches it by class.
- A document fails alone. Its sentence is in `failed` of the result, in `tasks.failures` and in `vector-index failures`.
- A command prints one line on stderr and ends with an [exit code](exit-codes.md).
- A worker logs one in the field `error` of an [event](log-events.md).

The classes, by what you can do about them:
"""
FIX = """\
A setting with a value of the wrong type or out of range is one sentence, `NAME of OWNER is VALUE; FIX`. The fixes:
"""
FAILED = """\
## Reasons of failed documents

Most documents fail with an error above: `InvalidDocument`, or what the provider says of them. The others are:
"""
OUTBOX = """\
The [SQL functions](sql-functions.md#errors) have messages of their own.
"""


def text() -> str:
    """Return the page. Raises ValueError for a class that does not say what to do."""
    classes = found()
    messages = messages_of(classes)
    parts = [INTRODUCTION, block(tree())]
    for name, lines in classes.items():
        meaning, remedy = described(name, lines)
        parts += [f"## {name}", wrapped(meaning), wrapped(f"**Do**: {remedy}")]
        parts.append(bullets(shown(message) for message in messages[name]))
        if name == "SettingsError":
            parts += [FIX, bullets(shown(fix) for fix in fixes())]
    return page(*parts, FAILED, bullets(shown(reason) for reason in reasons()), OUTBOX)


def tree() -> str:
    """Return the tree of the classes, as the module of errors draws it."""
    return (errors.__doc__ or "").split("\n\n")[1]


def described(name: str, docstring: Sequence[str]) -> tuple[str, str]:
    """Return what an error means and what to do, from the paragraphs of its docstring."""
    remedy = [part.removeprefix("Do: ") for part in docstring if part.startswith("Do: ")]
    if not remedy:
        raise ValueError(f"the docstring of {name} does not say what to do: add a paragraph `Do: ...`")
    return " ".join(part for part in docstring if not part.startswith("Do: ")), remedy[0]


def found() -> Mapping[str, Sequence[str]]:
    """Return the error classes, those of other modules after their base, each with the paragraphs of its docstring."""
    classes = {
        node.name: node
        for tree in modules().values()
        for node in nodes(tree)
        if isinstance(node, ast.ClassDef)
    }
    own = [name for name in vars(errors) if name in classes]
    others = [name for name in classes if name not in own and _is_error(name, classes)]
    return {name: paragraphs_of(classes[name]) for name in [*own, *sorted(others)]}


def _is_error(name: str, classes: Mapping[str, ast.ClassDef]) -> bool:
    bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name)] if name in classes else []
    return name in ("VectorIndexError", "Bug") or any(_is_error(base, classes) for base in bases)


def paragraphs_of(node: ast.ClassDef) -> list[str]:
    return [" ".join(part.split()) for part in (ast.get_docstring(node) or "").split("\n\n")]


def messages_of(classes: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    """Return the messages of each class, in the order of the alphabet."""
    messages: dict[str, list[str]] = {name: [] for name in classes}
    for module in modules().values():
        for name, argument in _raised(module, classes):
            messages[name] += spelled(argument, module)
    return {name: _sorted(each) for name, each in messages.items()}


def _raised(module: ast.Module, classes: Container[str]) -> Iterator[tuple[str, ast.expr]]:
    """Yield each error that a module makes, by class, with its message."""
    for node in nodes(module):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            calls = [call for call in nodes(node) if isinstance(call, ast.Call) and _name(call.func) == "cls"]
            yield from ((node.name, call.args[0]) for call in calls if call.args)
        elif isinstance(node, ast.Call) and node.args:
            name = "SettingsError" if _name(node.func) == "exit_with" else _name(node.func)
            if name in classes:
                yield name, node.args[0]


def reasons() -> Sequence[str]:
    """Return the reasons of failed documents that no error class has."""
    return _sorted(
        message
        for path, module in modules().items()
        if path.startswith(("worker/indexing/", "worker/store/"))
        for name in REASONS
        for value in assigned(module).get(name, ())
        for message in spelled(value, module)
    )


def fixes() -> Sequence[str]:
    """Return the ends of the sentence about a setting with a wrong value."""
    raised = [
        message
        for path, module in modules().items()
        if path.startswith(("worker/configuration/", "worker/sources/scheduling"))
        for node in nodes(module)
        if isinstance(node, ast.Call) and node.args and _name(node.func) == "ValueError"
        for message in spelled(node.args[0], module)
    ]
    return _sorted([*(re.sub(r"\{\w+\}", UNKNOWN, fix) for fix in FIXES.values()), *raised])


def _sorted(messages: Iterable[str]) -> Sequence[str]:
    """Return each message once, in the order of the alphabet; leave out those that consist of values."""
    return sorted(
        {said for said in messages if len(_words(said)) >= LEAST_WORDS}, key=lambda said: (_words(said), said)
    )


def spelled(node: ast.expr, module: ast.Module) -> Iterator[str]:
    """Yield the messages that an expression may have, with UNKNOWN in place of values."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            yield "".join(next(spelled(value, module)) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield next(spelled(left, module)) + next(spelled(right, module))
        case ast.IfExp(body=body, orelse=orelse):
            yield from spelled(body, module)
            yield from spelled(orelse, module)
        case ast.Call(func=ast.Attribute(value=value, attr="format")):
            yield from (re.sub(r"\{[^}]*\}", UNKNOWN, text) for text in spelled(value, module))
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FormattedValue(value=ast.Name(id=name)):
            known = constants() if name.isupper() else assigned(module)
            is_value = isinstance(node, ast.FormattedValue) and not name.isupper()
            values = [] if is_value else known.get(name, [])
            yield from [text for value in values for text in spelled(value, module)] or [UNKNOWN]
        case _:
            yield UNKNOWN


@cache
def constants() -> Mapping[str, list[ast.expr]]:
    """Return the texts that modules keep in constants, by name."""
    return {
        name: values
        for module in modules().values()
        for name, values in assigned(module).items()
        if name.isupper()
    }


@cache
def assigned(module: ast.Module) -> Mapping[str, list[ast.expr]]:
    """Return the texts that a module assigns, by name."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes(module):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
    return found


def shown(message: str) -> str:
    """Return a message as Markdown; code spans stay as they are."""
    parts = " ".join(message.split()).split("`")
    return "`".join(part if at % 2 else re.sub(r"([*<])", r"\\\1", part) for at, part in enumerate(parts))


def _name(func: ast.expr) -> str:
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""


def _words(message: str) -> list[str]:
    return re.findall(r"\w+", message.casefold())
