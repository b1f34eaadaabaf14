"""The outbox: what applications enqueued in their own transactions, looked at, staged and emptied.

A row is deleted by the transaction that stages it, so it is staged once, whoever dies when. Two that have read the
same rows, or an older and a newer row of one document, are kept apart by locks that nobody waits for: whoever does
not get all rows that he has read of a document leaves it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any

from psycopg.rows import class_row, dict_row

from worker.store import builds, deletion
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.statements import statement
from worker.store.writing import Prepared, forget_rejected, write


@dataclass(frozen=True, kw_only=True)
class Change:
    """What the first rows of one document come to, where all of them have a version, or none has.

    The highest version, else the last: whatever the document is by then, the others change nothing. Of a row without
    a version and one with, both count, one after the other.
    """

    id: str
    seq: int  # of the row that counts
    seqs: Sequence[int]  # of these rows
    followed: bool  # other rows of the document come after these
    deleted: bool
    version: int | None
    size: int  # bytes of the text
    attempts: int  # stagings of the row that counts that are under way, or ended with their process
    tried_seconds: float | None  # since the last of them began; None: none is known


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the row that counts holds; none of a deletion."""

    text: str | None  # None: larger than was asked for
    title: str
    metadata: str  # JSON


def indexes_with_rows(connection: Connection, names: Sequence[str]) -> list[str]:
    """Those of the indexes for which something waits: what an idle process asks all the time."""
    return [
        row[0]
        for row in connection.execute(statement("outbox.sql", "indexes_with_rows"), {"names": list(names)})
    ]


def oldest(connection: Connection, index: str, *, limit: int) -> list[Change]:
    """What the oldest `limit` rows of an index come to, by document, without reading a text."""
    rows_of: dict[str, list[_Row]] = {}
    with connection.cursor(row_factory=class_row(_Row)) as cursor:
        for row in cursor.execute(statement("outbox.sql", "oldest"), {"index": index, "limit": limit}):
            rows_of.setdefault(row.id, []).append(row)
    return [_change(rows) for rows in rows_of.values()]


def contents(
    connection: Connection, index: str, changes: Sequence[Change], *, max_bytes: int
) -> dict[str, Content]:
    """By id; rows that somebody has taken meanwhile are missing."""
    ids = {change.seq: change.id for change in changes if not change.deleted}
    parameters = {"index": index, "seqs": list(ids), "max_bytes": max_bytes}
    rows = connection.execute(statement("outbox.sql", "read"), parameters)
    return {ids[seq]: Content(text=text, title=title, metadata=data) for seq, text, title, data in rows}


@retry_on_deadlock
def begin(connection: Connection, index: str, changes: Sequence[Change]) -> list[Change]:
    """Count an attempt at each text, as one that kills the process cannot be counted afterwards; what may be staged.

    A text that somebody else has begun since it was looked at is left out; deletions need no count.
    """
    texts = [change for change in changes if not change.deleted]
    seqs, attempts = [change.seq for change in texts], [change.attempts for change in texts]
    rows = connection.execute(
        statement("outbox.sql", "begin"), {"index": index, "seqs": seqs, "attempts": attempts}
    )
    begun = {row[0] for row in rows}
    return [change for change in changes if change.deleted or change.seq in begun]


@retry_on_deadlock
def survived(connection: Connection, index: str, changes: Sequence[Change]) -> None:
    """Take back the attempts that `begin` counted, of what still waits: the process lives."""
    seqs = [change.seq for change in changes if not change.deleted]
    connection.execute(statement("outbox.sql", "survived"), {"index": index, "seqs": seqs})


@retry_on_deadlock
def stage(
    connection: Connection,
    index: str,
    index_id: int,
    changes: Sequence[Change],
    prepared: Sequence[Prepared],
    expected: Sequence[builds.Build],
) -> list[int]:
    """Stage at most 100 documents and delete their rows, but for those that somebody else is at.

    Returns the keys of the documents; raises StalePreparation as `write` does, and then nothing was done.
    """
    with builds.locked(connection, index_id, exclusive=False):
        taken = {change.id: change.seq for change in _take(connection, index, changes)}
        items = [item for item in prepared if item.document.id in taken]
        written = write(connection, index_id, items, expected)
        forget_rejected(connection, index_id, written.accepted, before=taken)
        return written.docs


