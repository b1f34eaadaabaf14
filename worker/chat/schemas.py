"""Check JSON against the part of JSON Schema that models take for structured answers. Pure functions.

OpenAI and the other providers take no more than KEYWORDS, so a schema with another keyword is refused at start. That is
one small module in place of `jsonschema` with its five packages, which `llm` does not need either.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from worker.errors import SettingsError

Schema = Mapping[str, Any] | bool

ANNOTATIONS = frozenset(
    (
        "$schema",
        "$id",
        "$defs",
        "definitions",
        "title",
        "description",
        "default",
        "examples",
        "format",
        "strict",
    )
)
MAX_DEPTH = 64  # of a value within a schema that refers to itself

_TYPES: Mapping[str, Callable[[object], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
}
# keyword: of what type a value must be for it, and whether it holds for the keyword's value
_BOUNDS: Mapping[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": ("number", lambda value, bound: value >= bound),
    "maximum": ("number", lambda value, bound: value <= bound),
    "exclusiveMinimum": ("number", lambda value, bound: value > bound),
    "exclusiveMaximum": ("number", lambda value, bound: value < bound),
    "multipleOf": ("number", lambda value, bound: (value / bound).is_integer()),
    "minLength": ("string", lambda value, bound: len(value) >= bound),
    "maxLength": ("string", lambda value, bound: len(value) <= bound),
    "pattern": ("string", lambda value, bound: re.search(bound, value) is not None),
    "minItems": ("array", lambda value, bound: len(value) >= bound),
    "maxItems": ("array", lambda value, bound: len(value) <= bound),
}
_NESTED = frozenset(("properties", "items", "additionalProperties", "anyOf", "oneOf", "allOf"))
KEYWORDS = frozenset(("$ref", "type", "enum", "const", "required")) | _NESTED | _BOUNDS.keys()


def check_schema(schema: object, owner: str) -> Mapping[str, Any]:
    """Return the JSON Schema of an answer. Raises SettingsError for one that answers cannot be checked against."""
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        raise SettingsError(f'{owner} has a schema that is no object; set its "type" to "object"')
    for part in _parts(schema):
        for keyword in part.keys() - KEYWORDS - ANNOTATIONS:
            raise SettingsError(
                f"{owner} has a schema with {keyword!r:.40}, which answers are not checked against: use "
                f"{', '.join(sorted(KEYWORDS))}"
            )
        reference = part.get("$ref", "#")
        if not isinstance(reference, str) or _resolved(reference, schema) is None:
            raise SettingsError(
                f'{owner} has a schema with the $ref {reference!r:.80}, which it lacks: name an entry of its "$defs"'
            )
    return schema


def read_data(text: str, schema: Mapping[str, Any]) -> Any:
    """Return the JSON of an answer. Raises ValueError for text that is not JSON, or does not match the schema."""
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not _matches(data, schema, schema, MAX_DEPTH):
        raise ValueError("does not match the schema")
    return data


def strings(data: object) -> Iterator[str]:
    """Yield the strings of a JSON value."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping | list):
        for item in data.values() if isinstance(data, Mapping) else data:
            yield from strings(item)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _matches(value: Any, schema: Schema, root: Mapping[str, Any], depth: int) -> bool:
    if isinstance(schema, bool):
        return schema
    if depth == 0:
        return False

    def matches(item: Any, part: Schema) -> bool:
        return _matches(item, part, root, depth - 1)

    return (
        ("$ref" not in schema or matches(value, _resolved(schema["$ref"], root) or False))
        and _is_of_type(value, schema.get("type"))
        and ("enum" not in schema or any(_same(value, item) for item in schema["enum"]))
        and ("const" not in schema or _same(value, schema["const"]))
        and all(
            holds(value, schema[word])
            for word, (kind, holds) in _BOUNDS.items()
            if word in schema and _TYPES[kind](value)
        )
        and _members_match(value, schema, matches)
        and all(matches(value, part) for part in schema.get("allOf", ()))
        and ("anyOf" not in schema or any(matches(value, part) for part in schema["anyOf"]))
        and ("oneOf" not in schema or sum(matches(value, part) for part in schema["oneOf"]) == 1)
    )


def _members_match(value: Any, schema: Mapping[str, Any], matches: Callable[[Any, Schema], bool]) -> bool:
    if isinstance(value, list):
        return all(matches(item, schema.get("items", True)) for item in value)
    if not isinstance(value, dict):
        return True
    known = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    return all(name in value for name in schema.get("required", ())) and all(
        matches(item, known.get(name, others)) for name, item in value.items()
    )


def _is_of_type(value: object, types: str | list[str] | None) -> bool:
    wanted = [types] if isinstance(types, str) else types
    return wanted is None or any(_TYPES[name](value) for name in wanted)


def _same(value: object, other: object) -> bool:
    """JSON tells true from 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _resolved(reference: str, root: Mapping[str, Any]) -> Schema | None:
    """The part of a schema that a reference such as `#/$defs/Name` names."""
    found: Any = root
    if not reference.startswith("#"):
        return None
    for name in reference.removeprefix("#").split("/")[1:]:
        found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping | bool) else None


def _parts(schema: object) -> Iterator[Mapping[str, Any]]:
    """The schema and all schemas within it."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    for name in ("properties", "$defs", "definitions"):
        for part in schema.get(name, {}).values():
            yield from _parts(part)
    for name in ("items", "additionalProperties"):
        yield from _parts(schema.get(name))
    for name in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(name, ()):
            yield from _parts(part)
