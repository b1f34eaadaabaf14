"""Due times of the sources of indexes: set from the settings, claimed by who sends them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg.rows import class_row, dict_row

from worker.sources.scheduling import next_due
from worker.store.connection import Connection, checkout, retry_on_deadlock
from worker.store.statements import statement

CLAIM_SECONDS = 15.0  # for a message to the broker; where it takes longer, another sends the same: harmless
PATIENCE_SECONDS = 600.0  # until a run that has not begun is sent again: the broker may have lost it


@dataclass(frozen=True, kw_only=True)
class ScheduledRun:
    """A run to be sent."""

    index: str
    task_id: str  # one per due time: a message that is sent twice is one run
    scheduled_for: datetime


@dataclass(frozen=True, kw_only=True)
class ClaimedSchedule:
    """A schedule to be looked at, which nobody else looks at until the claim runs out."""

    index: str
    schedule: str
    timezone: str
    due_at: datetime
    now: datetime
    claimed_until: datetime
    task_id: str | None  # the run that was sent last
    scheduled_for: datetime | None  # when that one was due
    waits: bool  # it has not begun
    long_ago: bool  # it was sent more than PATIENCE_SECONDS ago
    reads: bool  # some run of the index is at it
    paused: bool  # the index is

    @property
    def is_due(self) -> bool:
        return self.due_at <= self.now

    @property
    def own_task_id(self) -> str:
        return f"reindex-{self.index}-{self.due_at.timestamp():.3f}"

    @property
    def objection(self) -> str | None:
        """Why nothing is to be sent for this due time; None: it is."""
        if self.paused:
            return "the index was paused"
        if self.waits:
            return "the run before was still waiting for a worker of the queue vector_index"
        return "another run was still reading the source" if self.reads else None

    @property
    def run(self) -> ScheduledRun | None:
        """What to send: the run of this due time, or once more the one before, which may have been lost."""
        if self.waits and self.long_ago:
            assert self.task_id is not None
            assert self.scheduled_for is not None
            return ScheduledRun(index=self.index, task_id=self.task_id, scheduled_for=self.scheduled_for)
        if self.is_due and self.objection is None:
            return ScheduledRun(index=self.index, task_id=self.own_task_id, scheduled_for=self.due_at)
        return None


@retry_on_deadlock
def sync(connection: Connection, schedules: Mapping[str, str | None], timezone: str) -> None:
    """Make the schedules of these indexes, by name, so; None: it has none. Any number of processes may do so at once.

    Those of other indexes stay: they may be another deployment's, whose settings name these.

    What is new or changed is due for the first time after now; what is the same keeps its due time, missed or not.
    """
    row = connection.execute(statement("schedule.sql", "now")).fetchone()
    assert row is not None
    wanted = {index: schedule for index, schedule in sorted(schedules.items()) if schedule is not None}
    connection.execute(
        statement("schedule.sql", "remove"), {"indexes": list(schedules.keys() - wanted.keys())}
    )
    for index, schedule in wanted.items():
        due_at = next_due(schedule, timezone, due=row[0], now=row[0])
        parameters = {"index": index, "schedule": schedule, "timezone": timezone, "due_at": due_at}
        connection.execute(statement("schedule.sql", "set"), parameters)


def runs_to_send(url: str, indexes: Sequence[str]) -> Iterator[ScheduledRun]:
    """The runs of these indexes that are due, each to one of those who ask.

    What is taken from here is to be sent before the next is. Then it is written down as sent. Who dies in between, or
    fails, leaves a claim that runs out after CLAIM_SECONDS: another sends the same run under the same id.
    """
    with checkout(url) as conn:
        claims = claim(conn, indexes)
    for each in claims:
        if each.run is not None:
            yield each.run
        with checkout(url) as conn:
            settle(conn, each)


def claim(connection: Connection, indexes: Sequence[str]) -> list[ClaimedSchedule]:
    """What of these indexes is to be looked at now.

    Each to one of those who ask, until it is settled or CLAIM_SECONDS have passed.
    """
    parameters = {"indexes": list(indexes), "seconds": CLAIM_SECONDS, "patience": PATIENCE_SECONDS}
    with connection.cursor(row_factory=class_row(ClaimedSchedule)) as cursor:
        return cursor.execute(statement("schedule.sql", "claim"), parameters).fetchall()


def settle(connection: Connection, claim: ClaimedSchedule) -> None:
    """Its run is sent, or none is to be: write that down, and when it is due next.

    What was missed since the due time is made up by the one run. Nothing happens where the settings have changed
    meanwhile, or the claim has run out and somebody else settles it.
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


def list_schedules(connection: Connection, indexes: Sequence[str]) -> list[dict[str, Any]]:
    """The schedules of these indexes, by name: when it is due next, its newest run, and what was skipped since.

    Times are ISO 8601 with an offset; a run is its row in the history.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(statement("schedule.sql", "list"), {"indexes": list(indexes)}).fetchall()
    return [row | {"due_at": row["due_at"].astimezone(UTC).isoformat()} for row in rows]
