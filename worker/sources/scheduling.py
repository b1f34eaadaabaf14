"""Computes the due times of a schedule. Pure: from one time to the next.

A schedule is a number of seconds, or a crontab in Celery's syntax, in a time zone: minute, hour, day of the month,
month, weekday (0 to 6, 0 is Sunday). If both kinds of day are restricted, a day must match both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
# of each field: lowest and highest value, and the names of its values
FIELDS: Sequence[tuple[int, int, Sequence[str]]] = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, MONTHS),
    (0, 6, WEEKDAYS),
)
LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days of the months
MAX_DAYS = 41 * 366  # to the next 29 February on a given weekday, where a century leaves one out
LOOK_SECONDS = 1.0, 10.0  # shortest and longest time between two polls for due schedules


@dataclass(frozen=True, kw_only=True)
class Crontab:
    """The values of each field that are due."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Crontab":
        """Parse a crontab. Raises ValueError for a syntax error, and for a day that no month has."""
        fields = text.lower().split()
        if len(fields) != len(FIELDS):
            raise ValueError(f"it has {len(fields)} fields instead of {len(FIELDS)}")
        values = [_values(field, *bounds) for field, bounds in zip(fields, FIELDS, strict=True)]
        minutes, hours, days, months, weekdays = values
        if min(days) > max(LONGEST[month - 1] for month in months):
            raise ValueError(f"no month of {text!r} has such a day")
        return cls(minutes=minutes, hours=hours, days=days, months=months, weekdays=weekdays)

    def after(self, now: datetime, zone: ZoneInfo) -> datetime:
        """Return the first due time after `now`, in UTC.

        When clocks change it behaves as cron does: a skipped time is due an hour later, a repeated one is due once. A
        crontab of every hour is due at both; `celery.schedules.crontab` would leave out an hour there.
        """
        day = now.astimezone(zone).date()
        folds = (0, 1) if len(self.hours) == 24 else (0,)
        for _ in range(MAX_DAYS):
            if day.day in self.days and day.month in self.months and day.isoweekday() % 7 in self.weekdays:
                times = (
                    datetime.combine(day, time(hour, minute, fold=fold), zone).astimezone(UTC)
                    for hour in self.hours
                    for minute in self.minutes
                    for fold in folds
                )
                if later := [each for each in times if each > now]:
                    return min(later)
            day += timedelta(days=1)
        raise ValueError(f"{self} is never due")


def _values(field: str, low: int, high: int, names: Sequence[str]) -> frozenset[int]:
    """Parse one field: `*`, `*/5`, `7`, `mon-fri`, `22-2` (over midnight), `1-9/2`, and lists of these."""
    found: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if slash and not dash and span != "*":
            raise ValueError(f"{part!r} has a step, which needs a range or *")
        if span == "*":
            numbers = list(range(low, high + 1))
        else:
            start = _value(first, low, high, names)
            end = _value(last, low, high, names) if dash else start
            over = start > end  # the highest
            numbers = [*range(start, (high if over else end) + 1), *range(low, end + 1 if over else low)]
        if slash and not _number(step):
            raise ValueError(f"the step of {part!r} is not a number of at least 1")
        found.update(numbers[:: _number(step) if slash else 1])
    return frozenset(found)


def _value(text: str, low: int, high: int, names: Sequence[str]) -> int:
    for number, name in enumerate(names, low):
        if len(text) >= 3 and name.startswith(text):
            return number
    if not low <= _number(text) <= high:
        raise ValueError(f"{text} is not between {low} and {high}")
    return _number(text)


def _number(text: str) -> int:
    if not text.isdecimal():  # to `int`, 1_0 is a number too
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def next_due(schedule: str, timezone: str, *, due: datetime, now: datetime) -> datetime:
    """Return the first due time after `now`, in UTC; `due` is the due time before it, or the start.

    Seconds stay on the grid of `due`, however late a run is. Missed due times are skipped.
    """
    if (seconds := _seconds(schedule)) is None:
        return Crontab.parse(schedule).after(now, ZoneInfo(timezone))
    step = timedelta(seconds=seconds) or timedelta.resolution
    return (due + step * max(1, (now - due) // step + 1)).astimezone(UTC)


def look_seconds(schedules: Iterable[str]) -> float:
    """Return the polling interval: half of the shortest schedule in seconds, within LOOK_SECONDS."""
    least, most = LOOK_SECONDS
    halves = [seconds / 2 for seconds in map(_seconds, schedules) if seconds is not None]
    return max(least, min([most, *halves]))


def _seconds(schedule: str) -> float | None:
    return None if len(schedule.split()) > 1 else float(schedule)
