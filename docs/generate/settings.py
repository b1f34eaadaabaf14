"""The page `settings.md`: every setting, from the objects that check them."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic.fields import FieldInfo

from worker.configuration import layers
from worker.configuration.backends import (
    ChatBackendSettings,
    EmbeddingBackendSettings,
    RerankBackendSettings,
)
from worker.configuration.messages import key
from worker.configuration.objects import Configuration, IndexSettings, SourceSettings
from worker.reference import Setting, described
from worker.sources.callable import CallableSource
from worker.sources.files import FolderSource
from worker.sources.sql import SQLSource

from .text import bullets, first_sentence, wrapped

# fields that are not settings of their own: names of entries, sections, and what is derived
NOT_SETTINGS = {
    "name",
    "folder",
    "notices",
    "embedding_backends",
    "chat_backends",
    "rerank_backends",
    "indexes",
}
# the classes whose CONFIG the page lists
SOURCES: tuple[type, ...] = (SQLSource, CallableSource, FolderSource)

INTRODUCTION = """\
# Settings

Set them as environment variables, or in a Python file or module that `VECTOR_INDEX_SETTINGS` names. All have a default,
so an empty environment works: with the embedded services, and models that need no key and no network.

1. An environment variable wins. It is text, and `VECTOR_INDEX` is JSON. An empty variable counts as absent; an empty
   address means the embedded service.
2. Then your file. Use it for anything longer than an address. It may be a Django settings module: only the names of
   this page are read. `None` counts as absent.
3. Then the shipped [settings.py](../../settings.py).

So `EMBEDDING_MODEL` in the environment replaces the `MODEL_ID` of backend `default` in your file. Two different values
in *one* place are an error: `EMBEDDING_MODEL` and that `MODEL_ID` in one file, or `BROKER_URL` and `CELERY_BROKER_URL`
in one environment.

Workers and commands read the settings once, when they start: restart them after a change. A mistake ends the process
with exit code 2 and one sentence that names the setting, its value and the fix:

```text
TOKEN_LIMIT of embedding backend 'default' is 0; set it to a number of at least 1, in tokens
```

`vector-index doctor` checks the settings, the models and the services behind them.

A settings file with OpenAI's models, an index that reads a table every 15 minutes, and an index in German:

```python
import os

EMBEDDING_MODEL = "3-small"
DATABASE_URL = os.environ.get("DATABASE_URL", "")
TIMEZONE = "Europe/Berlin"

VECTOR_INDEX = {
    "CHAT_BACKENDS": {
        "default": {
            "CONFIG": {"MODEL_ID": "gpt-4o-mini", "PROMPT_KWARGS": {"temperature": 0, "max_tokens": 800}}
        },
    },
    "INDEXES": {
        "default": {"SOURCE": "pages", "SCHEDULE": "*/15 * * * *"},
        "handbuch": {"LANGUAGE": "german", "CHUNK_TOKENS": 300},
    },
    "SOURCES": {
        "pages": {
            "CLASS": "worker.sources.sql.SQLSource",
            "CONFIG": {"QUERY": "SELECT id, body AS text, title FROM page"},
        },
    },
}
```
"""
EMBEDDING = """\
## Embedding backends

