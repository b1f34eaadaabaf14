"""When a schedule is due next."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery
from celery.schedules import crontab
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.sources.scheduling import FIELDS, Crontab, look_seconds, next_due

BERLIN = "Europe/Berlin"
CELERY = Celery(set_as_current=False)  # in UTC
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


def times(schedule: str, timezone: str, start: str, count: int) -> list[str]:
    """Return the next due times, each computed at the one before."""
    now = datetime.fromisoformat(start)
    found = []
    for _ in range(count):
        now = next_due(schedule, timezone, due=now, now=now)
        assert now.tzinfo is UTC
        found.append(f"{now:%d %H:%M}")
    return found


def field(bounds: tuple[int, int, Sequence[str]]) -> st.SearchStrategy[str]:
    """Generate fields: *, a value, a range, a name, steps and lists of these."""
    low, high, names = bounds
    numbers = st.integers(low, high)
    value = numbers.map(str)
    if names:
        value |= numbers.map(lambda number: names[number - low][:3])
    step = st.just("") | st.integers(1, 70).map("/{}".format)
    span = st.just("*") | st.builds("{}-{}".format, value, value)
    part = value | st.builds("{}{}".format, span, step)
    return st.just("*") | st.lists(part, min_size=1, max_size=3).map(",".join)


def their_next(text: str, now: datetime) -> datetime | None:
    """Return Celery's next due time in a zone without daylight saving; None if Celery rejects the crontab."""
    try:
        minute, hour, day, month, weekday = text.split()
        theirs = crontab(minute, hour, weekday, day, month, nowfun=lambda: now, app=CELERY)
    except ValueError:  # no month has such a day
        return None
    return now + theirs.remaining_estimate(now)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*map(field, FIELDS)), st.datetimes(datetime(2024, 1, 1), datetime(2034, 1, 1)))
def test_crontab_due_times_equal_those_of_celery(parts: tuple[str, ...], start: datetime) -> None:
    text, now = " ".join(parts), start.replace(tzinfo=UTC)
    if (theirs := their_next(text, now)) is None:
        with pytest.raises(ValueError, match="no month"):
            Crontab.parse(text)
    else:
        assert next_due(text, "UTC", due=now, now=now) == theirs


def test_crontab_follows_its_time_zone() -> None:
    assert times("30 3 * * mon-fri", BERLIN, "2026-11-20T00:00:00+00:00", 3) == [
        "20 02:30",
        "23 02:30",
        "24 02:30",
    ]
    assert times("30 3 * * *", "Asia/Kolkata", "2026-11-20T00:00:00+00:00", 1) == ["20 22:00"]


def test_fields_may_be_separated_by_any_whitespace() -> None:
    assert times("30\t3 *  * *", "UTC", "2026-11-20T00:00:00+00:00", 1) == ["20 03:30"]
    assert look_seconds(["30\t3\t*\t*\t*"]) == 10


def test_a_due_day_matches_month_day_and_weekday() -> None:
    assert next_due("0 0 29 2 *", "UTC", due=NOW, now=NOW) == datetime(2028, 2, 29, tzinfo=UTC)
    century = NOW.replace(year=2084)  # 2100 has no 29 February
    assert next_due("0 0 29 2 mon", "UTC", due=NOW, now=century) == datetime(2112, 2, 29, tzinfo=UTC)
    assert next_due("15 9 13 * fri", "UTC", due=NOW, now=NOW) == datetime(2027, 8, 13, 9, 15, tzinfo=UTC)


def test_a_time_skipped_by_daylight_saving_is_due_an_hour_later() -> None:
    """On 29 March clocks skip from 02:00 to 03:00, so 02:30 becomes 03:30 of summer time."""
    assert times("30 2 * * *", BERLIN, "2026-03-28T00:00:00+00:00", 3) == ["28 01:30", "29 01:30", "30 00:30"]
    half_hours = ["29 00:30", "29 01:00", "29 01:30", "29 02:00"]
    assert times("*/30 * * * *", BERLIN, "2026-03-29T00:00:00+00:00", 4) == half_hours


def test_a_repeated_time_is_due_once_except_in_hourly_crontabs() -> None:
    """On 25 October, 02:00 to 03:00 comes in summer time and again in winter time."""
    assert times("30 2 * * *", BERLIN, "2026-10-24T12:00:00+00:00", 2) == ["25 00:30", "26 01:30"]
    half_hours = ["25 00:00", "25 00:30", "25 01:00", "25 01:30", "25 02:00"]
    assert times("*/30 * * * *", BERLIN, "2026-10-24T23:40:00+00:00", 5) == half_hours


def test_missed_due_times_are_skipped() -> None:
    """After five missed hours of an hourly crontab, the next due time is in the future."""
    due, now = NOW - timedelta(hours=5), NOW + timedelta(minutes=3)
    assert next_due("0 * * * *", "UTC", due=due, now=now) == NOW + timedelta(hours=1)
    assert next_due("3600", "UTC", due=due, now=now) == NOW + timedelta(hours=1)


@settings(deadline=None)
@given(st.floats(0.001, 1e6), st.floats(0, 1e7))
def test_late_runs_do_not_shift_the_grid_of_seconds(seconds: float, late: float) -> None:
    step = timedelta(seconds=seconds)
    now = NOW + timedelta(seconds=late)
    found = next_due(str(seconds), BERLIN, due=NOW, now=now)
    assert now < found <= now + step
    assert (found - NOW) % step == timedelta(0)


def test_the_smallest_number_of_seconds_is_due_after_now() -> None:
    assert next_due("1e-09", "UTC", due=NOW, now=NOW) > NOW


@pytest.mark.parametrize(
    ("schedules", "seconds"),
    [(["0 3 * * *"], 10), (["3600.0", "2.0", "0 3 * * *"], 1), (["0.1"], 1), (["7.0"], 3.5), (["900"], 10)],
)
def test_polling_interval_is_half_of_the_shortest_schedule(schedules: list[str], seconds: float) -> None:
    assert look_seconds(schedules) == seconds