def delete(connection: Connection, index: str, index_id: int, changes: Sequence[Change]) -> None:
    """Delete documents and the rows that say so, but for those that somebody else is at; a transaction a version."""
    by_version = sorted(changes, key=_version_key)
    for _, same in groupby(by_version, key=_version_key):
        _delete(connection, index, index_id, list(same))


@retry_on_deadlock
def reject(connection: Connection, index: str, changes: Sequence[Change], errors: Mapping[str, str]) -> None:
    """Keep the row that counts of each document with the reason, by id, why it cannot be staged.

    The others wait on: one of them counts now, as if this one had been refused at the door.
    """
    with connection.transaction():
        rejected = {change.seq: change.id for change in _lock(connection, index, changes)}
        parameters = {
            "index": index,
            "seqs": list(rejected),
            "ids": list(rejected.values()),
            "errors": [errors[id] for id in rejected.values()],
        }
        for name in ("reject", "forget_stale", "forget_superseded"):
            connection.execute(statement("outbox.sql", name), parameters)


def retry(connection: Connection, index: str, ids: Sequence[str] | None) -> int:
    """Let what could not be staged be tried again: of these documents, or all; the number of rows."""
    parameters = {"index": index, "ids": None if ids is None else list(ids)}
    return connection.execute(statement("outbox.sql", "retry"), parameters).rowcount


def counts(connection: Connection, index: str) -> dict[str, Any]:
    """Rows that wait, for how many seconds the oldest has, and rows that cannot be staged."""
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(statement("outbox.sql", "counts"), {"index": index}).fetchone() or {}
    return {**found, "oldest_seconds": round(found["oldest_seconds"], 1)}


def rows_of_unknown_indexes(connection: Connection, known: Sequence[str]) -> dict[str, int]:
    """Rows of indexes that the settings do not have, by name: they wait until these have."""
    rows = connection.execute(statement("outbox.sql", "rows_of_unknown_indexes"), {"names": list(known)})
    return dict(rows.fetchall())


def rejections(connection: Connection, index: str, ids: Sequence[str]) -> dict[str, str]:
    """Why the newest change of a document could not be staged, of those of which that is so."""
    parameters = {"index": index, "ids": list(ids)}
    return dict(connection.execute(statement("outbox.sql", "rejections"), parameters).fetchall())


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row without what it holds."""

    seq: int
    id: str
    version: int | None
    deleted: bool
    size: int  # bytes of the text
    attempts: int
    tried_seconds: float | None


def _change(rows: Sequence[_Row]) -> Change:
    """Of the rows of one document, by seq."""
    unversioned = rows[0].version is None
    first = list(takewhile(lambda row: (row.version is None) == unversioned, rows))
    chosen = max(first, key=lambda row: (row.version or 0, row.seq))
    return Change(
        id=chosen.id,
        seq=chosen.seq,
        seqs=[row.seq for row in first],
        followed=len(first) < len(rows),
        deleted=chosen.deleted,
        version=chosen.version,
        size=chosen.size,
        attempts=chosen.attempts,
        tried_seconds=chosen.tried_seconds,
    )


def _version_key(change: Change) -> tuple[bool, int]:
    return change.version is not None, change.version or 0


@retry_on_deadlock
def _delete(connection: Connection, index: str, index_id: int, changes: Sequence[Change]) -> None:
    with builds.locked(connection, index_id, exclusive=True):
        taken = {change.id: change.seq for change in _take(connection, index, changes)}
        deletion.remove(connection, index_id, list(taken), changes[0].version, before=taken)


def _take(connection: Connection, index: str, changes: Sequence[Change]) -> list[Change]:
    """Delete all rows of the documents that nobody else is at; these.

    A row that is gone or locked: somebody stages an older state of the document. What is left comes after it.
    """
    free = _lock(connection, index, changes)
    seqs = [seq for change in free for seq in change.seqs]
    connection.execute(statement("outbox.sql", "delete"), {"index": index, "seqs": seqs})
    return free


def _lock(connection: Connection, index: str, changes: Sequence[Change]) -> list[Change]:
    parameters = {"index": index, "seqs": [seq for change in changes for seq in change.seqs]}
    locked = {row[0] for row in connection.execute(statement("outbox.sql", "lock"), parameters)}
    return [change for change in changes if locked.issuperset(change.seqs)]
