"""The ledger of jobs: what staging decided for each message, and which documents its result waits for.

A job is a message that stages or deletes documents. It is written in slices, one transaction each. A slice that is
delivered again finds its row in the ledger and ends.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from worker.errors import InvalidQuery
from worker.results import Rejected, RunReport
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.refusals import Refusal
from worker.store.statements import statement

REDELIVERY_DAYS = 7  # how long the ledger keeps a job: longer than any redelivery


@dataclass(frozen=True, kw_only=True)
class JobSlice:
    """One slice of a message, written in one transaction and only once."""

    task_id: str
    slice: int  # from 0
    slices: int  # of the whole message
    index_id: int
    fingerprint: bytes | None = None  # of the message; None: its task id is used for nothing else
    rejected: Sequence[Mapping[str, str]] = ()  # id and error of documents that cannot be staged
    refusals: Sequence[Refusal] = ()  # those among them that no later document of the message replaces
    superseded: int = 0  # documents of the message that a later one with the same id replaced: stale
    unchanged: int = 0  # documents that are searchable as they came, and are in no slice
    left_out: int = 0  # characters of the message's texts that no reader sees


@dataclass(frozen=True, kw_only=True)
class StageCounts:
    """The counts of one slice. The rest of the result is known once its documents are searchable."""

    stale: int = 0
    unchanged: int = 0  # documents that were searchable as they came
    deleted: int = 0
    left_out: int = 0  # characters of the message's texts that no reader sees
    chunks: int = 0  # of the documents with a new revision, in the live build
    embedded: int = 0  # contents that were queued, as they are new to the live build
    tokens: int = 0  # of those contents


@dataclass(frozen=True, kw_only=True)
class JobDocuments:
    """How many documents of a job share an outcome and a state. Counted, as a job may have a million documents."""

    task_id: str
    outcome: str  # indexed or unchanged: how they count once they are live
    state: str  # pending, live, failed or overtaken
    documents: int
    failed: Sequence[Rejected]  # each failed document


@dataclass(frozen=True, kw_only=True)
class MissingVectors:
    """What a job still waits for, or waits for in vain."""

    chunks: int  # contents, each once
    tokens: int


@dataclass(frozen=True, kw_only=True)
class JobLedger:
    """The slices of a job, summed."""

    counts: Mapping[str, int]  # the sums of StageCounts
    rejected: Sequence[Rejected]  # documents that could not be staged
    slices: int  # staged so far
    complete: bool  # whether every slice of the message is staged
    report: RunReport | None  # further fields of the result, of a reindexing only
    seconds: float  # from the first slice to the result, or until now


def begin_slice(connection: Connection, job: JobSlice) -> bool:
    """Insert the ledger row of a slice; False when it exists. Waits for another transaction that is writing it.

    What the task staged in an index that was dropped since is forgotten. Raises InvalidQuery when the task id was
    used for another message.
    """
    parameters = asdict(job) | {"rejected": Jsonb(list(job.rejected))}
    if connection.execute(statement("jobs.sql", "insert_slice"), parameters).rowcount == 1:
        return True
    connection.execute(statement("jobs.sql", "forget_dropped"), parameters)
    if connection.execute(statement("jobs.sql", "insert_slice"), parameters).rowcount == 1:
        return True
    check_repetition(connection, job.task_id, job.index_id, job.fingerprint)
    return False


def check_repetition(
    connection: Connection, task_id: str, index_id: int | None, fingerprint: bytes | None
) -> None:
    """Raise InvalidQuery if the task id was used in another index, or with another fingerprint.

    An `index_id` of None stands for an index that does not exist yet.
    """
    parameters = {"task_id": task_id, "index_id": index_id, "fingerprint": fingerprint}
    if connection.execute(statement("jobs.sql", "other_use"), parameters).rowcount:
        raise reused(task_id)


def reused(task_id: str) -> InvalidQuery:
    """Return the error of a task id that was used for another message."""
    return InvalidQuery(
        f"task id {task_id[:80]!r} was used in the last {REDELIVERY_DAYS} days with other arguments: "
        "send this message under a new task id"
    )


def add_documents(
    connection: Connection, job: JobSlice, waited: Sequence[tuple[int, int | None, str]]
) -> None:
    """Record the revisions that the result of the job waits for: document, revision, outcome once it is live."""
    if not waited:
        return
    docs, revs, outcomes = ([row[column] for row in waited] for column in range(3))
    parameters = {"docs": docs, "revs": revs, "outcomes": outcomes}
    connection.execute(statement("jobs.sql", "insert_job_documents"), _key(job) | parameters)


def set_counts(connection: Connection, job: JobSlice, counts: StageCounts, *, finished: bool = False) -> None:
    """Record the counts of a slice; `finished`: its result waits for nothing more."""
    parameters = {"counts": Jsonb(asdict(counts)), "finished": finished}
    connection.execute(statement("jobs.sql", "set_slice_counts"), _key(job) | parameters)


def slice_counts(connection: Connection, job: JobSlice) -> Mapping[str, int]:
    """The counts of a slice that was written before."""
    row = connection.execute(statement("jobs.sql", "slice_counts"), _key(job)).fetchone()
    return row[0] if row else {}


def ledger(connection: Connection, task_id: str) -> JobLedger:
    """The slices of a job, summed; `slices` is 0 for an unknown job."""
    return ledgers(connection, [task_id])[task_id]


def ledgers(connection: Connection, task_ids: Sequence[str]) -> dict[str, JobLedger]:
    """The slices of each job, summed."""
    rows: dict[str, list[Sequence[Any]]] = {task_id: [] for task_id in task_ids}
    for row in connection.execute(statement("jobs.sql", "job_counts"), {"task_ids": list(task_ids)}):
        rows[row[0]].append(row[1:])
    return {task_id: _summed(slices) for task_id, slices in rows.items()}


def _summed(rows: Sequence[Sequence[Any]]) -> JobLedger:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row[1])
    return JobLedger(
        counts=total,
        rejected=[entry for row in rows for entry in row[2]],
        slices=len(rows),
        complete=bool(rows) and len(rows) == rows[-1][0],
        report=rows[0][3] if rows else None,
        seconds=rows[0][4] if rows else 0.0,
    )


def touch(connection: Connection, task_id: str) -> None:
    """Note that the waiting task of a job is alive."""
    connection.execute(statement("jobs.sql", "touch_job"), {"task_id": task_id})


def settled(connection: Connection, build: Build, task_ids: Sequence[str]) -> list[str]:
    """Those jobs of which no document is pending in a build."""
    rows = connection.execute(build.sql("jobs.sql", "settled_jobs"), {"task_ids": list(task_ids)})
    return [row[0] for row in rows]


def documents(connection: Connection, build: Build, task_ids: Sequence[str]) -> dict[str, list[JobDocuments]]:
    """Count the documents of each job by outcome and state in a build."""
    found: dict[str, list[JobDocuments]] = {task_id: [] for task_id in task_ids}
    with connection.cursor(row_factory=class_row(JobDocuments)) as cursor:
        for group in cursor.execute(build.sql("jobs.sql", "job_states"), {"task_ids": list(task_ids)}):
            found[group.task_id].append(group)
    return found


def missing_vectors(connection: Connection, build: Build, task_id: str) -> MissingVectors:
    """Count the contents of a job's pending and failed documents that have no vector in a build."""
    with connection.cursor(row_factory=class_row(MissingVectors)) as cursor:
        text = build.sql("jobs.sql", "missing_vectors")
        return cursor.execute(text, {"task_id": task_id}).fetchone() or MissingVectors(chunks=0, tokens=0)


