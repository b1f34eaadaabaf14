"""The page `tasks.md`: every task, from its signature, its docstring and the type of its result."""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from celery import Celery, Task

from worker import errors, results
from worker.celery.application import STATIC, TASK_MODULES
from worker.celery.retries import WAIT_FOR_SERVICES
from worker.celery.task import BaseTask
from worker.documents import Document
from worker.reference import Meaning, meanings

from .text import bullets, page, paragraphs, table, wrapped

INTRODUCTION = """\
# Tasks

Your application sends these tasks by name, with arguments by name, and gets a JSON result. It imports nothing of this
project: [how to](../how-to/application.md).

```python
app.send_task("tasks.search", queue="vector_index.chat", kwargs={"query": "opening hours"}).get(timeout=10)
```
"""
STATES = """\
## States

| state | `AsyncResult.info` | meaning |
| --- | --- | --- |
| `PENDING` | null | no worker has taken the task yet, or its result has expired |
| `STARTED` | `{{"pid", "hostname"}}` | a worker has begun; left out for messages of up to 16 kB with documents |
| `PROGRESS` | [Progress](#progress) | documents are being embedded; `tasks.reindex`: or read |
| `PROGRESS` | [RebuildProgress](#rebuildprogress) | `tasks.rebuild`: the new build is being filled |
| `RETRY` | the error | Postgres, Redis or the provider does not answer; the task tries again by itself |
| `SUCCESS` | the result | done |
| `FAILURE` | the error | given up |
| `REVOKED` | the error | you revoked the task |

A result is kept for {result_hours} hours, an error for {error_days} days.
"""
ERRORS = """\
## Errors

A task that fails raises from `AsyncResult.get`. Copy `worker/errors.py` into your application, under the name
`vector_index_errors.py`, and import it: then you catch [the classes of this project](errors.md), with one sentence as
their argument. The module's name, and the names and bases of its classes, are stable.

```python
import vector_index_errors

try:
    rows = app.send_task("tasks.search", queue="vector_index.chat", kwargs={"query": "books"}).get(timeout=10)
except vector_index_errors.TemporaryError:
    rows = []  # the search is down: try again later
```

Without that copy, Celery makes a class for each error that arrives: a direct subclass of `Exception` with the name of
the original. It makes a new class each time, so compare `type(error).__name__`.

Celery raises `NotRegistered` for a name that is no task, and `TaskRevokedError` for a task that you revoked; both are
real classes of `celery.exceptions`. A bug of ours arrives as `Bug`, with the class of the unexpected error in its
message. Every task may raise `InvalidQuery`, for arguments that do not fit.
"""
# labels of paragraphs in a docstring that the page prints apart
LABELS = ("Sent by", "Second run", "Errors")


def text() -> str:
    """Return the page. Raises ValueError for a task, an argument or a field without a description."""
    tasks = found()
    own = {name: task for name, task in tasks.items() if "Sent by" not in labels(task)}
    workers = {name: task for name, task in tasks.items() if name not in own}
    described = {name: entry(task) for name, task in tasks.items()}
    rows = [[f"[{name}](#{anchor(name)})", f"`{queue(name)}`", summary(task)] for name, task in own.items()]
    return page(
        INTRODUCTION,
        table(["task", "queue", "purpose"], rows),
        STATES.format(
            result_hours=STATIC["result_expires"] // 3600,
            error_days=STATIC["result_failure_expires"] // 86_400,
        ),
        ERRORS,
        "## A document",
        document(),
        "## Tasks for applications",
        *(described[name] for name in own),
        "## Tasks that workers send",
        *(described[name] for name in workers),
        "## Objects in results",
        *(fields_of(cls) for cls in objects(tasks.values())),
    )


def found() -> Mapping[str, Task]:
    """Return the tasks of this project by name, in the order of the alphabet."""
    for module in TASK_MODULES:
        import_module(module)
    # an app of its own: that of the workers reads the settings before it shows a task
    app = Celery(task_cls=BaseTask, set_as_current=False, fixups=())
    app.finalize()
    return {name: app.tasks[name] for name in sorted(app.tasks) if app.tasks[name].__module__ in TASK_MODULES}


def entry(task: Task) -> str:
    """Return the section of a task."""
    known = labels(task)
    if "Second run" not in known:
        raise ValueError(f"the docstring of {task.name} does not say `Second run: ...`")
    body = [line for line in paragraphs(task.run) if line.partition(": ")[0] not in LABELS]
    waits = (
        "the task waits until Postgres, Redis and the provider answer, with up to a minute between two attempts."
        if getattr(task, "autoretry_for", None) == WAIT_FOR_SERVICES["autoretry_for"]
        else "the task fails."
    )
    facts = [f"**Queue**: `{queue(task.name)}`"]
    facts += [f"**{label}**: {linked(known[label])}" for label in LABELS if label in known]
    facts += [f"**During an outage**: {waits}"]
    return page(
        f"### {task.name}", *map(wrapped, body), bullets(facts), arguments(task), result(task)
    ).rstrip()


