"""Delete documents, with everything that only they refer to: chunks, vectors, revisions and enqueued texts.

Everything happens under the exclusive lock of the index. Staging relies on vectors and reads the outbox under the
shared lock: it comes before and its rows are deleted here, or it comes after and queues its contents anew.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from psycopg import sql

from worker.errors import BuildDropped
from worker.store import builds, fencing, garbage, jobs, refusals
from worker.store.builds import Build
from worker.store.connection import DROPPED, Connection, retry_on_deadlock
from worker.store.jobs import JobSlice, StageCounts
from worker.store.locking import lock_documents, lock_served
from worker.store.reindexing import ReindexRun
from worker.store.statements import statement, statements


@retry_on_deadlock
def delete(
    connection: Connection,
    job: JobSlice,
    ids: Sequence[str],
    version: int | None,
    *,
    heads: Mapping[str, int | None] | None = None,
    enqueued: Sequence[int] | None = (),
    run: ReindexRun | None = None,
) -> Mapping[str, int]:
    """Delete at most 100 documents in one transaction; for a slice that was written before, return its counts.

    `enqueued`: numbers of outbox rows that go too; `None`: all of these documents' rows. See `remove` for `heads`.
    `run`: the run of reindexing that found them missing. It must hold its lease, and deletes nothing that was sent
    since it began. Raises LeaseLost.
    """
    with builds.locked(connection, job.index_id, exclusive=True):
        if run is not None:
            fencing.hold(connection, run)
        if not jobs.begin_slice(connection, job):
            return jobs.slice_counts(connection, job)
        if enqueued is None:
            _delete_enqueued(connection, job.index_id, "id", ids, version)
        else:
            _delete_enqueued(connection, job.index_id, "seq", enqueued, version)
        since = None if run is None else run.since
        counts = remove(connection, job.index_id, ids, version, heads=heads, unchanged_since=since)
        jobs.set_counts(connection, job, counts, finished=True)
        return asdict(counts)


def remove(
    connection: Connection,
    index_id: int,
    ids: Sequence[str],
    version: int | None,
    *,
    heads: Mapping[str, int | None] | None = None,
    before: Mapping[str, int] | None = None,
    unchanged_since: datetime | None = None,
) -> StageCounts:
    """Delete documents inside a transaction that holds the exclusive lock, with everything that only they refer to.

    `heads`: the newest revision for which each document was chosen; a document that has another one by now stays.
    `unchanged_since`: so does a document that was sent again since then.
    Rejected outbox rows of the documents go too; with `before`, by id, only rows with a lower number.

    An unknown id becomes a tombstone: with a version, it fences an older update that is still on its way, and always
    a row that a run of reindexing has read.

    The lock is exclusive because vectors go. Raises BuildDropped when the index was dropped.
    """
    if builds.is_dropped(connection, index_id):
        raise BuildDropped(DROPPED)
    parameters: dict[str, Any] = {"index_id": index_id, "ids": list(ids)}
    if version is not None or heads is None:
        connection.execute(statement("writing.sql", "insert_documents"), parameters)
    rows = lock_documents(connection, parameters)
    if heads is not None:
        rows = [row for row in rows if row.head_rev == heads[row.id]]
    if unchanged_since is not None:
        rows = [row for row in rows if not row.has_changed_since(unchanged_since)]
    named = list(ids) if heads is None else [row.id for row in rows]
    _delete_rejected(connection, index_id, named, version, before=before)
    refusals.clear(connection, index_id, [(id, version) for id in named])
    fenced = [row for row in rows if row.is_newer_than(version)]
    docs = [row.doc for row in rows if row not in fenced]
    connection.execute(statement("deletion.sql", "mark_deleted"), {"docs": docs, "version": version})
    for build in builds.every(connection, index_id):
        _delete_from_build(connection, build, docs)
    connection.execute(statement("deletion.sql", "delete_revisions"), {"docs": docs})
    there = sum(1 for row in rows if row not in fenced and row.head_rev is not None)
    if there:
        connection.execute(statement("deletion.sql", "mark_erased"), parameters)
    gone = set(named) - {row.id for row in fenced}
    parameters |= {"ids": list(gone), "entries": [json.dumps([{"id": id}]) for id in gone]}
    connection.execute(statement("deletion.sql", "redact_errors"), parameters)
    return StageCounts(stale=len(fenced), deleted=there)


@retry_on_deadlock
def bury(connection: Connection, job: JobSlice, versions: Mapping[str, int]) -> list[str]:
    """Leave a tombstone with its version for each unknown or deleted id; the ids of documents that are there.

    Delete those with `delete`, which takes the exclusive lock. The shared lock is enough here, as no vector goes.
    """
    with builds.locked(connection, job.index_id, exclusive=False):
        if not jobs.begin_slice(connection, job):
            return []
        parameters: dict[str, Any] = {"index_id": job.index_id, "ids": list(versions)}
        connection.execute(statement("writing.sql", "insert_documents"), parameters)
        rows = lock_documents(connection, parameters)
        absent = [row for row in rows if row.head_rev is None]
        values = {"docs": [row.doc for row in absent], "versions": [versions[row.id] for row in absent]}
        connection.execute(statement("deletion.sql", "bury"), values)
        jobs.set_counts(connection, job, StageCounts(), finished=True)
        return [row.id for row in rows if row.head_rev is not None]


def _delete_from_build(connection: Connection, build: Build, docs: Sequence[int]) -> None:
    """Delete locked documents from a build: served rows, chunks, and vectors that only they had."""
    served = lock_served(connection, build, docs)
    revs = [rev for row in served for rev in (row.live_rev, row.want_rev) if rev is not None]
    gone = connection.execute(build.sql("deletion.sql", "delete_served"), {"docs": list(docs)}).fetchall()
    if errors := [error for (error,) in gone if error is not None]:
        parameters = {"build": build.build, "errors": errors}
        connection.execute(statement("deletion.sql", "clear_last_error"), parameters)
    rows = connection.execute(build.sql("deletion.sql", "delete_chunks"), {"revs": revs}).fetchall()
    garbage.delete_unreferenced(connection, build, (row[0] for row in rows))


def _delete_rejected(
    connection: Connection,
    index_id: int,
    ids: Sequence[str],
    version: int | None,
    *,
    before: Mapping[str, int] | None = None,
) -> None:
    """Delete the outbox rows of documents that could not be staged; with `before`, by id, those with a lower number."""
    parameters = {"index_id": index_id, "ids": list(ids), "before": [before and before[id] for id in ids]}
    rows = connection.execute(statement("deletion.sql", "rejected_rows"), parameters).fetchall()
    _delete_enqueued(connection, index_id, "seq", [seq for (seq,) in rows], version)


def _delete_enqueued(
    connection: Connection, index_id: int, key: str, keys: Sequence[int | str], version: int | None
) -> None:
    """Delete outbox rows by "seq" or by "id" of their documents, unless they have a higher version.

    The highest version among the deleted rows becomes that of the document, or of a tombstone. It fences older updates
    as the text would have done. Rows that a worker has staged meanwhile are gone already.
    """
    if keys:
        text = sql.SQL(statements("deletion.sql")["delete_enqueued"]).format(key=sql.Identifier(key))
        connection.execute(text, {"index_id": index_id, "keys": list(keys), "version": version})
