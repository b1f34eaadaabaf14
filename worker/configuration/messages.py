"""The shapes that settings have, and the one sentence for each mistake in them."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from worker.errors import SettingsError

T = TypeVar("T")

# by the type that pydantic gives a failed rule; the braces are filled from the rule
MENDS = {
    "int_parsing": "give a whole number",
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_parsing": "give a number",
    "float_type": "give a number",
    "finite_number": "give a finite number",
    "greater_than": "give a number above {gt}",
    "greater_than_equal": "give a number of at least {ge}",
    "less_than_equal": "give a number of at most {le}",
    "string_type": "give text",
    "string_too_short": "give text that is not empty",
    "string_too_long": "give at most {max_length} characters",
    "string_pattern_mismatch": "name a text-search configuration of Postgres, such as 'english' or 'simple'",
    "literal_error": "choose {expected}",
    "value_error": "{error}",
}


def entries(section: str, value: object, known: Collection[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, place for messages, and what is not None, of every entry of a section."""
    where = f'VECTOR_INDEX["{section}"]'
    for name, entry in mapping(where, value).items():
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= 100
            or name != name.strip()
            or not name.isprintable()
        ):
            raise SettingsError(
                f"{where} has the name {shown(name)}: give text of 1 to 100 printable characters"
            )
        if entry is not None:
            yield name, f'{where}["{name}"]', keys(f'{where}["{name}"]', entry, known)


def keys(where: str, value: object, known: Collection[str], foreign: Collection[str] = ()) -> dict[str, Any]:
    """The mapping without what is None; raises SettingsError for a key that is not known."""
    given = mapping(where, value)
    for name in given:
        if name not in known and name not in foreign:
            raise SettingsError(f"{where} has no key {shown(name)}: {nearest(name, known)}")
    return {name: item for name, item in given.items() if item is not None}


def mapping(where: str, value: object) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        # what stands here may be a key of a provider: only its type is told
        raise SettingsError(f"{where} is of type {type(value).__name__}: give a dictionary")
    return value


def fields_by_key(cls: type) -> dict[str, str]:
    """The keys of a CONFIG or of an index, each with the field that holds it."""
    names = [item.name for item in fields(cls) if item.name not in ("name", "class_path")]
    return {key(name): name for name in names}


def key(name: str) -> str:
    return "EMBEDDING_OUTPUT_DIMENSIONS" if name == "dimensions" else name.upper()


def checked(cls: type[T], where: str, **values: object) -> T:
    """The object; the first rule that a value breaks becomes a SettingsError."""
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    name = key(str(first["loc"][0]))
    setting = f'{where}["{name}"]' if where else name
    mend = MENDS.get(first["type"], first["msg"]).format(**first.get("ctx", {}))
    raise SettingsError(f"{setting} is {shown(first['input'])}: {mend}")


def nearest(name: object, known: Iterable[str]) -> str:
    spellings = {item.casefold(): item for item in known}
    close = difflib.get_close_matches(str(name).casefold(), spellings, n=1)
    if close:
        return f"did you mean {spellings[close[0]]!r}?"
    names = sorted(spellings.values())
    if not names:
        return "define it there"
    return "choose " + ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
