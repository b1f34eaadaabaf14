"""Runs of reindexing: the lease that keeps them apart, their history, and which documents a run did not meet."""

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

LEASE_SECONDS = 120.0  # the run of a worker that died can begin again after it
DOCUMENTS_AT_ONCE = 1000
KEPT_DAYS = 90  # in the history

DIED = "it was not heard of for two minutes, and the next run began: its worker died or was stuck"


@dataclass(frozen=True, kw_only=True)
class ReindexRequest:
    """A message of tasks.reindex."""

    index: str
    task_id: str
    scheduled_for: datetime | None = None  # None: asked for by hand


@dataclass(frozen=True, kw_only=True)
class ReindexRun:
    """A run that holds the lease of its index."""

    index_id: int
    token: UUID
    since: datetime  # its start, by the clock of the database


@dataclass(frozen=True, kw_only=True)
class RunCounts:
    """What a run came to, in documents."""

    read: int
    staged: int
    unchanged: int
    deleted: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class SourceCursor:
    """Where the next incremental run begins."""

    query: str  # fingerprint of the database and the query that it belongs to
    reached: str  # as Postgres reads the cursor's column


@dataclass(frozen=True, kw_only=True)
class KnownDocument:
    """A document of the source that the index knows, deleted or not."""

    doc: int
    settled: bool  # searchable as the source has it


def begin(connection: Connection, index_id: int, request: ReindexRequest) -> ReindexRun | None:
    """Begin a run and its row in the history; None while another one holds the lease of the index."""
    token = uuid4()
    with connection.transaction():
        row = connection.execute(
            statement("reindexing.sql", "take_lease"),
            {"index_id": index_id, "task_id": request.task_id, "token": token, "seconds": LEASE_SECONDS},
        ).fetchone()
        if row is None:
            return None
        parameters = asdict(request) | {"message": DIED, "days": KEPT_DAYS}
        for name in ("close_dead", "start_run", "forget_runs"):
            connection.execute(statement("reindexing.sql", name), parameters)
    return ReindexRun(index_id=index_id, token=token, since=row[0])


def holder(connection: Connection, index_id: int) -> str | None:
    """The id of the task whose run holds the lease, or did last and died."""
    row = connection.execute(statement("reindexing.sql", "holder"), {"index_id": index_id}).fetchone()
    return None if row is None else str(row[0])


def renew(connection: Connection, run: ReindexRun) -> bool:
    """Hold the lease for longer; False when another run has taken it."""
    parameters = {"index_id": run.index_id, "token": run.token, "seconds": LEASE_SECONDS}
    return connection.execute(statement("reindexing.sql", "renew"), parameters).rowcount == 1


def end(connection: Connection, run: ReindexRun) -> None:
    """Let the next run begin."""
    parameters = {"index_id": run.index_id, "token": run.token}
    connection.execute(statement("reindexing.sql", "end"), parameters)


def give_up(connection: Connection, request: ReindexRequest, outcome: str, message: str) -> None:
    """Write into the history that a run was skipped or failed, and why."""
    parameters = asdict(request) | {"outcome": outcome, "message": message}
    connection.execute(statement("reindexing.sql", "give_up_run"), parameters)


def finish(
    connection: Connection,
    task_id: str,
    figures: RunCounts,
    *,
    incremental: bool,
    message: str | None,
    cursor: SourceCursor | None,
) -> None:
    """Write into the history what a run came to; `message`: why it deleted nothing."""
    parameters = asdict(figures) | {
        "task_id": task_id,
        "incremental": incremental,
        "message": message,
        "cursor": None if cursor is None else Jsonb(asdict(cursor)),
    }
    connection.execute(statement("reindexing.sql", "finish_run"), parameters)


def last_complete(connection: Connection, index: str) -> int | None:
    """How many documents the source returned in the last run that read it as a whole and swept."""
    row = connection.execute(statement("reindexing.sql", "last_complete"), {"index": index}).fetchone()
    return None if row is None else int(row[0])


def last_cursor(connection: Connection, index: str, query: str) -> str | None:
    """Where the last run got to that read the same query; None: it is to be read from its beginning."""
    parameters = {"index": index, "query": query}
    row = connection.execute(statement("reindexing.sql", "last_cursor"), parameters).fetchone()
    return None if row is None else row[0]


def begin_again(connection: Connection, task_id: str) -> "array[int]":
    """Forget what an earlier delivery of the task counted as stale or failed, as all is read anew.

    Returns the keys of the documents that it staged.
    """
    connection.execute(statement("reindexing.sql", "begin_again"), {"task_id": task_id})
    # a million rows at a time would be 100 MB in this process
    with connection.transaction(), connection.cursor("staged") as cursor:
        cursor.itersize = 10_000
        cursor.execute(statement("reindexing.sql", "staged_docs"), {"task_id": task_id})
        return array("q", (row[0] for row in cursor))


def set_report(connection: Connection, task_id: str, report: Mapping[str, Any]) -> None:
    """Keep what the result of the run will say beside its counts."""
    parameters = {"task_id": task_id, "report": Jsonb(dict(report))}
    connection.execute(statement("reindexing.sql", "set_report"), parameters)


def count_documents(connection: Connection, index_id: int) -> int:
    """How many documents the index holds, searchable or not."""
    row = connection.execute(
        statement("reindexing.sql", "count_documents"), {"index_id": index_id}
    ).fetchone()
    assert row is not None
    return int(row[0])


def look(
    connection: Connection, build: Build, documents: Sequence[Document], others: Sequence[str]
) -> dict[str, KnownDocument]:
    """Where documents of the source stand in the live build, by id; `others` are ids without a content.

    A look, no lock. One whose version is another than the known one is not settled: the fence is to be raised.
    """
    parameters = {
        "index_id": build.index_id,
        "ids": [*(document.id for document in documents), *others],
        "hashes": [*(document.content_hash() for document in documents), *(b"" for _ in others)],
        "versions": [*(document.version for document in documents), *(None for _ in others)],
    }
    rows = connection.execute(build.sql("reindexing.sql", "look"), parameters)
    return {id: KnownDocument(doc=doc, settled=settled) for id, doc, settled in rows}


def documents_before(connection: Connection, run: ReindexRun, after: str) -> list[tuple[str, int, int]]:
    """The next page of the documents that nobody has changed since the run began: id, key and newest revision."""
    parameters = {"index_id": run.index_id, "since": run.since, "after": after, "limit": DOCUMENTS_AT_ONCE}
    return connection.execute(statement("reindexing.sql", "documents_before"), parameters).fetchall()
