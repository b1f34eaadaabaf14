"""Refusals: documents that were sent and could not be taken, with the reason and without their text.

The result of a task names them too, but few applications read results. A refusal lasts until its document is accepted
or deleted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from worker.store.connection import Connection
from worker.store.statements import statement

KEPT_DAYS = 30  # of a refusal whose document is never sent again


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A document that could not be taken."""

    id: str  # of the document, or its place in the message
    error: str
    version: int | None = None  # None: it has none, or not a usable one


def record(
    connection: Connection,
    index_id: int,
    task_id: str,
    refused: Sequence[Refusal],
    *,
    since: datetime | None = None,
) -> None:
    """Keep refusals, in the transaction of their slice; each replaces an earlier one of its document.

    `since`: when the run of reindexing began that read them; a document that changed later is newer.
    """
    last = {refusal.id: refusal for refusal in refused}.values()
    parameters = {
        "index_id": index_id,
        "task_id": task_id,
        "ids": [refusal.id for refusal in last],
        "versions": [refusal.version for refusal in last],
        "errors": [refusal.error for refusal in last],
        "since": since,
    }
    if refused:
        connection.execute(statement("refusals.sql", "record"), parameters)


def delete_rows(
    connection: Connection,
    index_id: int,
    accepted: Sequence[tuple[str, int | None]],
    *,
    before: Mapping[str, int] | None = None,
) -> None:
    """Delete rejected outbox rows that are older than accepted documents, given as id and version.

    The versions of the rows count from then on, as if the rows had been staged before. `before`: the number of the
    accepted row by id; `None`: the document was sent, so it comes after all rows.
    """
    ids = [id for id, _ in accepted]
    parameters = {
        "index_id": index_id,
        "ids": ids,
        "versions": [version for _, version in accepted],
        "before": [before and before[id] for id in ids],
    }
    connection.execute(statement("outbox.sql", "delete_rejections"), parameters)


def clear(connection: Connection, index_id: int, taken: Sequence[tuple[str, int | None]]) -> None:
    """Delete the refusals of documents that were accepted or deleted, given as id and version."""
    parameters = {
        "index_id": index_id,
        "ids": [id for id, _ in taken],
        "versions": [version for _, version in taken],
    }
    connection.execute(statement("refusals.sql", "clear"), parameters)


def clear_before(connection: Connection, index_id: int, before: datetime) -> None:
    """Delete the refusals before a run that has read the whole source: it has refused again what is still refused."""
    connection.execute(statement("refusals.sql", "clear_before"), {"index_id": index_id, "before": before})


def delete_expired(connection: Connection, index_id: int) -> None:
    """Delete the refusals of an index after KEPT_DAYS."""
    parameters = {"index_id": index_id, "days": KEPT_DAYS}
    connection.execute(statement("refusals.sql", "delete_expired"), parameters)


def count(connection: Connection, index_id: int) -> int:
    """The number of refused documents of an index."""
    row = connection.execute(statement("refusals.sql", "count"), {"index_id": index_id}).fetchone()
    return 0 if row is None else int(row[0])
