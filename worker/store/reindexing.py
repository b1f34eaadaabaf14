"""Runs of reindexing: the lease that keeps them apart, and which documents a run did not meet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from worker.store.connection import Connection
from worker.store.statements import statement

LEASE_SECONDS = 120.0  # renewed with every page; the run of a worker that died can begin again after it
IDS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that holds the lease of its index."""

    index_id: int
    token: UUID
    since: datetime  # its start, by the clock of the database


def begin(connection: Connection, index_id: int, task_id: str) -> Run | None:
    """Begin a run; None while another one holds the lease of the index."""
    token = uuid4()
    parameters = {"index_id": index_id, "task_id": task_id, "token": token, "seconds": LEASE_SECONDS}
    row = connection.execute(statement("reindexing.sql", "begin"), parameters).fetchone()
    return None if row is None else Run(index_id=index_id, token=token, since=row[0])


def holder(connection: Connection, index_id: int) -> str | None:
    """The id of the task whose run holds the lease, or did last and died."""
    row = connection.execute(statement("reindexing.sql", "holder"), {"index_id": index_id}).fetchone()
    return None if row is None else str(row[0])


def renew(connection: Connection, run: Run) -> bool:
    """Hold the lease for longer; False when another run has taken it."""
    parameters = {"index_id": run.index_id, "token": run.token, "seconds": LEASE_SECONDS}
    return connection.execute(statement("reindexing.sql", "renew"), parameters).rowcount == 1


def end(connection: Connection, run: Run) -> None:
    """Let the next run begin."""
    parameters = {"index_id": run.index_id, "token": run.token}
    connection.execute(statement("reindexing.sql", "end"), parameters)


def begin_again(connection: Connection, task_id: str) -> None:
    """Forget what an earlier delivery of the task counted as stale or failed: it is all read anew."""
    connection.execute(statement("reindexing.sql", "begin_again"), {"task_id": task_id})


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


def documents_before(connection: Connection, run: Run) -> Iterator[tuple[str, int]]:
    """Ids, in order, of the documents that nobody has changed since the run began, with their newest revisions."""
    after = ""
    while True:
        parameters = {"index_id": run.index_id, "since": run.since, "after": after, "limit": IDS_AT_ONCE}
        rows = connection.execute(statement("reindexing.sql", "documents_before"), parameters).fetchall()
        yield from ((row[0], row[1]) for row in rows)
        if not rows:
            return
        after = rows[-1][0]
