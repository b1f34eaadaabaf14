"""The shapes that settings have, and the one sentence for each mistake in them."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from worker.errors import SettingsError
from worker.reference import described

T = TypeVar("T")

KINDS = {
    "EMBEDDING_BACKENDS": "embedding backend",
    "CHAT_BACKENDS": "chat backend",
    "RERANK_BACKENDS": "rerank backend",
    "INDEXES": "index",
    "SOURCES": "source",
}
# by the type that pydantic gives a failed rule; the braces are filled from the rule
FIXES = {
    "int_parsing": "set it to a whole number",
    "int_type": "set it to a whole number",
    "int_from_float": "set it to a whole number",
    "bool_type": "set it to True or False",
    "float_parsing": "set it to a number",
    "float_type": "set it to a number",
    "finite_number": "set it to a finite number",
    "greater_than": "set it to a number above {gt}",
    "greater_than_equal": "set it to a number of at least {ge}",
    "less_than_equal": "set it to a number of at most {le}",
    "string_type": "set it to text",
    "string_too_short": "set it to text that is not empty",
    "string_too_long": "set it to at most {max_length} characters",
    "string_pattern_mismatch": "set it to a text-search configuration of Postgres, such as 'english' or 'simple'",
    "literal_error": "set it to {expected}",
    "value_error": "{error}",
}


NONE_IS_A_VALUE = ("LANGUAGE",)  # of every other key, `None` means the default


def entries(section: str, value: object, known: Collection[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each entry of a section: its name, how messages call it, and its keys that are not `None`."""
    place = f'VECTOR_INDEX["{section}"]'
    for name, entry in mapping(place, value).items():
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= 100
            or name != name.strip()
            or not name.isprintable()
        ):
            raise SettingsError(
                f"{place} has the name {shown(name)}; use 1 to 100 printable characters, without spaces at the ends"
            )
        if entry is not None:
            owner = f"{KINDS[section]} {name!r}"
            yield name, owner, keys(owner, entry, known)


def keys(owner: str, value: object, known: Collection[str], foreign: Collection[str] = ()) -> dict[str, Any]:
    """Return a mapping without keys of `None`, unless that is a value. Raises SettingsError for an unknown key."""
    given = mapping(owner, value)
    for name in given:
        if name not in known and name not in foreign:
            raise SettingsError(f"{owner} has an unknown key {shown(name)}; {nearest(name, known)}")
    return {name: item for name, item in given.items() if item is not None or name in NONE_IS_A_VALUE}


def mapping(owner: str, value: object) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        # the value may be a provider's key: only its type is told
        raise SettingsError(f"{owner} is of type {type(value).__name__}; set it to a dictionary")
    return value


def fields_by_key(cls: type) -> dict[str, str]:
    """Return the keys of a CONFIG or of an index, each with the field that holds it."""
    names = [item.name for item in fields(cls) if item.name not in ("name", "class_path")]
    return {key(cls, name): name for name in names}


def key(cls: type, field: str) -> str:
    """Return the setting that a field holds."""
    setting = described(cls).get(field)
    return (setting and setting.name) or field.upper()


def checked(cls: type[T], owner: str, **values: object) -> T:
    """Make the object; the first rule that a value breaks becomes a SettingsError."""
    try:
        rules: TypeAdapter[T] = _rules(cls)  # type: ignore[arg-type]  # a class is hashable
        return rules.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    field = str(first["loc"][0])
    name = key(cls, field)
    setting = described(cls).get(field)
    fix = FIXES.get(first["type"], first["msg"]).format(**first.get("ctx", {}))
    unit = f", in {setting.unit}" if setting and setting.unit and "number" in fix else ""
    raise SettingsError(f"{f'{name} of {owner}' if owner else name} is {shown(first['input'])}; {fix}{unit}")


@cache
def _rules(cls: Any) -> TypeAdapter[Any]:
    """Make the rules of a class once per process: it takes milliseconds, and there may be many indexes."""
    return TypeAdapter(cls)


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the question whether the nearest known name is meant, else the known names."""
    spellings = {item.casefold(): item for item in known}
    close = difflib.get_close_matches(str(name).casefold(), spellings, n=1)
    if close:
        return f"did you mean {spellings[close[0]]!r}?"
    names = sorted(spellings.values())
    if not names:
        return "add it there"
    return "choose " + ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
