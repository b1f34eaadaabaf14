"""Stage, publish and delete: the transactions that move documents.

Each follows the protocol in docs/protocol.md: the index's lock first, then rows in one order; completeness is
checked in the statement after the one that locked; nothing here talks to a provider.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from psycopg.types.json import Jsonb

from worker.errors import BuildDropped
from worker.observability import events
from worker.store import builds, erasure, garbage
from worker.store.builds import Build
from worker.store.connection import DROPPED, Connection, retry_on_deadlock
from worker.store.statements import statement
from worker.store.writing import (
    Prepared,
    StageCounts,
    forget_rejected,
    lock_documents,
    lock_served,
    queue,
    want,
    write,
)

DOCUMENTS_PER_TRANSACTION = 100
PUBLISH_SLICE = 200  # documents locked at once, when one content is shared by thousands


@dataclass(frozen=True, kw_only=True)
class Job:
    """One slice of a message: redelivered, it is staged no second time."""

    task_id: str
    slice: int  # from 0
    slices: int  # of the whole message
    index_id: int
    rejected: Sequence[Mapping[str, str]] = ()  # id and error of documents that were never staged
    superseded: int = 0  # documents of the message that another one of the same id replaced: stale
    unchanged: int = 0  # documents that are searchable as they came, and stand in no slice


@dataclass(frozen=True, kw_only=True)
class Retried:
    """What a retry came to."""

    docs: Sequence[int]  # had failed and are pending now
    chunks: int  # contents that were queued for them
    rows: int = 0  # of the outbox: could not be staged, and wait again


@retry_on_deadlock
def stage(
    connection: Connection,
    job: Job,
    prepared: Sequence[Prepared],
    expected: Sequence[Build],
    *,
    priority: int = 0,
    heads: Mapping[str, int] | None = None,
) -> list[int]:
    """Write at most 100 documents, each of another id, in one transaction; nothing when the job did so before.

    Returns the keys of the documents that the job waits for. `write` tells the rest.
    """
    with builds.locked(connection, job.index_id, exclusive=False):
        if not _enter(connection, job):
            return []
        written = write(connection, job.index_id, prepared, expected, priority=priority, heads=heads)
        forget_rejected(connection, job.index_id, written.accepted)
        parameters = {
            "docs": written.docs,
            "revs": [rev for _, rev, _ in written.waited],
            "outcomes": [outcome for _, _, outcome in written.waited],
        }
        connection.execute(statement("revisions.sql", "insert_job_documents"), _key(job) | parameters)
        counts = replace(written.counts, stale=written.counts.stale + job.superseded, unchanged=job.unchanged)
        _count(connection, job, counts)
        return written.docs


def unchanged(connection: Connection, index_id: int, hashes: Mapping[str, bytes]) -> set[str]:
    """Of ids with their content hashes, those whose head says the same: not worth chunking. A look, no lock."""
    parameters = {"index_id": index_id, "ids": list(hashes), "hashes": list(hashes.values())}
    return {row[0] for row in connection.execute(statement("revisions.sql", "unchanged"), parameters)}


@retry_on_deadlock
def publish(connection: Connection, build: Build, docs: Sequence[int]) -> int:
    """Make the wanted revisions live that have every vector; the number of them.

    Called after the commit that saved vectors, by staging for its own documents, and by the sweep.
    The locks wait: with SKIP LOCKED, two that complete a document together would both leave it.
    """
    published = 0
    for at in range(0, len(docs), PUBLISH_SLICE):
        parameters = {"docs": sorted(docs)[at : at + PUBLISH_SLICE]}
        with connection.transaction():
            connection.execute(build.sql("revisions.sql", "lock_wanted"), parameters)
            live = [row[0] for row in connection.execute(build.sql("revisions.sql", "publish"), parameters)]
        published += len(live)
        if build.state == "live":
            events.published(build.index, live)
    return published


def touched_by(connection: Connection, build: Build, hashes: Sequence[bytes]) -> list[int]:
    """The documents that want one of these contents, by doc."""
    rows = connection.execute(build.sql("revisions.sql", "touched_by"), {"hashes": list(hashes)})
    return [row[0] for row in rows]


@retry_on_deadlock
def delete(
    connection: Connection,
    job: Job,
    ids: Sequence[str],
    version: int | None,
    *,
    heads: Mapping[str, int | None] | None = None,
    enqueued: Sequence[int] | None = (),
) -> Mapping[str, int]:
    """Delete at most 100 documents in one transaction; a second time it only reports what the first came to.

    The rows `enqueued` of the outbox go too; None: all of these documents.
    `remove` tells the rest.
    """
    with builds.locked(connection, job.index_id, exclusive=True):
        if not _enter(connection, job):
            row = connection.execute(statement("revisions.sql", "slice_counts"), _key(job)).fetchone()
            return row[0] if row else {}
        if enqueued is None:
            erasure.erase_enqueued(connection, job.index_id, ids, version)
        else:
            erasure.erase_rows(connection, job.index_id, enqueued, version)
        counts = remove(connection, job.index_id, ids, version, heads=heads)
        _count(connection, job, counts, finished=True)
        return asdict(counts)


def remove(
    connection: Connection,
    index_id: int,
    ids: Sequence[str],
    version: int | None,
    *,
    heads: Mapping[str, int | None] | None = None,
    before: Mapping[str, int] | None = None,
) -> StageCounts:
    """Delete documents inside a transaction that holds the exclusive lock, with all that nothing else refers to.

    With `heads`, the newest revisions for which they were chosen: one that has another by now stays. What the outbox
    keeps of them that could not be staged goes too, with `before` only what was enqueued before that number, by id.

    An id that is not known becomes a tombstone when there is a version, so that an older update that is still
    on its way finds the fence.

    Exclusive, as vectors go: whoever relies on one comes before, and it stays, or after, and queues its content
    anew. Raises BuildDropped when the index is gone.
    """
    if builds.is_dropped(connection, index_id):
        raise BuildDropped(DROPPED)
    parameters: dict[str, Any] = {"index_id": index_id, "ids": list(ids)}
    if version is not None:
        connection.execute(statement("revisions.sql", "insert_documents"), parameters)
    rows = lock_documents(connection, parameters)
    if heads is not None:
        rows = [row for row in rows if row.head_rev == heads[row.id]]
    named = list(ids) if heads is None else [row.id for row in rows]
    erasure.erase_rejected(connection, index_id, named, version, before=before)
    fenced = [row for row in rows if row.is_newer_than(version)]
    docs = [row.doc for row in rows if row not in fenced]
    connection.execute(statement("revisions.sql", "mark_deleted"), {"docs": docs, "version": version})
    for build in builds.every(connection, index_id):
        _erase(connection, build, docs)
    connection.execute(statement("revisions.sql", "delete_revisions"), {"docs": docs})
    if docs:
        connection.execute(statement("revisions.sql", "note_erased"), parameters)
    gone = set(named) - {row.id for row in fenced}
    parameters |= {"ids": list(gone), "entries": [json.dumps([{"id": id}]) for id in gone]}
    connection.execute(statement("revisions.sql", "forget_errors"), parameters)
    there = sum(1 for row in rows if row not in fenced and row.head_rev is not None)
    return StageCounts(stale=len(fenced), deleted=there)


def _erase(connection: Connection, build: Build, docs: Sequence[int]) -> None:
    """Take locked documents out of a build: refs, chunks, and the vectors that nothing else refers to."""
    served = lock_served(connection, build, docs)
    revs = [rev for row in served for rev in (row.live_rev, row.want_rev) if rev is not None]
    gone = connection.execute(build.sql("revisions.sql", "delete_served"), {"docs": list(docs)}).fetchall()
    if errors := [error for (error,) in gone if error is not None]:
        parameters = {"build": build.build, "errors": errors}
        connection.execute(statement("revisions.sql", "forget_last_error"), parameters)
    rows = connection.execute(build.sql("revisions.sql", "erase_chunks"), {"revs": revs}).fetchall()
    garbage.take_away(connection, build, (row[0] for row in rows))


@retry_on_deadlock
def retry(connection: Connection, index_id: int, ids: Sequence[str]) -> Retried:
    """Let at most 100 documents that failed be tried again, in every build in which they did."""
    with builds.locked(connection, index_id, exclusive=False):
        docs = [row.doc for row in lock_documents(connection, {"index_id": index_id, "ids": list(ids)})]
        tried: set[int] = set()
        chunks = 0
        for build in builds.writable(connection, index_id):
            again = want(connection, build, [], docs)
            chunks += len(queue(connection, build, again, priority=0))
            tried.update(again)
    return Retried(docs=sorted(tried), chunks=chunks)


def _enter(connection: Connection, job: Job) -> bool:
    """Write the ledger row; False when it stands already, after waiting for whoever is writing it."""
    parameters = asdict(job) | {"rejected": Jsonb(list(job.rejected))}
    return connection.execute(statement("revisions.sql", "insert_job"), parameters).rowcount == 1


def _count(connection: Connection, job: Job, counts: StageCounts, *, finished: bool = False) -> None:
    parameters = {"counts": Jsonb(asdict(counts)), "finished": finished}
    connection.execute(statement("revisions.sql", "set_job_counts"), _key(job) | parameters)


def _key(job: Job) -> dict[str, Any]:
    return {"task_id": job.task_id, "slice": job.slice}
