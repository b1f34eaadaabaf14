"""The rules that values of settings have to pass. What a rule raises becomes the end of one sentence."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator
from pydantic_core import CoreSchema, core_schema

from worker.sources.scheduling import Crontab

SCHEDULE_EXAMPLE = "set it to seconds above 0, or to a crontab of five fields such as '30 3 * * 1-5'"

PLACEHOLDERS = ("passages", "question")  # of ANSWER_PROMPT
MAX_NEIGHBOURS = 10  # chunks before and after a match


def _no_boolean(value: object) -> object:
    # bool is an int to Python, and `True` would pass as 1
    if isinstance(value, bool):
        raise ValueError("set it to a number, not a boolean")
    return value


def _some_weight(weights: tuple[float, float]) -> tuple[float, float]:
    if not any(weights):
        raise ValueError("set at least one of the two above 0")
    return weights


def _schedule(value: object) -> str | float | None:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9):
        return value
    if not isinstance(value, str):
        raise ValueError(SCHEDULE_EXAMPLE)
    try:
        Crontab.parse(value)
    except ValueError as error:
        raise ValueError(f"{error}; {SCHEDULE_EXAMPLE}") from None
    return value


def _answer_prompt(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("set it to text with {passages} and {question}")
    for name in PLACEHOLDERS:
        if (times := value.count(f"{{{name}}}")) != 1:
            raise ValueError(f"it has {{{name}}} {times} times; write it once, where its text belongs")
    for name in re.findall(r"\{(\w+)\}", value):
        if name not in PLACEHOLDERS:
            raise ValueError(
                f"it has {{{name}}}, which is filled by nothing; use {{passages}} and {{question}}"
            )
    return value


def _context(value: object) -> int | str | None:
    if value is None or value == "section":
        return value
    if isinstance(value, Mapping) and value.keys() == {"neighbours"}:
        number = value["neighbours"]
        if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MAX_NEIGHBOURS:
            return number
    raise ValueError(f"set it to {{'neighbours': n}} with n from 1 to {MAX_NEIGHBOURS}, or to 'section'")


class _Checked:
    """Marks a field whose objects were checked when they were made: its type needs no rules here."""

    def __get_pydantic_core_schema__(self, source: object, handler: Any) -> CoreSchema:
        return core_schema.any_schema()


CHECKED = _Checked()
Whole = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0)]
Switch = Annotated[bool, Field(strict=True)]
Count = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1)]
Passages = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=100)]
# the limits of pgvector
Links = Annotated[int, BeforeValidator(_no_boolean), Field(ge=2, le=100)]
Candidates = Annotated[int, BeforeValidator(_no_boolean), Field(ge=4, le=1000)]
Port = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=65535)]
Amount = Annotated[float, BeforeValidator(_no_boolean), Field(gt=0, allow_inf_nan=False)]
Price = Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, allow_inf_nan=False)]
Weight = Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, le=1_000_000)]
Weights = Annotated[tuple[Weight, Weight], AfterValidator(_some_weight)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
# the name of a text-search configuration: only Postgres knows which exist
Language = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{2,}$")]
Schedule = Annotated[str | float | None, PlainValidator(_schedule)]
AnswerPrompt = Annotated[str | None, PlainValidator(_answer_prompt)]
# how much of a document is sent around a match: so many chunks before and after it, or its section
Context = Annotated[int | Literal["section"] | None, PlainValidator(_context)]
