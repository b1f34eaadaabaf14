"""Boosts: raise the scores of new documents, or of those with a high number in a field. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf, prod
from typing import Any

from worker.errors import InvalidQuery, described

MAX_BOOSTS = 5
# of one boost: it decides much, and the search still decides between equal values
LEAST_FACTOR, MOST_FACTOR = 1e-6, 1e6
DAY_SECONDS = 86_400
MAX_HALF_LIFE_DAYS = 1_000_000
MAX_POWER = 10
NEUTRAL = 1.0  # the factor of a document without the field, or with an unreadable value

DECAY_KEYS = ("decay", "half_life_days", "weight", "now")
FACTOR_KEYS = ("factor", "power")


@dataclass(frozen=True, kw_only=True)
class Boost:
    """What the value of one field makes of a score."""

    field: str  # dotted path in the metadata
    half_life_days: float | None = None  # of a date; None: the field is a number
    weight: float = 1.0  # the share of a score that decays, 0 to 1
    now: datetime = datetime.max  # that ages count from
    power: float = 1.0  # of a number

    def factor(self, metadata: Mapping[str, Any]) -> float:
        """Return the factor for a document: NEUTRAL if the field is missing or unreadable.

        A date of the future counts as now.
        """
        value = at_path(metadata, self.field)
        if self.half_life_days is not None:
            date = read_date(value)
            if date is None:
                return NEUTRAL
            age_days = max(0.0, (self.now - date).total_seconds() / DAY_SECONDS)
            decayed = float(0.5 ** (age_days / self.half_life_days))
            return max(1 - self.weight + self.weight * decayed, LEAST_FACTOR)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
            return NEUTRAL
        factor: float = float(min(value, MOST_FACTOR)) ** self.power
        return min(max(factor, LEAST_FACTOR), MOST_FACTOR)


def boosted(score: float, factors: Sequence[float]) -> float:
    """Return the score times the factors; a negative score is divided, so that a higher factor is better there, too."""
    factor = prod(factors)
    return score * factor if score >= 0 else score / factor


def at_path(metadata: Mapping[str, Any], path: str) -> object:
    """The value at a dotted path; `None` if there is none."""
    value: object = metadata
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def read_date(value: object) -> datetime | None:
    """Read a date or a time in ISO 8601, which is in UTC unless it says otherwise; `None` for anything else."""
    if not isinstance(value, str):
        return None
    try:
        date = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def checked_boosts(values: object, now: datetime) -> tuple[Boost, ...]:
    """Return the boosts of a search that began `now`. Raises InvalidQuery, which names the boost and the fix."""
    if values is None:
        return ()
    if not isinstance(values, list | tuple):
        raise InvalidQuery(f"boosts must be a list of objects, not {described(values)}")
    if len(values) > MAX_BOOSTS:
        raise InvalidQuery(f"boosts has {len(values):,} boosts: send at most {MAX_BOOSTS}")
    return tuple(_checked(f"boosts[{at}]", value, now) for at, value in enumerate(values))


def _checked(name: str, value: object, now: datetime) -> Boost:
    if not isinstance(value, Mapping) or ("decay" in value) == ("factor" in value):
        raise InvalidQuery(
            f'{name} must be an object with either "decay" (the field of a date) or "factor" (the field of a number)'
        )
    kind, keys = ("decay", DECAY_KEYS) if "decay" in value else ("factor", FACTOR_KEYS)
    unknown = sorted(str(key) for key in value.keys() - set(keys))
    if unknown:
        raise InvalidQuery(f"{name} has the unknown key {unknown[0]!r:.40}: a {kind} has {', '.join(keys)}")
    field = value[kind]
    if not isinstance(field, str) or not field.strip():
        raise InvalidQuery(f"{kind} of {name} must be the path of a metadata field, not {described(field)}")
    if kind == "factor":
        return Boost(field=field, power=_number(f"power of {name}", value.get("power", 1), 0, MAX_POWER))
    if "half_life_days" not in value:
        raise InvalidQuery(
            f"half_life_days of {name} is missing: set it to the days after which a score has halved"
        )
    half_life = _number(f"half_life_days of {name}", value["half_life_days"], 0, MAX_HALF_LIFE_DAYS)
    if not half_life:
        raise InvalidQuery(f"half_life_days of {name} is 0: set it to a number above 0")
    return Boost(
        field=field,
        half_life_days=half_life,
        weight=_number(f"weight of {name}", value.get("weight", 1), 0, 1),
        now=now if value.get("now") is None else _date(f"now of {name}", value["now"]),
    )


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidQuery(f"{name} must be a number from {low:g} to {high:,g}, not {described(value)}")
    return float(value)


def _date(name: str, value: object) -> datetime:
    date = read_date(value)
    if date is None:
        raise InvalidQuery(
            f"{name} must be a date such as 2026-11-30 or 2026-11-30T12:00:00Z, not {described(value)}"
        )
    return date
