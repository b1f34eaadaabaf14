"""Batches: the documents of several small messages, written in one transaction.

Each message keeps its own rows in the ledger of jobs, so afterwards nothing distinguishes it from a message that was
staged by itself.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from psycopg.types.json import Jsonb

from worker.store import builds, refusals
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.jobs import JobSlice, StageCounts
from worker.store.statements import statement
from worker.store.writing import Prepared, Written, write


class NotBatchable(Exception):
    """A message of the batch has many documents, or is in the ledger already: stage each message by itself."""


@retry_on_deadlock
def stage(
    connection: Connection,
    jobs: Sequence[JobSlice],
    owners: Mapping[str, str],
    prepared: Sequence[Prepared],
    expected: Sequence[Build],
) -> Written:
    """Write at most 100 documents with distinct ids for several messages of an index, each with one slice.

    `owners`: the task id of the message that brought a document, by id, in the order of the messages. See
    `writing.write` for `prepared`, `expected` and errors. Raises NotBatchable; nothing is written then.
    """
    index_id = jobs[0].index_id
    with builds.locked(connection, index_id, exclusive=False):
        _begin(connection, jobs)
        written = write(connection, index_id, prepared, expected)
        for job in jobs:
            refusals.record(connection, index_id, job.task_id, job.refusals)
        _add_documents(connection, owners, written)
        _set_counts(connection, jobs, _counts(jobs, owners, written))
    return written


def _begin(connection: Connection, jobs: Sequence[JobSlice]) -> None:
    parameters = {
        "index_id": jobs[0].index_id,
        "task_ids": [job.task_id for job in jobs],
        "fingerprints": [job.fingerprint for job in jobs],
        "rejected": [Jsonb(list(job.rejected)) for job in jobs],
    }
    if connection.execute(statement("jobs.sql", "insert_jobs"), parameters).rowcount < len(jobs):
        raise NotBatchable


def _add_documents(connection: Connection, owners: Mapping[str, str], written: Written) -> None:
    rows = [
        (owners[id], *waited)
        for (id, _), waited in zip(written.accepted, written.waited, strict=True)
        if waited[0] not in written.settled
    ]
    task_ids, docs, revs, outcomes = ([row[column] for row in rows] for column in range(4))
    parameters = {"task_ids": task_ids, "docs": docs, "revs": revs, "outcomes": outcomes}
    connection.execute(statement("jobs.sql", "insert_documents_of_jobs"), parameters)


def _counts(jobs: Sequence[JobSlice], owners: Mapping[str, str], written: Written) -> dict[str, StageCounts]:
    """The counts of each job. A content that several messages brought counts for the first of them."""
    stale = {job.task_id: job.superseded for job in jobs}
    chunks, embedded, tokens = (dict.fromkeys(stale, 0) for _ in range(3))
    for id in written.stale:
        stale[owners[id]] += 1
    unchanged = Counter(
        owners[id]
        for (id, _), (doc, _, _) in zip(written.accepted, written.waited, strict=True)
        if doc in written.settled
    )
    queued = dict(written.queued)
    for id, task_id in owners.items():
        of_document = written.chunks.get(id, ())
        chunks[task_id] += len(of_document)
        for chunk in of_document:
            if (counted := queued.pop(chunk.hash, None)) is not None:
                embedded[task_id] += 1
                tokens[task_id] += counted
    return {
        job.task_id: StageCounts(
            stale=stale[job.task_id],
            unchanged=unchanged[job.task_id],
            left_out=job.left_out,
            chunks=chunks[job.task_id],
            embedded=embedded[job.task_id],
            tokens=tokens[job.task_id],
        )
        for job in jobs
    }


def _set_counts(connection: Connection, jobs: Sequence[JobSlice], counts: Mapping[str, StageCounts]) -> None:
    parameters = {
        "task_ids": [job.task_id for job in jobs],
        "counts": [Jsonb(asdict(counts[job.task_id])) for job in jobs],
    }
    connection.execute(statement("jobs.sql", "set_counts_of_jobs"), parameters)
