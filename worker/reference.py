"""The words that the reference pages print about a setting, kept beside the rule that checks it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints


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


def described(owner: Callable[..., Any]) -> Mapping[str, Setting]:
    """Return the description of each field of a class, or argument of a function, that has one."""
    return _described(owner)


@cache
def _described(owner: Any) -> Mapping[str, Setting]:
    hints = get_type_hints(owner, include_extras=True)
    found = {
        name: [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Setting)]
        for name, hint in hints.items()
    }
    return {name: settings[0] for name, settings in found.items() if settings}
