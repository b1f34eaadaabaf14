"""Indexes as a whole: paused, resumed, dropped.

A drop is one short transaction, whatever the index holds: its builds' tables go, and its row takes another name. From
then on nobody sees it, and the name is free. What is left of its rows is deleted behind that, in slices; whoever dies
over it is followed by the next drop or collection.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.store import builds
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.statements import SCHEMA, statement, statements
from worker.store.upkeep import REDELIVERY_DAYS

SLICE = 1_000  # rows that one statement deletes
# tables that know an index by its name, and what dates their rows
NAMED: Mapping[str, LiteralString] = {"outbox": "enqueued_at", "runs": "started_at"}


def paused_at(connection: Connection, name: str) -> datetime | None:
    """Since when the index is paused; None when it is not, or not there yet."""
    row = connection.execute(statement("indexes.sql", "paused_at"), {"name": name}).fetchone()
    return None if row is None else row[0]


def pause(connection: Connection, name: str, task_id: str) -> bool:
    """Send nothing of the index to its provider from now on; False when there is no such index.

    A second time with the same `task_id` it changes nothing: a late message does not undo a later one.
    """
    return _change(connection, "pause", name, task_id)


def resume(connection: Connection, name: str, task_id: str) -> bool:
    """Let a paused index go on; otherwise as `pause`."""
    return _change(connection, "resume", name, task_id)


@retry_on_deadlock
def _change(connection: Connection, change: str, name: str, task_id: str) -> bool:
    parameters = {"name": name, "task_id": task_id}
    with connection.transaction():
        if connection.execute(statement("indexes.sql", "note_task"), parameters).rowcount:
            connection.execute(statement("indexes.sql", change), parameters)
        return connection.execute(statement("indexes.sql", "paused_at"), parameters).fetchone() is not None


def drop(connection: Connection, name: str, task_id: str) -> Mapping[str, Any]:
    """Drop an index with everything of it: how many documents and builds there were; of none, when it is not there.

    A second time with the same `task_id` it only completes the first, and reports the same. Raises LockNotAvailable
    when readers or writers hold it for longer than two seconds: nothing was dropped, try again.
    """
    row = connection.execute(statement("indexes.sql", "drop_report"), {"task_id": task_id}).fetchone()
    report: dict[str, Any] = row[0] if row else _drop(connection, name, task_id)
    purge(connection)
    return {key: report[key] for key in ("documents", "builds")}


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


def _drop(connection: Connection, name: str, task_id: str) -> dict[str, Any]:
    row = connection.execute(statement("builds.sql", "find_index"), {"name": name}).fetchone()
    if row is None:
        _delete_named(connection, name)
        return {"documents": 0, "builds": 0}
    parameters = {"index_id": row[0]}
    count = connection.execute(statement("indexes.sql", "count_documents"), parameters).fetchone()
    _delete_named(connection, name)
    return _drop_tables(connection, row[0], {"task_id": task_id, "documents": count[0] if count else 0})


@retry_on_deadlock
def _drop_tables(connection: Connection, index_id: int, report: Mapping[str, Any]) -> dict[str, Any]:
    """The transaction that makes an index vanish; of two at once, the second finds no builds."""
    with connection.transaction():
        connection.execute(statement("indexes.sql", "lock_timeout"))
        with builds.locked(connection, index_id, exclusive=True):
            every = builds.every(connection, index_id)
            if not every:
                return {**report, "documents": 0, "builds": 0}
            for build in every:
                connection.execute(build.sql("indexes.sql", "drop_tables"))
            dropped = {**report, "builds": len(every)}
            parameters = {"index_id": index_id, "report": Jsonb(dropped)}
            for name in ("delete_builds", "end_reindexing", "drop_index"):
                connection.execute(statement("indexes.sql", name), parameters)
            return dropped


def _delete_named(connection: Connection, name: str) -> None:
    """What is not yet, or no longer, in the index: enqueued documents, the history of its runs, its schedule.

    What is enqueued from now on makes the index anew.
    """
    before = connection.execute(statement("indexes.sql", "now")).fetchone()
    for table, made_at in NAMED.items():
        text = sql.SQL(statements("indexes.sql")["delete_named"]).format(
            table=sql.Identifier(SCHEMA, table), made_at=sql.SQL(made_at)
        )
        parameters = {"name": name, "before": before[0] if before else None, "limit": SLICE}
        while connection.execute(text, parameters).rowcount:
            pass
