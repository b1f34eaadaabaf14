"""When a schedule is due next."""

from datetime import UTC, datetime, timedelta

import pytest
from celery.schedules import crontab
from hypothesis import given
from hypothesis import strategies as st

from worker.scheduling import FIELDS, Crontab, look_seconds, next_due

BERLIN = "Europe/Berlin"
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


@st.composite
def fields(draw: st.DrawFn) -> str:
    low, high, names = draw(st.sampled_from(FIELDS))

    def value() -> str:
        number = draw(st.integers(low, high))
        return names[number - low][:3] if names and draw(st.booleans()) else str(number)

    parts = []
    for _ in range(draw(st.integers(1, 3))):
        span = draw(st.sampled_from(["*", value(), f"{value()}-{value()}"]))
        step = f"/{draw(st.integers(1, 70))}" if span == "*" or "-" in span else ""
        parts.append(span + step * draw(st.booleans()))
    return " ".join(["*"] * FIELDS.index((low, high, names)) + [",".join(parts)])


@given(fields())
def test_every_field_means_what_it_means_to_celery(given_fields: str) -> None:
    text = " ".join([*given_fields.split(), "*", "*", "*", "*"][:5])
    theirs = crontab.from_string(text)
    ours = Crontab.parse(text)
    assert (ours.minutes, ours.hours) == (theirs.minute, theirs.hour)
    assert (ours.days, ours.months, ours.weekdays) == (
        theirs.day_of_month,
        theirs.month_of_year,
        theirs.day_of_week,
    )


def test_a_crontab_is_meant_in_its_time_zone() -> None:
    assert times("30 3 * * mon-fri", BERLIN, "2026-11-20T00:00:00+00:00", 3) == [
        "20 02:30",
        "23 02:30",
        "24 02:30",
    ]
    assert times("30 3 * * *", "Asia/Kolkata", "2026-11-20T00:00:00+00:00", 1) == ["20 22:00"]


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
