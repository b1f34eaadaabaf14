"""The rules that values of settings have to pass. What a rule raises becomes the end of one sentence."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from worker.sources.scheduling import Crontab

SCHEDULE_EXAMPLE = "set it to seconds above 0, or to a crontab of five fields such as '30 3 * * 1-5'"


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


Whole = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0)]
Count = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1)]
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