def finish(connection: Connection, task_ids: Sequence[str]) -> None:
    """Note that the results of these jobs are being reported: the sweep sends no waiting task for them."""
    connection.execute(statement("jobs.sql", "finish_jobs"), {"task_ids": list(task_ids)})


def quiet(
    connection: Connection,
    *,
    seconds: float,
    waiting: int = 0,
    limit: int = 1000,
    indexes: Sequence[str] | None = None,
) -> list[tuple[str, str]]:
    """Take jobs whose waiting task was not seen for `seconds`: task ids and index names, each given to one caller.

    `indexes`: only jobs of these; the callers of others may wait at the broker of another deployment.

    `waiting` is the number of waiting tasks in the queue. Each may belong to one of these jobs, so this returns at most
    as many jobs as there are unfinished jobs beyond that number.
    """
    names = None if indexes is None else list(indexes)
    parameters = {"seconds": seconds, "waiting": waiting, "limit": limit, "names": names}
    rows = connection.execute(statement("jobs.sql", "quiet_jobs"), parameters)
    return [(row[0], row[1]) for row in rows]


def delete_expired(connection: Connection) -> int:
    """Delete ledger rows older than REDELIVERY_DAYS, unless a caller waits for the result; the number of rows."""
    return connection.execute(statement("jobs.sql", "delete_expired"), {"days": REDELIVERY_DAYS}).rowcount


def _key(job: JobSlice) -> dict[str, Any]:
    return {"task_id": job.task_id, "slice": job.slice}
