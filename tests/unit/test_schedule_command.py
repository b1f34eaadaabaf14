"""The output of `vector-index schedule`."""

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from worker.cli.schedule import lines

RUN: dict[str, Any] = {
    "started_at": "2026-11-23T02:30:01.5+00:00",
    "finished_at": "2026-11-23T02:30:14+00:00",
    "outcome": "done",
    "read": 1200,
    "staged": 7,
    "unchanged": 1192,
    "deleted": 3,
    "rejected": 1,
    "message": None,
}
ROW: dict[str, Any] = {
    "index": "pages",
    "schedule": "30 3 * * *",
    "timezone": "Europe/Berlin",
    "due_at": "2026-11-24T02:30:00+00:00",
    "due_in_seconds": 69_000.0,
    "last_run": RUN,
    "skipped": None,
}


def printed(**changes: Any) -> list[str]:
    return list(lines(ROW | changes, ZoneInfo("Europe/Berlin")))


def test_last_and_next_run_are_in_local_time() -> None:
    assert printed() == [
        "pages: 30 3 * * * in Europe/Berlin",
        "  last run: 2026-11-23 03:30:01 CET, done in 12.5 s: "
        "1,200 read, 7 staged, 1,192 unchanged, 3 deleted, 1 rejected",
        "  next run: 2026-11-24 03:30:00 CET, in 19 h 10 min",
    ]


def test_reasons_for_a_failed_and_a_skipped_run() -> None:
    failed = RUN | {"outcome": "failed", "message": "the shelf fell down"}
    skipped = RUN | {"outcome": "skipped", "message": "the index was paused"}
    _, last, later, _ = printed(last_run=failed, skipped=skipped)
    assert last == "  last run: 2026-11-23 03:30:01 CET, failed in 12.5 s; the shelf fell down"
    assert later == "  skipped:  2026-11-23 03:30:14 CET: the index was paused"


def test_a_running_sync_and_no_sync_yet() -> None:
    running = RUN | {"outcome": "running", "finished_at": None}
    assert printed(last_run=running)[1] == "  last run: 2026-11-23 03:30:01 CET, running"
    assert printed(last_run=None)[1] == "  last run: none yet"


@pytest.mark.parametrize(
    ("schedule", "said"),
    [("2", "2 s"), ("0.5", "0.5 s"), ("5400", "1 h 30 min"), ("90061.0", "1 d 1 h"), ("3600", "1 h")],
)
def test_intervals_are_printed_in_larger_units(schedule: str, said: str) -> None:
    assert printed(schedule=schedule)[0] == f"pages: every {said}"


def test_an_overdue_run_names_the_processes_to_check() -> None:
    assert printed(due_in_seconds=-3.0)[-1].endswith(" CET, now")
    overdue = printed(due_in_seconds=-3700.0)[-1]
    assert overdue.endswith(
        "CET, overdue by 1 h 1 min: check that `vector-index beat` and the workers are running"
    )
