"""The page `log-events.md`: every event of the log, checked against the code that logs it."""

import ast
import re
from collections.abc import Iterator, Set

from worker.observability.log_events import EVENTS, FIELDS, LogEvent

from .code import modules, nodes
from .text import page, table

REGISTRY = "worker/observability/log_events.py"
EVENT = re.compile("[a-z]+(_[a-z]+)*")
LEVELS = ("debug", "info", "warning", "error", "critical")

INTRODUCTION = """\
# Log events

Workers and the beat log to stderr, one line per event. With `VECTOR_INDEX_LOG_FORMAT=json` each line is a JSON object:
`time` (ISO 8601 in UTC), `level`, `logger`, `event`, then the fields of the event, and `traceback` for a bug. A field
without a value is left out. [How to read the log](../how-to/monitoring.md#logs).

No line holds the text of a document, a question, an answer or a key.
"""


def text() -> str:
    """Return the page. Raises ValueError if the code logs another event, level or field than the registry has."""
    if found := list(differences()):
        raise ValueError(f"{REGISTRY} differs from the code: {'; '.join(found)}")
    events = [[f"`{name}`", each.level, _listed(each.fields), each.meaning] for name, each in EVENTS.items()]
    fields = [[f"`{name}`", meaning] for name, meaning in sorted(FIELDS.items())]
    return page(
        INTRODUCTION,
        "## Events",
        table(["event", "level", "fields", "meaning"], events),
        "## Fields",
        table(["field", "meaning"], fields),
    )


def differences() -> Iterator[str]:
    """Yield what the code logs and the registry lacks, and the other way round."""
    for path, module in modules().items():
        for name, level, fields in logged(module):
            known = EVENTS.get(name)
            if known is None:
                yield f"{path} logs {name!r}"
            else:
                yield from (f"{path} logs {name!r} {what}" for what in _unlike(known, level, fields))
    said = {
        part.value
        for path, module in modules().items()
        if path != REGISTRY
        for part in nodes(module)
        if isinstance(part, ast.Constant)
    }
    yield from (f"nothing logs {name!r}" for name in EVENTS if name not in said)
    listed = {field for event in EVENTS.values() for field in event.fields}
    yield from (f"field {field!r} has no meaning" for field in sorted(listed - FIELDS.keys()))
    yield from (f"no event has the field {field!r}" for field in sorted(FIELDS.keys() - listed))


def logged(module: ast.Module) -> Iterator[tuple[str, str | None, Set[str]]]:
    """Yield each event that a module logs by name, with its level (None: computed) and the fields that it names."""
    for function in nodes(module):
        if not isinstance(function, ast.FunctionDef):
            continue
        assigned = {
            target.id: node.value
            for node in nodes(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in nodes(function):
            method = _method(call)
            if method is None or not isinstance(call, ast.Call):
                continue
            event = call.args[1 if method == "log" else 0]
            if isinstance(event, ast.Constant) and EVENT.fullmatch(str(event.value)):
                extra = next((each.value for each in call.keywords if each.arg == "extra"), None)
                extra = assigned.get(extra.id) if isinstance(extra, ast.Name) else extra
                yield str(event.value), method if method in LEVELS else None, _fields(extra)


def _method(node: ast.AST) -> str | None:
    """Return the method that a call of a logger names."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    owner = node.func.value
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return node.func.attr if name in ("logger", "_logger") else None


def _fields(extra: ast.expr | None) -> Set[str]:
    """Return the fields of a call of log_fields, as far as it names them."""
    keywords = extra.keywords if isinstance(extra, ast.Call) else []
    named = {each.arg for each in keywords if each.arg}
    several = any(each.arg is None and "document_fields" in ast.unparse(each.value) for each in keywords)
    return named | ({"documents", "ids"} if several else set())


def _unlike(event: LogEvent, level: str | None, fields: Set[str]) -> Iterator[str]:
    if level is not None and level not in event.level.split(" or "):
        yield f"at level {level}"
    for field in sorted(fields - set(event.fields)):
        yield f"with the field {field!r}"


def _listed(fields: tuple[str, ...]) -> str:
    return ", ".join(f"`{field}`" for field in fields)
