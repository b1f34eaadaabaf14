"""`schedule`: the last and the next sync of each index that has a schedule."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import click

from worker.cli.client import Client
from worker.cli.options import json_option
from worker.cli.output import print_result
from worker.configuration import load
from worker.keyspace import CHAT

OVERDUE_SECONDS = 60.0  # longer than the longest interval between two checks of the schedule
COUNTS = ("read", "staged", "unchanged", "deleted", "rejected")
UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))

HOW_TO_SET = (
    "set its SOURCE and its SCHEDULE (a crontab such as '30 3 * * *', or seconds) in VECTOR_INDEX[\"INDEXES\"], and "
    "restart beat and the workers"
)


@click.command()
@click.option("--index", help="Name of the index.  [default: all]")
@json_option
def schedule(index: str | None, as_json: bool) -> None:
    """Show the last and the next scheduled sync of each index.

    Times are in the time zone of the setting TIMEZONE.
    """
    configuration = load()
    if index is not None:
        configuration.index(index)
    found = Client(configuration).call("tasks.schedule", CHAT, index=index)
    zone = ZoneInfo(configuration.timezone)
    none = "no index has a schedule" if index is None else f"{index} has no schedule"
    shown = [line for row in found["schedules"] for line in lines(row, zone)]
    print_result(found, as_json, shown or [f"{none}: {HOW_TO_SET}"])


def lines(row: dict[str, Any], zone: ZoneInfo) -> Iterator[str]:
    """Yield the schedule of an index, its last run, the last skipped run, and its next run."""
    yield f"{row['index']}: {_when(row)}"
    yield f"  last run: {_run(row['last_run'], zone) if row['last_run'] else 'none yet'}"
    if skipped := row["skipped"]:
        yield f"  skipped:  {_local(skipped['finished_at'], zone)}: {skipped['message']}"
    seconds = row["due_in_seconds"]
    due = f"  next run: {_local(row['due_at'], zone)}"
    if seconds < -OVERDUE_SECONDS:
        yield f"{due}, overdue by {_span(-seconds)}: check that `vector-index beat` and the workers are running"
    else:
        yield f"{due}, {f'in {_span(seconds)}' if seconds > 0 else 'now'}"


def _run(run: dict[str, Any], zone: ZoneInfo) -> str:
    started = _local(run["started_at"], zone)
    if run["finished_at"] is None:
        return f"{started}, {run['outcome']}"
    duration = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["started_at"])
    line = f"{started}, {run['outcome']} in {duration.total_seconds():.1f} s"
    if run["outcome"] == "done":
        line += ": " + ", ".join(f"{run[name]:,} {name}" for name in COUNTS)
    return line + (f"; {run['message']}" if run["message"] else "")


def _when(row: dict[str, Any]) -> str:
    if len(fields := row["schedule"].split()) > 1:
        return f"{' '.join(fields)} in {row['timezone']}"
    seconds = float(row["schedule"])
    return f"every {_span(seconds) if seconds.is_integer() else f'{seconds:g} s'}"


def _local(time: str, zone: ZoneInfo) -> str:
    return f"{datetime.fromisoformat(time).astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def _span(seconds: float) -> str:
    """Format seconds with their two largest units: 2 d 3 h, 1 h 5 min, 12 s."""
    left, parts = round(seconds), []
    for unit, size in UNITS:
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2]) or "0 s"
