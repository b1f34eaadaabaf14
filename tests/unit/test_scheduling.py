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
    """The next due times, each asked for at the one before."""
    now = datetime.fromisoformat(start)
    found = []
    for _ in range(count):
        now = next_due(schedule, timezone, due=now, now=now)
        assert now.tzinfo is UTC
        found.append(f"{now:%d %H:%M}")
    return found


def field(bounds: tuple[int, int, Sequence[str]]) -> st.SearchStrategy[str]:
    """All that a field may hold: *, a value, a range, a name, steps and lists of these."""
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
    """When Celery's own beat would send it next, in a zone whose clocks never change; None: it does not take it."""
    try:
        minute, hour, day, month, weekday = text.split()
        theirs = crontab(minute, hour, weekday, day, month, nowfun=lambda: now, app=CELERY)
    except ValueError:  # no month has such a day
        return None
    return now + theirs.remaining_estimate(now)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*map(field, FIELDS)), st.datetimes(datetime(2024, 1, 1), datetime(2034, 1, 1)))
def test_a_crontab_is_due_when_it_is_due_to_celery(parts: tuple[str, ...], start: datetime) -> None:
    text, now = " ".join(parts), start.replace(tzinfo=UTC)
    if (theirs := their_next(text, now)) is None:
        with pytest.raises(ValueError, match="no month"):
            Crontab.parse(text)
    else:
        assert next_due(text, "UTC", due=now, now=now) == theirs


def test_a_crontab_is_meant_in_its_time_zone() -> None:
    assert times("30 3 * * mon-fri", BERLIN, "2026-11-20T00:00:00+00:00", 3) == [
        "20 02:30",
        "23 02:30",
        "24 02:30",
    ]
    assert times("30 3 * * *", "Asia/Kolkata", "2026-11-20T00:00:00+00:00", 1) == ["20 22:00"]


def test_fields_may_stand_in_columns() -> None:
    assert times("30\t3 *  * *", "UTC", "2026-11-20T00:00:00+00:00", 1) == ["20 03:30"]
    assert look_seconds(["30\t3\t*\t*\t*"]) == 10


def test_months_days_and_weekdays_must_all_fit() -> None:
    assert next_due("0 0 29 2 *", "UTC", due=NOW, now=NOW) == datetime(2028, 2, 29, tzinfo=UTC)
    century = NOW.replace(year=2084)  # 2100 has no 29 February
    assert next_due("0 0 29 2 mon", "UTC", due=NOW, now=century) == datetime(2112, 2, 29, tzinfo=UTC)
    assert next_due("15 9 13 * fri", "UTC", due=NOW, now=NOW) == datetime(2027, 8, 13, 9, 15, tzinfo=UTC)


def test_a_time_that_the_clocks_leave_out_comes_an_hour_later() -> None:
    """Given the night of 29 March, where 02:00 to 03:00 is left out: 02:30 is 03:30 of summer time."""
    assert times("30 2 * * *", BERLIN, "2026-03-28T00:00:00+00:00", 3) == ["28 01:30", "29 01:30", "30 00:30"]
    half_hours = ["29 00:30", "29 01:00", "29 01:30", "29 02:00"]
    assert times("*/30 * * * *", BERLIN, "2026-03-29T00:00:00+00:00", 4) == half_hours


def test_a_time_that_comes_twice_counts_once_but_in_a_crontab_of_every_hour() -> None:
    """Given the night of 25 October, where 02:00 to 03:00 comes in summer time, and again in winter time."""
    assert times("30 2 * * *", BERLIN, "2026-10-24T12:00:00+00:00", 2) == ["25 00:30", "26 01:30"]
    half_hours = ["25 00:00", "25 00:30", "25 01:00", "25 01:30", "25 02:00"]
    assert times("*/30 * * * *", BERLIN, "2026-10-24T23:40:00+00:00", 5) == half_hours


def test_what_was_missed_is_due_once() -> None:
    """Given a crontab of every hour that nobody looked at for five of them, the next time is ahead of now."""
    due, now = NOW - timedelta(hours=5), NOW + timedelta(minutes=3)
    assert next_due("0 * * * *", "UTC", due=due, now=now) == NOW + timedelta(hours=1)
    assert next_due("3600", "UTC", due=due, now=now) == NOW + timedelta(hours=1)


@settings(deadline=None)
@given(st.floats(0.001, 1e6), st.floats(0, 1e7))
def test_seconds_do_not_drift_however_late_a_run_is(seconds: float, late: float) -> None:
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
def test_what_is_due_is_looked_for_twice_in_the_shortest_schedule(
    schedules: list[str], seconds: float
) -> None:
    assert look_seconds(schedules) == seconds