`VECTOR_INDEX["EMBEDDING_BACKENDS"]` is a dictionary of names. Each entry has a `CLASS`, and its options under `CONFIG`.
A class of your own gets its `name` and all options but the three that workers enforce (`CONCURRENCY`,
`REQUESTS_PER_MINUTE`, `TOKENS_PER_MINUTE`) as keyword arguments, in lower case; `EMBEDDING_OUTPUT_DIMENSIONS` arrives
as `dimensions`. [Models](../how-to/models.md#a-backend-class-of-your-own) lists them, with the values of absent ones.

`INIT_KWARGS` belong to the model object. Use them for a key, an address or headers of one backend alone:

```python
VECTOR_INDEX = {
    "EMBEDDING_BACKENDS": {
        "default": {
            "CONFIG": {
                "MODEL_ID": "3-small",
                "INIT_KWARGS": {"api_base": "http://litellm:4000/v1", "key": "sk-..."},
                "EMBEDDING_OUTPUT_DIMENSIONS": 512,
            },
        },
    },
}
```
"""
CHAT = """\
## Chat backends

`VECTOR_INDEX["CHAT_BACKENDS"]` is a dictionary of names, with entries like those of embedding backends.

`INIT_KWARGS` belong to the model object, as above. `PROMPT_KWARGS` belong to every prompt: they are passed to
`model.prompt` of `llm`, which checks them when a worker starts.

```python
VECTOR_INDEX = {
    "CHAT_BACKENDS": {
        "default": {
            "CONFIG": {
                "MODEL_ID": "gpt-4o-mini",
                "INIT_KWARGS": {"key": "sk-..."},
                "PROMPT_KWARGS": {"temperature": 0, "max_tokens": 800, "system": "Answer in two sentences."},
            },
        },
    },
}
```
"""
RERANK = """\
## Rerank backends

`VECTOR_INDEX["RERANK_BACKENDS"]` is a dictionary of names, with entries like those of embedding backends; the shipped
one is empty. [How to use them](../how-to/search.md#rerank).

```python
VECTOR_INDEX = {
    "RERANK_BACKENDS": {
        "default": {
            "CONFIG": {
                "MODEL_ID": "jina-reranker-v2-base-multilingual",
                "INIT_KWARGS": {"api_base": "https://api.jina.ai/v1", "key": "jina_..."},
                "TOKEN_LIMIT": 1024,
            },
        },
    },
    "INDEXES": {"default": {"RERANK_BACKEND": "default"}},
}
```
"""
INDEXES = """\
## Indexes

`VECTOR_INDEX["INDEXES"]` is a dictionary of names, each a dictionary of these keys. An empty dictionary is an index
with the defaults. An index keeps some of them from its first document on: `vector-index rebuild` applies them.
"""
SOURCES_TEXT = """\
## Sources

`VECTOR_INDEX["SOURCES"]` is a dictionary of names; an index refers to one as its `SOURCE`. Each entry has a `CLASS`,
and the options of that class under `CONFIG`. [How to use them](../how-to/sources.md).
"""


def text() -> str:
    """Return the page. Raises ValueError for a setting without a description."""
    return "\n".join(_parts()).rstrip() + "\n"


def _parts() -> Iterator[str]:
    yield INTRODUCTION
    yield "## Top level\n"
    top = {name: (setting, str) for name, setting in layers.DESCRIPTIONS.items()}
    top |= {
        key(Configuration, field): (setting, hint) for field, setting, hint, _ in fields_of(Configuration)
    }
    for name, (setting, hint) in top.items():
        assignment = "{name}={example}" if name == layers.OVERRIDE else "{name} = {example}"
        yield _entry(name, setting, hint, vars(layers.shipped()).get(name), assignment=assignment)
    sections = {
        EMBEDDING: EmbeddingBackendSettings,
        CHAT: ChatBackendSettings,
        RERANK: RerankBackendSettings,
        INDEXES: IndexSettings,
        SOURCES_TEXT: SourceSettings,
    }
    for text, cls in sections.items():
        yield text
        for field, setting, hint, default in fields_of(cls):
            yield _entry(key(cls, field), setting, hint, default)
    for cls in SOURCES:
        yield f"### `CONFIG` of {cls.__name__}\n\n`{cls.__module__}.{cls.__name__}`: {first_sentence(cls)}\n"
        for name, setting, hint, default in arguments_of(cls):
            yield _entry(name.upper(), setting, hint, default, level=4)


def fields_of(cls: type) -> Iterator[tuple[str, Setting, Any, Any]]:
    """Yield the settings among the fields of a dataclass: name, description, type and default."""
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if field.name not in NOT_SETTINGS:
            yield field.name, _description(cls, cls, field.name), hints[field.name], field.default


def arguments_of(cls: type) -> Iterator[tuple[str, Setting, Any, Any]]:
    """Yield the arguments of a source: name, description, type and default."""
    make: Callable[..., Any] = cls.__init__  # type: ignore[misc]
    hints = get_type_hints(make, include_extras=True)
    offered: Mapping[str, str] = getattr(cls, "defaults_from_settings", {})
    for name, parameter in list(inspect.signature(make).parameters.items())[1:]:
        setting = _description(cls, make, name)
        if name in offered and not setting.default:
            setting = dataclasses.replace(setting, default=f"`{offered[name]}`")
        yield name, setting, hints[name], parameter.default


def _description(cls: type, owner: Callable[..., Any], name: str) -> Setting:
    if name not in described(owner):
        raise ValueError(f"{name!r} of {cls.__name__} has no description; annotate it with a Setting")
    return described(owner)[name]


def _entry(
    name: str,
    setting: Setting,
    hint: Any,
    default: object,
    *,
    assignment: str = '"{name}": {example}',
    level: int = 3,
) -> str:
    unit = f", in {setting.unit}" if setting.unit else ""
    lines = [
        f"Type: {setting.type or _type(hint)}{unit}",
        f"Default: {setting.default or _literal(default)}",
        f"Example: `{assignment.format(name=name, example=setting.example)}`",
    ]
    return f"{'#' * level} `{name}`\n\n{wrapped(setting.meaning)}\n\n{bullets(lines)}\n"


def _literal(value: object) -> str:
    """Return a default as it is written in a settings file."""
    if value in (dataclasses.MISSING, inspect.Parameter.empty):
        return "required"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{value:_}`" if isinstance(value, int) and not isinstance(value, bool) else f"`{value}`"


def _type(hint: Any) -> str:
    """Return a type and its rule in words."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_type(part) for part in get_args(hint) if part is not NoneType)
    rules: list[object] = []
    while get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
        for part in metadata:
            rules += part.metadata if isinstance(part, FieldInfo) else []
        if get_origin(hint) in (Union, UnionType):
            return _type(hint)
    if get_origin(hint) is Literal:
        *some, last = (f'`"{value}"`' for value in get_args(hint))
        return f"{', '.join(some)} or {last}"
    words = {int: "whole number", float: "number", str: "text"}.get(hint, "dictionary")
    return words + _bounds(rules)


def _bounds(rules: list[object]) -> str:
    lengths = [rule.min_length for rule in rules if isinstance(rule, MinLen)]
    lengths += [rule.max_length for rule in rules if isinstance(rule, MaxLen)]
    if lengths:
        return f" of {lengths[0]:,} to {lengths[-1]:,} characters"
    found = ""
    for rule in rules:
        match rule:
            case Ge(ge):
                found += f", at least {ge:,}"
            case Gt(gt):
                found += f" above {gt:,}"
            case Le(le):
                found += f", at most {le:,}"
    return found
