"""Pause, resume and drop indexes.

A drop is one short transaction, however large the index: it drops the tables of its builds and renames its row. From
then on the index is invisible, and its name is free. The remaining rows are deleted afterwards, in slices. If a worker
dies meanwhile, the next drop or collection continues.
"""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.errors import InvalidQuery
from worker.store import builds
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.jobs import REDELIVERY_DAYS, check_repetition, reused
from worker.store.statements import SCHEMA, statement, statements

SLICE = 1_000  # rows that one statement deletes
DROP_SECONDS = 2.0  # how long a drop waits for readers and writers of a build
LOCKED_SECONDS = 2.0  # how long a drop waits for rows that others have locked

# tables that know an index by its name, and the time of their rows
NAMED: Mapping[str, LiteralString] = {"outbox": "enqueued_at", "runs": "started_at"}
# deleted only if the settings no longer name the index
SCHEDULED: Mapping[str, LiteralString] = {"schedules": "'-infinity'"}


def paused_at(connection: Connection, name: str) -> datetime | None:
    """Since when the index is paused; `None` if it is not paused or does not exist."""
    row = connection.execute(statement("indexes.sql", "paused_at"), {"name": name}).fetchone()
    return None if row is None else row[0]


def find(connection: Connection, name: str) -> int | None:
    """Return the id of an index; None if it does not exist."""
    row = connection.execute(statement("builds.sql", "find_index"), {"name": name}).fetchone()
    return None if row is None else int(row[0])


def pause(connection: Connection, name: str, task_id: str) -> datetime | None:
    """Pause embedding for an index; since when it is paused.

    A second call with the same `task_id` is a no-op, so a late message leaves a later one in force. Raises InvalidQuery
    when the index does not exist.
    """
    return _change(connection, "pause", name, task_id)


def resume(connection: Connection, name: str, task_id: str) -> datetime | None:
    """Resume embedding for a paused index; always `None`. Otherwise as `pause`."""
    return _change(connection, "resume", name, task_id)


@retry_on_deadlock
def _change(connection: Connection, change: str, name: str, task_id: str) -> datetime | None:
    parameters = {"name": name, "task_id": task_id, "fingerprint": change.encode()}
    with connection.transaction():
        if connection.execute(statement("indexes.sql", "insert_task"), parameters).rowcount:
            connection.execute(statement("indexes.sql", change), parameters)
        else:
            check_repetition(connection, task_id, find(connection, name), change.encode())
        row = connection.execute(statement("indexes.sql", "paused_at"), parameters).fetchone()
    if row is None:
        raise InvalidQuery(f"index {name!r:.100} does not exist: it is created with its first document")
    return None if row[0] is None else row[0].replace(microsecond=0)


def drop(connection: Connection, name: str, task_id: str, *, configured: bool) -> Mapping[str, Any]:
    """Drop an index with everything in it; the number of its documents, builds and outbox rows.

    For an index that does not exist, its outbox rows go. `configured`: the settings name the index, so its schedule
    stays.

    A second call with the same `task_id` completes the first one and returns the same; for another index, it raises
    InvalidQuery. Raises LockNotAvailable when readers or writers hold the index for longer than two seconds: nothing
    was dropped, try again.
    """
    row = connection.execute(statement("indexes.sql", "drop_report"), {"task_id": task_id}).fetchone()
    report: dict[str, Any] | None = row[0] if row else None
    if report is None:
        named = NAMED if configured else {**NAMED, **SCHEDULED}
        gone = {table: _delete_named(connection, name, table, made_at) for table, made_at in named.items()}
        report = _drop(connection, name, {"task_id": task_id, "index": name, "enqueued": gone["outbox"]})
    elif report.get("index", name) != name:
        raise reused(task_id)
    purge(connection)
    return {key: report[key] for key in ("documents", "builds", "enqueued")}


@retry_on_deadlock
def purge(connection: Connection) -> None:
    """Delete the remaining rows of dropped indexes, in slices. Any number may run at the same time."""
    for (index_id,) in connection.execute(statement("indexes.sql", "dropped_indexes")).fetchall():
        parameters = {"index_id": index_id, "limit": SLICE}
        for name in ("delete_documents", "delete_refusals"):
            while connection.execute(statement("indexes.sql", name), parameters).rowcount:
                pass
        after: str | None = ""
        while after is not None:
            bound = {"after": after, "limit": SLICE - 1}
            end = connection.execute(statement("indexes.sql", "jobs_slice_end"), bound).fetchone()
            until = end[0] if end else None
            connection.execute(
                statement("indexes.sql", "delete_jobs"), parameters | {"after": after, "until": until}
            )
            after = until
    connection.execute(statement("indexes.sql", "delete_dropped"), {"days": REDELIVERY_DAYS})


def _drop(connection: Connection, name: str, report: Mapping[str, Any]) -> dict[str, Any]:
    row = connection.execute(statement("builds.sql", "find_index"), {"name": name}).fetchone()
    if row is None:
        nothing = {**report, "documents": 0, "builds": 0}
        connection.execute(
            statement("indexes.sql", "insert_dropped"), {"name": name, "report": Jsonb(nothing)}
        )
        return nothing
    count = connection.execute(statement("indexes.sql", "count_documents"), {"index_id": row[0]}).fetchone()
    return _drop_tables(connection, row[0], {**report, "documents": count[0] if count else 0})


@retry_on_deadlock
def _drop_tables(connection: Connection, index_id: int, report: Mapping[str, Any]) -> dict[str, Any]:
    """Make an index vanish, in one transaction; of two concurrent calls, the second finds nothing."""
    with connection.transaction():
        connection.execute(statement("indexes.sql", "lock_timeout"))
        with builds.locked(connection, index_id, exclusive=True):
            if builds.is_dropped(connection, index_id):
                return {**report, "documents": 0, "builds": 0}
            every = builds.every(connection, index_id)
            for build in every:
                builds.drop_tables(connection, build, seconds=DROP_SECONDS)
            dropped = {**report, "builds": len(every)}
            parameters = {"index_id": index_id, "report": Jsonb(dropped)}
            for name in ("delete_builds", "delete_lease", "drop_index"):
                connection.execute(statement("indexes.sql", name), parameters)
            return dropped


def _delete_named(connection: Connection, name: str, table: str, made_at: LiteralString) -> int:
    """Delete rows that know the index by its name, up to now; their number. Later ones create the index anew."""
    now = connection.execute(statement("indexes.sql", "now")).fetchone()
    text = sql.SQL(statements("indexes.sql")["delete_named_rows"]).format(
        table=sql.Identifier(SCHEMA, table), made_at=sql.SQL(made_at)
    )
    parameters = {"name": name, "before": now[0] if now else None, "limit": SLICE}
    any_left = sql.SQL(statements("indexes.sql")["has_named_rows"]).format(
        table=sql.Identifier(SCHEMA, table), made_at=sql.SQL(made_at)
    )
    deleted, until = 0, time.monotonic() + LOCKED_SECONDS
    while True:
        deleted += sum(iter(lambda: connection.execute(text, parameters).rowcount, 0))
        # a row that a worker has locked is skipped; it is here again if the worker does not take it
        if time.monotonic() > until or not connection.execute(any_left, parameters).rowcount:
            return deleted
        time.sleep(0.05)
