"""Indexes as a whole: paused, resumed, dropped.

A drop is one short transaction, whatever the index holds: its builds' tables go, and its row takes another name. From
then on nobody sees it, and the name is free. What is left of its rows is deleted behind that, in slices; whoever dies
over it is followed by the next drop or collection.
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
from worker.store.jobs import REDELIVERY_DAYS
from worker.store.statements import SCHEMA, statement, statements

SLICE = 1_000  # rows that one statement deletes
HELD_SECONDS = 2.0  # how long a drop waits for rows that others have locked

# tables that know an index by its name, and what dates their rows
NAMED: Mapping[str, LiteralString] = {"outbox": "enqueued_at", "runs": "started_at"}
SCHEDULED: Mapping[str, LiteralString] = {
    "schedules": "'-infinity'"
}  # of its settings: not where they name it still


def paused_at(connection: Connection, name: str) -> datetime | None:
    """Since when the index is paused; None when it is not, or not there yet."""
    row = connection.execute(statement("indexes.sql", "paused_at"), {"name": name}).fetchone()
    return None if row is None else row[0]


def pause(connection: Connection, name: str, task_id: str) -> datetime | None:
    """Send nothing of the index to its provider from now on; since when it is paused.

    A second time with the same `task_id` it changes nothing: a late message does not undo a later one. Raises
    InvalidQuery when there is no such index.
    """
    return _change(connection, "pause", name, task_id)


def resume(connection: Connection, name: str, task_id: str) -> datetime | None:
    """Let a paused index go on; otherwise as `pause`."""
    return _change(connection, "resume", name, task_id)


@retry_on_deadlock
def _change(connection: Connection, change: str, name: str, task_id: str) -> datetime | None:
    parameters = {"name": name, "task_id": task_id}
    with connection.transaction():
        if connection.execute(statement("indexes.sql", "note_task"), parameters).rowcount:
            connection.execute(statement("indexes.sql", change), parameters)
        row = connection.execute(statement("indexes.sql", "paused_at"), parameters).fetchone()
    if row is None:
        raise InvalidQuery(f"there is no index {name!r}: it is made with its first document")
    return None if row[0] is None else row[0].replace(microsecond=0)


def drop(connection: Connection, name: str, task_id: str, *, configured: bool) -> Mapping[str, Any]:
    """Drop an index with everything of it: how many documents, builds and enqueued changes of documents there were.

    Of an index that is not there, what is enqueued.

    `configured`: the settings name it, and so its schedule stays.

    A second time with the same `task_id` it only completes the first, and reports the same. Raises LockNotAvailable
    when readers or writers hold it for longer than two seconds: nothing was dropped, try again.
    """
    row = connection.execute(statement("indexes.sql", "drop_report"), {"task_id": task_id}).fetchone()
    report: dict[str, Any] | None = row[0] if row else None
    if report is None:
        named = NAMED if configured else {**NAMED, **SCHEDULED}
        gone = {table: _delete_named(connection, name, table, made_at) for table, made_at in named.items()}
        report = _drop(connection, name, {"task_id": task_id, "enqueued": gone["outbox"]})
    purge(connection)
    return {key: report[key] for key in ("documents", "builds", "enqueued")}


@retry_on_deadlock
def purge(connection: Connection) -> None:
    """Delete what is left of dropped indexes, in slices. Any number may do so at once."""
    for (index_id,) in connection.execute(statement("indexes.sql", "dropped")).fetchall():
        parameters = {"index_id": index_id, "limit": SLICE}
        while connection.execute(statement("indexes.sql", "delete_documents"), parameters).rowcount:
            pass
        after: str | None = ""
        while after is not None:
            bound = {"after": after, "limit": SLICE - 1}
            end = connection.execute(statement("indexes.sql", "bound_jobs"), bound).fetchone()
            until = end[0] if end else None
            connection.execute(
                statement("indexes.sql", "delete_jobs"), parameters | {"after": after, "until": until}
            )
            after = until
    connection.execute(statement("indexes.sql", "forget"), {"days": REDELIVERY_DAYS})


def _drop(connection: Connection, name: str, report: Mapping[str, Any]) -> dict[str, Any]:
    row = connection.execute(statement("builds.sql", "find_index"), {"name": name}).fetchone()
    if row is None:
        nothing = {**report, "documents": 0, "builds": 0}
        connection.execute(statement("indexes.sql", "note_drop"), {"name": name, "report": Jsonb(nothing)})
        return nothing
    count = connection.execute(statement("indexes.sql", "count_documents"), {"index_id": row[0]}).fetchone()
    return _drop_tables(connection, row[0], {**report, "documents": count[0] if count else 0})


@retry_on_deadlock
def _drop_tables(connection: Connection, index_id: int, report: Mapping[str, Any]) -> dict[str, Any]:
    """The transaction that makes an index vanish; of two at once, the second finds it gone."""
    with connection.transaction():
        connection.execute(statement("indexes.sql", "lock_timeout"))
        with builds.locked(connection, index_id, exclusive=True):
            if builds.is_dropped(connection, index_id):
                return {**report, "documents": 0, "builds": 0}
            every = builds.every(connection, index_id)
            for build in every:
                connection.execute(build.sql("indexes.sql", "drop_tables"))
            dropped = {**report, "builds": len(every)}
            parameters = {"index_id": index_id, "report": Jsonb(dropped)}
            for name in ("delete_builds", "end_reindexing", "drop_index"):
                connection.execute(statement("indexes.sql", name), parameters)
            return dropped


def _delete_named(connection: Connection, name: str, table: str, made_at: LiteralString) -> int:
    """What is not yet, or no longer, in the index: how many rows. What is enqueued from now on makes it anew."""
    now = connection.execute(statement("indexes.sql", "now")).fetchone()
    text = sql.SQL(statements("indexes.sql")["delete_named"]).format(
        table=sql.Identifier(SCHEMA, table), made_at=sql.SQL(made_at)
    )
    parameters = {"name": name, "before": now[0] if now else None, "limit": SLICE}
    any_left = sql.SQL(statements("indexes.sql")["named"]).format(
        table=sql.Identifier(SCHEMA, table), made_at=sql.SQL(made_at)
    )
    deleted, until = 0, time.monotonic() + HELD_SECONDS
    while True:
        deleted += sum(iter(lambda: connection.execute(text, parameters).rowcount, 0))
        # a row that a worker is at is passed over, and there again when it does not take it
        if time.monotonic() > until or not connection.execute(any_left, parameters).rowcount:
            return deleted
        time.sleep(0.05)
