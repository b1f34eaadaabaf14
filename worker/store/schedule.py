"""Schedules of sources: synced from the settings, and claimed by the process that sends a due run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from psycopg.rows import class_row, dict_row

from worker.results import Schedule
from worker.sources.scheduling import next_due
from worker.store.connection import Connection, checkout, retry_on_deadlock
from worker.store.statements import statement

CLAIM_SECONDS = (
    15.0  # time to send a message; if it takes longer, another process sends the same run: harmless
)
RESEND_SECONDS = 600.0  # a run that has not begun by then is sent again, as the broker may have lost it


@dataclass(frozen=True, kw_only=True)
class ScheduledRun:
    """A run to send."""

    index: str
    task_id: str  # one per due time, so that a message sent twice is one run
    scheduled_for: datetime


@dataclass(frozen=True, kw_only=True)
class ClaimedSchedule:
    """A schedule that this process has claimed for CLAIM_SECONDS."""

    index: str
    schedule: str
    timezone: str
    due_at: datetime
    now: datetime
    claimed_until: datetime
    task_id: str | None  # of the run that was sent last
    scheduled_for: datetime | None  # its due time
    waits: bool  # that run has not begun
    long_ago: bool  # it was sent more than RESEND_SECONDS ago
    reads: bool  # a run of the index is reading its source
    paused: bool  # the index is paused

    @property
    def is_due(self) -> bool:
        return self.due_at <= self.now

    @property
    def own_task_id(self) -> str:
        return f"reindex-{self.index}-{self.due_at.timestamp():.3f}"

    @property
    def objection(self) -> str | None:
        """Why no run is sent for this due time; `None` if one is."""
        if self.paused:
            return "the index was paused"
        if self.waits:
            return "the previous run was still waiting for a worker of the queue vector_index"
        return "another run was still reading the source" if self.reads else None

    @property
    def run(self) -> ScheduledRun | None:
        """The run to send: that of this due time, or the previous one again if its message may be lost."""
        if self.waits and self.long_ago:
            assert self.task_id is not None
            assert self.scheduled_for is not None
            return ScheduledRun(index=self.index, task_id=self.task_id, scheduled_for=self.scheduled_for)
        if self.is_due and self.objection is None:
            return ScheduledRun(index=self.index, task_id=self.own_task_id, scheduled_for=self.due_at)
        return None


@retry_on_deadlock
def sync(connection: Connection, schedules: Mapping[str, str | None], timezone: str) -> None:
    """Sync the schedules of these indexes, by name, with the settings; `None` removes a schedule.

    Any number of processes may run it at the same time. Schedules of other indexes stay, as they may belong to another
    deployment. A new or changed schedule is first due after now; an unchanged one keeps its due time, even if missed.
    """
    row = connection.execute(statement("schedule.sql", "now")).fetchone()
    assert row is not None
    wanted = {index: schedule for index, schedule in sorted(schedules.items()) if schedule is not None}
    connection.execute(
        statement("schedule.sql", "delete"), {"indexes": list(schedules.keys() - wanted.keys())}
    )
    for index, schedule in wanted.items():
        due_at = next_due(schedule, timezone, due=row[0], now=row[0])
        parameters = {"index": index, "schedule": schedule, "timezone": timezone, "due_at": due_at}
        connection.execute(statement("schedule.sql", "upsert"), parameters)


def runs_to_send(url: str, indexes: Sequence[str]) -> Iterator[ScheduledRun]:
    """Yield the due runs of these indexes; each is given to one caller.

    Send each run before taking the next one, which records it as sent. If the caller fails in between, its claim
    expires after CLAIM_SECONDS, and another process sends the same run under the same id.
    """
    with checkout(url) as conn:
        claims = claim(conn, indexes)
    for each in claims:
        if each.run is not None:
            yield each.run
        with checkout(url) as conn:
            settle(conn, each)


def claim(connection: Connection, indexes: Sequence[str]) -> list[ClaimedSchedule]:
    """Claim the schedules of these indexes that are due, or whose run may be lost.

    Each is given to one caller, until it is settled or CLAIM_SECONDS have passed.
    """
    parameters = {"indexes": list(indexes), "seconds": CLAIM_SECONDS, "patience": RESEND_SECONDS}
    with connection.cursor(row_factory=class_row(ClaimedSchedule)) as cursor:
        return cursor.execute(statement("schedule.sql", "claim"), parameters).fetchall()


def settle(connection: Connection, claim: ClaimedSchedule) -> None:
    """End a claim: record the run as sent or skipped, and set the next due time.

    One run makes up for all due times that were missed. Changes nothing if the settings have changed meanwhile, or if
    the claim has expired and another process has the schedule.
    """
    due_at, run = claim.due_at, claim.run
    if claim.is_due and run is None:
        parameters = {"index": claim.index, "task_id": claim.own_task_id, "due_at": due_at}
        connection.execute(statement("schedule.sql", "skip"), {**parameters, "message": claim.objection})
    if claim.is_due:
        due_at = next_due(claim.schedule, claim.timezone, due=due_at, now=claim.now)
    parameters = {
        "index": claim.index,
        "claimed_until": claim.claimed_until,
        "next_due": due_at,
        "task_id": run.task_id if run else claim.task_id,
        "scheduled_for": run.scheduled_for if run else claim.scheduled_for,
        "sent": run is not None,
        "waits": claim.waits,
    }
    connection.execute(statement("schedule.sql", "settle"), parameters)


def list_schedules(connection: Connection, indexes: Sequence[str]) -> list[Schedule]:
    """The schedules of these indexes, by name: the next due time, the newest run, and a later skipped run.

    Times are ISO 8601 with an offset. A run is its row in the history.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(statement("schedule.sql", "list"), {"indexes": list(indexes)}).fetchall()
    return [
        {
            "index": row["index"],
            "schedule": row["schedule"],
            "timezone": row["timezone"],
            "due_at": row["due_at"].astimezone(UTC).isoformat(),
            "due_in_seconds": row["due_in_seconds"],
            "last_run": row["last_run"],
            "skipped": row["skipped"],
        }
        for row in rows
    ]
