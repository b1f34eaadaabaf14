"""What keeps the system whole and what looks at it: the sweep, the jobs, the figures of `status`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC
from typing import Any

from psycopg import Cursor
from psycopg.rows import class_row, dict_row

from worker.store import builds, outbox, revisions
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.statements import SCHEMA, statement

SWEEP_LIMIT = 500  # documents a sweep looks at: never the whole backlog
REDELIVERY_DAYS = 7  # how long the ledger of jobs outlives any redelivery


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """What a sweep had to mend."""

    published: int = 0  # complete but not published: somebody died between save and publish
    queued: int = 0  # neither embedded nor pending: the protocol has no such state, so each one is a bug


@dataclass(frozen=True, kw_only=True)
class JobDocuments:
    """The documents of a job that stand alike: a job may have a million."""

    outcome: str  # indexed or unchanged: what they count as once they are live
    state: str  # pending, live, failed or overtaken
    documents: int
    failed: Sequence[Mapping[str, str]]  # id and error of each, where they are


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What staging wrote down about a job."""

    counts: Mapping[str, int]  # the sums of StageCounts
    rejected: Sequence[Mapping[str, str]]  # id and error of documents that were never staged
    slices: int  # that are staged
    complete: bool  # all of the message are
    report: Mapping[str, Any] | None  # of a reindexing: what its result has beside the counts
    seconds: float  # from its first slice to its result, or to now


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where an index stands."""

    index: str  # its name
    documents: Mapping[str, int]  # by state, in the build that readers see
    oldest_seconds: float  # how long the document has waited that has waited longest; 0: none waits
    pending_chunks: int  # contents without a vector, in all builds that are being written
    pending_tokens: int  # of those
    paused: bool
    repairs: Mapping[str, int]  # by kind: what the sweep had to mend so far


def written_builds(connection: Connection) -> list[Build]:
    """Every build that is being written, of every index."""
    with connection.cursor(row_factory=class_row(Build)) as cursor:
        return cursor.execute(statement("upkeep.sql", "builds_of")).fetchall()


def active_builds(connection: Connection) -> list[Build]:
    """Those of them whose contents are to be embedded: of indexes that are not paused."""
    with connection.cursor(row_factory=class_row(Build)) as cursor:
        return cursor.execute(statement("upkeep.sql", "active_builds")).fetchall()


@retry_on_deadlock
def sweep(connection: Connection, build: Build, *, unchecked_seconds: float = 10.0) -> Repairs:
    """Look at the waiting documents that were looked at least recently: publish, or queue again."""
    with connection.transaction():
        parameters = {"limit": SWEEP_LIMIT, "seconds": unchecked_seconds}
        rows = connection.execute(build.sql("upkeep.sql", "least_recently_checked"), parameters).fetchall()
    docs = [row[0] for row in rows]
    published = revisions.publish(connection, build, docs)
    with builds.locked(connection, build.index_id, exclusive=False):
        queued = connection.execute(build.sql("upkeep.sql", "queue_missing"), {"docs": docs}).fetchall()
    repairs = Repairs(published=published, queued=len(queued))
    if repairs != Repairs():
        parameters = {"build": build.build, **asdict(repairs)}
        connection.execute(statement("upkeep.sql", "count_repairs"), parameters)
    return repairs


def quiet_jobs(
    connection: Connection, *, seconds: float, waiting: int = 0, limit: int = 1000
) -> list[tuple[str, str]]:
    """Task ids and index names of staged jobs whose waiting task has not been seen for a while, each given once.

    As many as have no task at all: of `waiting` tasks in the queue, each may be that of a job whose turn has not come.
    """
    parameters = {"seconds": seconds, "waiting": waiting, "limit": limit}
    rows = connection.execute(statement("upkeep.sql", "quiet_jobs"), parameters)
    return [(row[0], row[1]) for row in rows]


def collections_due(connection: Connection, *, seconds: float, erased_seconds: float) -> list[str]:
    """Indexes whose garbage was not collected for so long; each is given once, to one of those who ask.

    For so many `erased_seconds`, where documents were deleted since.
    """
    parameters = {"seconds": seconds, "erased_seconds": erased_seconds}
    rows = connection.execute(statement("upkeep.sql", "collections_due"), parameters)
    return [row[0] for row in rows]


def forget_jobs(connection: Connection) -> int:
    """Drop ledger rows that no redelivery can reach any more."""
    return connection.execute(statement("upkeep.sql", "forget_jobs"), {"days": REDELIVERY_DAYS}).rowcount


def job_documents(connection: Connection, build: Build, task_id: str) -> list[JobDocuments]:
    """Where the documents of a job stand; also notes that its waiting task is alive."""
    connection.execute(statement("upkeep.sql", "touch_job"), {"task_id": task_id})
    with connection.cursor(row_factory=class_row(JobDocuments)) as cursor:
        return cursor.execute(build.sql("upkeep.sql", "job_states"), {"task_id": task_id}).fetchall()


def job_ledger(connection: Connection, task_id: str) -> Ledger:
    """What the slices of a job came to, summed."""
    rows = connection.execute(statement("upkeep.sql", "job_counts"), {"task_id": task_id}).fetchall()
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row[1])
    return Ledger(
        counts=total,
        rejected=[entry for row in rows for entry in row[2]],
        slices=len(rows),
        complete=bool(rows) and len(rows) == rows[-1][0],
        report=rows[0][3] if rows else None,
        seconds=rows[0][4] if rows else 0.0,
    )


def finish_job(connection: Connection, task_id: str) -> None:
    """Its result is being reported: the sweep need not look after it."""
    connection.execute(statement("upkeep.sql", "finish_job"), {"task_id": task_id})


def figures(connection: Connection, build: Build | None) -> dict[str, Any]:
    """Documents by state, what is pending, how long the oldest has waited, and the builds of the index."""
    if build is None:  # nothing was ever indexed
        documents = {"pending": 0, "live": 0, "failed": 0}
        pending = {"pending_chunks": 0, "pending_tokens": 0, "oldest_seconds": 0.0, "embedded_chunks": 0}
        return {"documents": documents, **pending, "last_error": None, "builds": []}
    with connection.cursor(row_factory=dict_row) as cursor:
        documents = cursor.execute(build.sql("upkeep.sql", "count_documents")).fetchone() or {}
        pending = cursor.execute(build.sql("upkeep.sql", "count_pending")).fetchone() or {}
        listed = cursor.execute(
            statement("upkeep.sql", "list_builds"), {"index_id": build.index_id}
        ).fetchall()
        table = {"table": f"{SCHEMA}.embeddings_{build.build}"}
        embedded = cursor.execute(statement("upkeep.sql", "count_embedded"), table).fetchone() or {}
    oldest = documents.pop("oldest_seconds")
    errors = [row.pop("error") for row in listed]
    return {
        "documents": documents,
        "pending_chunks": pending["chunks"],
        "pending_tokens": pending["tokens"],
        "oldest_seconds": round(oldest, 1),
        "embedded_chunks": embedded["embedded"] or 0,  # so far, roughly: for a rate
        "last_error": next((error for error in errors if error), None),
        "builds": [
            row | {"documents": documents["live"] if row["build"] == build.build else None} for row in listed
        ],
    }


def standings(connection: Connection) -> tuple[list[Standing], Mapping[str, int]]:
    """Where every index stands, and rows of the outbox by state.

    It counts rows. Each statement ends after half a minute, with ServiceUnreachable.
    """
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(statement("upkeep.sql", "limit_time"))
        rows = cursor.execute(statement("upkeep.sql", "list_indexes")).fetchall()
        outbox = cursor.execute(statement("upkeep.sql", "count_outbox")).fetchone() or {}
        return [_standing(cursor, row) for row in rows if row["live_build"] is not None], outbox


def _standing(cursor: Cursor[dict[str, Any]], row: Mapping[str, Any]) -> Standing:
    documents = cursor.execute(statement("upkeep.sql", "count_documents", row["live_build"])).fetchone() or {}
    pending: Counter[str] = Counter()
    for build in row["written"]:
        pending.update(cursor.execute(statement("upkeep.sql", "count_pending", build)).fetchone() or {})
    return Standing(
        index=row["name"],
        oldest_seconds=documents.pop("oldest_seconds"),
        documents=documents,
        pending_chunks=pending["chunks"],
        pending_tokens=pending["tokens"],
        paused=row["paused"],
        repairs={"published": row["published"], "queued": row["queued"]},
    )


def failures(connection: Connection, build: Build, *, after: str, limit: int) -> list[dict[str, Any]]:
    """Failed documents with ids above `after`, in order, and those of which the outbox keeps what cannot be staged.

    Each with its error, since when (UTC, ISO 8601) it has waited, and whether an older revision is searchable.
    """
    parameters = {"after": after, "limit": limit, "index_id": build.index_id, "index": build.index}
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(build.sql("upkeep.sql", "failures"), parameters).fetchall()
    return [row | {"since": row["since"].astimezone(UTC).isoformat(timespec="seconds")} for row in rows]


def document_states(
    connection: Connection, build: Build | None, ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """State, version, searchable and error of each id; `absent` for one that is unknown or deleted."""
    absent = {"state": "absent", "version": None, "searchable": False, "error": None}
    states: dict[str, dict[str, Any]] = {id: dict(absent) for id in ids}
    if build is None:
        return states
    parameters = {"index_id": build.index_id, "ids": list(ids)}
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(build.sql("upkeep.sql", "document_states"), parameters).fetchall()
    states |= {row.pop("id"): row for row in rows}
    for id, error in outbox.rejections(connection, build.index, ids).items():
        states[id] |= {"state": "failed", "error": error}
    return states
