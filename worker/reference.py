"""The words that the reference pages print about a setting, an argument or a field, kept beside its type."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Describes one setting: put it into the `Annotated` type of the field or argument that receives the value.

    The generator reads the type and the default from there too. Give them here only where code cannot tell them.
    """

    meaning: str  # whole sentences, in Markdown
    example: str  # a value, as Python source; a test loads it
    unit: str = ""  # plural, as in "tokens"
    type: str = ""  # in words, where the annotation does not say it
    default: str = ""  # in words, where the code computes it
    name: str = ""  # where it is not the field's name in capitals


@dataclass(frozen=True)
class Meaning:
    """Describes an argument of a task, or a field of a JSON object: put it into its `Annotated` type."""

    text: str  # in Markdown, without a full stop at the end
    type: str = ""  # in words, where the annotation does not say it


def described(owner: Callable[..., Any]) -> Mapping[str, Setting]:
    """Return the setting of each field of a class, or argument of a function, that has one."""
    return _parts(owner, Setting)


def meanings(owner: Callable[..., Any]) -> Mapping[str, Meaning]:
    """Return the meaning of each field of a class, or argument of a function, that has one."""
    return _parts(owner, Meaning)


@cache
def _parts(owner: Any, kind: type[T]) -> Mapping[str, T]:
    hints = get_type_hints(owner, include_extras=True)
    found = {
        name: [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, kind)]
        for name, hint in hints.items()
    }
    return {name: parts[0] for name, parts in found.items() if parts}
