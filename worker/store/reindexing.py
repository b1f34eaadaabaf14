"""Runs of reindexing: their lease, their history, and the documents that the index knows."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from worker.documents import Document
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.statements import statement

LEASE_SECONDS = 120.0  # after this time another run can replace one whose worker died
DOCUMENTS_AT_ONCE = 1000
HISTORY_DAYS = 90

DIED = "the run did not renew its lease for two minutes, so the next run began: its worker died or hung"


@dataclass(frozen=True, kw_only=True)
class ReindexRequest:
    """A message of tasks.reindex."""

    index: str
    task_id: str
    scheduled_for: datetime | None = None  # None: started by hand


@dataclass(frozen=True, kw_only=True)
class ReindexRun:
    """A run that holds the lease of its index."""

    index_id: int
    task_id: str
    token: UUID
    since: datetime  # its start, by the clock of the database

    @property
    def lease(self) -> Mapping[str, Any]:
        """The parameters of the statements that renew and release its lease."""
        return {"index_id": self.index_id, "token": self.token, "seconds": LEASE_SECONDS}


@dataclass(frozen=True, kw_only=True)
class RunCounts:
    """The counts of a run, in documents."""

    read: int
    staged: int
    unchanged: int
    deleted: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class SourceCursor:
    """The position where the next incremental run begins."""

    query: str  # fingerprint of the database and the query
    reached: str  # value of the cursor column, as text of Postgres


@dataclass(frozen=True, kw_only=True)
class KnownDocument:
    """A document that the index knows, deleted or not."""

    doc: int
    settled: bool  # whether it is searchable as the source has it


def begin(connection: Connection, index_id: int, request: ReindexRequest) -> ReindexRun | None:
    """Take the lease and start a run in the history; `None` if another run holds the lease of the index."""
    token = uuid4()
    with connection.transaction():
        row = connection.execute(
            statement("reindexing.sql", "take_lease"),
            {"index_id": index_id, "task_id": request.task_id, "token": token, "seconds": LEASE_SECONDS},
        ).fetchone()
        if row is None:
            return None
        parameters = asdict(request) | {"message": DIED, "days": HISTORY_DAYS}
        for name in ("fail_dead_runs", "start_run", "delete_old_runs"):
            connection.execute(statement("reindexing.sql", name), parameters)
    return ReindexRun(index_id=index_id, task_id=request.task_id, token=token, since=row[0])


def holder(connection: Connection, index_id: int) -> str | None:
    """The task id of the run that holds the lease, or held it last and died."""
    row = connection.execute(statement("reindexing.sql", "lease_holder"), {"index_id": index_id}).fetchone()
    return None if row is None else str(row[0])


def renew(connection: Connection, run: ReindexRun) -> bool:
    """Renew the lease; False if another run has taken it."""
    return connection.execute(statement("reindexing.sql", "renew_lease"), run.lease).rowcount == 1


def release(connection: Connection, run: ReindexRun) -> None:
    """Release the lease, so that the next run can begin."""
    connection.execute(statement("reindexing.sql", "release_lease"), run.lease)


def abort(connection: Connection, request: ReindexRequest, outcome: str, message: str) -> None:
    """Record in the history that a run was `skipped` or `failed`, and why."""
    parameters = asdict(request) | {"outcome": outcome, "message": message}
    connection.execute(statement("reindexing.sql", "abort_run"), parameters)


def finish(
    connection: Connection,
    task_id: str,
    figures: RunCounts,
    *,
    incremental: bool,
    message: str | None,
    cursor: SourceCursor | None,
) -> None:
    """Record a run that is done in the history; `message`: why it deleted nothing."""
    parameters = asdict(figures) | {
        "task_id": task_id,
        "incremental": incremental,
        "message": message,
        "cursor": None if cursor is None else Jsonb(asdict(cursor)),
    }
    connection.execute(statement("reindexing.sql", "finish_run"), parameters)


def last_complete(connection: Connection, index: str) -> int | None:
    """The number of documents in the last run that read the whole source and was allowed to delete."""
    row = connection.execute(statement("reindexing.sql", "last_complete"), {"index": index}).fetchone()
    return None if row is None else int(row[0])


def last_cursor(connection: Connection, index: str, query: str) -> str | None:
    """The position where the last run with the same query ended; `None`: read the source from its beginning."""
    parameters = {"index": index, "query": query}
    row = connection.execute(statement("reindexing.sql", "last_cursor"), parameters).fetchone()
    return None if row is None else row[0]


def restart(connection: Connection, task_id: str) -> "array[int]":
    """Reset the stale and rejected counts of an earlier delivery of the task, as everything is read anew.

    Returns the keys of the documents that it staged.
    """
    connection.execute(statement("reindexing.sql", "reset_counts"), {"task_id": task_id})
    # a million rows at once would take 100 MB in this process
    with connection.transaction(), connection.cursor("staged") as cursor:
        cursor.itersize = 10_000
        cursor.execute(statement("reindexing.sql", "staged_docs"), {"task_id": task_id})
        return array("q", (row[0] for row in cursor))


def set_report(connection: Connection, task_id: str, report: Mapping[str, Any]) -> None:
    """Set the fields that the result of the run has beside its counts."""
    parameters = {"task_id": task_id, "report": Jsonb(dict(report))}
    connection.execute(statement("reindexing.sql", "set_report"), parameters)


def count_documents(connection: Connection, index_id: int) -> int:
    """The number of documents in the index, searchable or not."""
    row = connection.execute(
        statement("reindexing.sql", "count_documents"), {"index_id": index_id}
    ).fetchone()
    assert row is not None
    return int(row[0])


def known_documents(
    connection: Connection, build: Build, documents: Sequence[Document], others: Sequence[str]
) -> dict[str, KnownDocument]:
    """The documents of the source that the index knows, by id; `others` are ids without content.

    Takes no lock. A document with another version than the known one is not settled, as its version must be raised.
    """
    parameters = {
        "index_id": build.index_id,
        "ids": [*(document.id for document in documents), *others],
        "hashes": [*(document.content_hash() for document in documents), *(b"" for _ in others)],
        "versions": [*(document.version for document in documents), *(None for _ in others)],
    }
    rows = connection.execute(build.sql("reindexing.sql", "known_documents"), parameters)
    return {id: KnownDocument(doc=doc, settled=settled) for id, doc, settled in rows}


def unchanged_documents(connection: Connection, run: ReindexRun, after: str) -> list[tuple[str, int, int]]:
    """The next page of documents that have not changed since the run began: id, key and newest revision."""
    parameters = {"index_id": run.index_id, "since": run.since, "after": after, "limit": DOCUMENTS_AT_ONCE}
    return connection.execute(statement("reindexing.sql", "unchanged_documents"), parameters).fetchall()