def labels(task: Task) -> Mapping[str, str]:
    """Return the labelled paragraphs of a task's docstring."""
    parts = (line.partition(": ") for line in paragraphs(task.run))
    return {label: said for label, _, said in parts if label in LABELS}


def linked(said: str) -> str:
    """Link the names of error classes to the page of errors."""

    def code(name: re.Match[str]) -> str:
        ours = hasattr(errors, name[0])
        return f"[{name[0]}](errors.md#{name[0].lower()})" if ours else f"`{name[0]}`"

    return re.sub(r"\b[A-Z][a-z]+[A-Z]\w+|\bRefused\b", code, said)


def summary(task: Task) -> str:
    return paragraphs(task.run)[0].partition(". ")[0].rstrip(".")


def queue(name: str) -> str:
    return str(STATIC["task_routes"].get(name, STATIC["task_default_queue"]))


def anchor(name: str) -> str:
    return name.replace(".", "")


def arguments(task: Task) -> str:
    """Return the table of a task's arguments."""
    hints, known = get_type_hints(task.run, include_extras=True), meanings(task.run)
    rows = []
    for name, parameter in inspect.signature(task.run).parameters.items():
        if name not in known:
            raise ValueError(
                f"argument {name!r} of {task.name} has no description; annotate it with a Meaning"
            )
        default = "required" if parameter.default is parameter.empty else f"`{json.dumps(parameter.default)}`"
        rows.append([f"`{name}`", known[name].type or type_of(hints[name]), default, known[name].text])
    return table(["argument", "type", "default", "meaning"], rows) if rows else "**Arguments**: none."


def document() -> str:
    """Return the table of a document's fields."""
    hints, known = get_type_hints(Document, include_extras=True), meanings(Document)
    rows = []
    for field in dataclasses.fields(Document):
        if field.name not in known:
            raise ValueError(
                f"field {field.name!r} of Document has no description; annotate it with a Meaning"
            )
        required = field.default is field.default_factory is dataclasses.MISSING
        meaning = known[field.name]
        kind = meaning.type or type_of(hints[field.name])
        rows.append([f"`{field.name}`", kind, "required" if required else "optional", meaning.text])
    return table(["field", "type", "", "meaning"], rows)


def result(task: Task) -> str:
    """Return what a task returns, with every field."""
    hint = get_type_hints(task.run)["return"]
    if hint is NoneType:
        return "**Result**: none."
    if is_typeddict(hint):
        return f"**Result**: {link(hint)}."
    if get_origin(hint) in (Union, UnionType):
        return f"**Result**: {' or '.join(link(each) for each in get_args(hint))}."
    return f"**Result**: {type_of(hint)}."


def objects(tasks: Iterable[Task]) -> Sequence[type]:
    """Return the types of results, and of the objects in them, by name."""
    wanted: set[type] = {results.Progress}
    for task in tasks:
        _collect(get_type_hints(task.run)["return"], wanted)
    return sorted(wanted, key=lambda cls: cls.__name__)


def _collect(hint: Any, into: set[type]) -> None:
    if is_typeddict(hint) and hint not in into:
        into.add(hint)
        for inner in get_type_hints(hint).values():
            _collect(inner, into)
    for inner in get_args(hint):
        _collect(inner, into)


def fields_of(cls: type) -> str:
    """Return the section of a JSON object."""
    rows = []
    required: frozenset[str] = cls.__required_keys__  # type: ignore[attr-defined]
    hints = get_type_hints(cls, include_extras=True)
    for name, hint in sorted(hints.items(), key=lambda item: (item[0] != "index", item[0] not in required)):
        meaning = next((part for part in _metadata(hint) if isinstance(part, Meaning)), None)
        if meaning is None:
            raise ValueError(
                f"field {name!r} of {cls.__name__} has no description; annotate it with a Meaning"
            )
        text = meaning.text if name in required else f"only if there is one: {meaning.text}"
        rows.append([f"`{name}`", meaning.type or type_of(hint), text])
    return page(
        f"### {cls.__name__}",
        wrapped(" ".join(paragraphs(cls))),
        table(["field", "type", "meaning"], rows),
    ).rstrip()


def _metadata(hint: Any) -> Iterator[object]:
    if get_origin(hint) is NotRequired:
        hint = get_args(hint)[0]
    if get_origin(hint) is Annotated:
        yield from get_args(hint)[1:]


def link(cls: type) -> str:
    return f"[{cls.__name__}](#{cls.__name__.lower()})"


def type_of(hint: Any) -> str:
    """Return a type of JSON in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Annotated, NotRequired):
        return type_of(inner[0])
    if origin in (Union, UnionType):
        return " or ".join("null" if part is NoneType else type_of(part) for part in inner)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in inner)
    if is_typeddict(hint):
        return link(hint)
    if origin is list:
        return f"list of {link(inner[0]) if is_typeddict(inner[0]) else type_of(inner[0]) + 's'}"
    if origin in (dict, Mapping):
        return f"object of {link(inner[1])}" if is_typeddict(inner[1]) else "object"
    return {str: "string", int: "integer", float: "number", bool: "boolean"}[hint]
