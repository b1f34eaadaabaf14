"""The outbox: read, stage and delete changes that applications enqueued in their own transactions.

The transaction that stages a row deletes it, so each row is staged once, whenever a worker dies. Locks that skip
instead of waiting separate two workers that have read the same rows, or an older and a newer row of one document: a
worker that cannot lock all rows that it has read of a document skips the document.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

from psycopg.rows import class_row, dict_row

from worker.results import OutboxCounts
from worker.store import builds, deletion
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.statements import statement
from worker.store.writing import Prepared, Written, write


@dataclass(frozen=True, kw_only=True)
class Change:
    """The change that the first rows of one document amount to: rows that all have a version, or all have none.

    The row with the highest version counts, else the last one. The others change nothing, whatever the document is by
    then. A row with a version and one without both count, one after the other.
    """

    id: str
    seq: int  # of the row that counts
    seqs: Sequence[int]  # of these rows
    followed: bool  # the document has further rows after these
    deleted: bool
    version: int | None
    size: int  # bytes of the text
    attempts: int  # attempts at the row that counts: in progress, or ended with their process
    tried_seconds: float | None  # since the last of them began; None: unknown


@dataclass(frozen=True, kw_only=True)
class Content:
    """The content of the row that counts; a deletion has none."""

    text: str | None  # None: larger than the limit
    title: str
    metadata: str  # JSON


def has_rows(connection: Connection) -> bool:
    """Whether a row waits, of any index. Cheap, as idle processes poll it."""
    row = connection.execute(statement("outbox.sql", "has_rows")).fetchone()
    return row is not None and row[0]


def indexes_with_rows(connection: Connection, names: Sequence[str]) -> list[str]:
    """Those of the indexes that have waiting rows."""
    return [
        row[0]
        for row in connection.execute(statement("outbox.sql", "indexes_with_rows"), {"names": list(names)})
    ]


def oldest_changes(connection: Connection, index: str, *, limit: int) -> list[Change]:
    """The changes that the oldest `limit` rows of an index amount to, one per document. Reads no texts."""
    rows_of: dict[str, list[_Row]] = {}
    with connection.cursor(row_factory=class_row(_Row)) as cursor:
        for row in cursor.execute(statement("outbox.sql", "oldest_rows"), {"index": index, "limit": limit}):
            rows_of.setdefault(row.id, []).append(row)
    return [_change(rows) for rows in rows_of.values()]


def contents(
    connection: Connection, index: str, changes: Sequence[Change], *, max_bytes: int
) -> dict[str, Content]:
    """The contents of changes by id; without rows that another worker has taken meanwhile."""
    ids = {change.seq: change.id for change in changes if not change.deleted}
    parameters = {"index": index, "seqs": list(ids), "max_bytes": max_bytes}
    rows = connection.execute(statement("outbox.sql", "row_contents"), parameters)
    return {ids[seq]: Content(text=text, title=title, metadata=data) for seq, text, title, data in rows}


@retry_on_deadlock
def begin_attempts(connection: Connection, index: str, changes: Sequence[Change]) -> list[Change]:
    """Count an attempt at each text before it is staged; the changes that may be staged.

    An attempt that kills the process could not be counted afterwards. The result lacks texts that another worker has
    begun meanwhile. Deletions are left uncounted.
    """
    texts = [change for change in changes if not change.deleted]
    seqs, attempts = [change.seq for change in texts], [change.attempts for change in texts]
    rows = connection.execute(
        statement("outbox.sql", "begin_attempts"), {"index": index, "seqs": seqs, "attempts": attempts}
    )
    begun = {row[0] for row in rows}
    return [change for change in changes if change.deleted or change.seq in begun]


@retry_on_deadlock
def cancel_attempts(connection: Connection, index: str, changes: Sequence[Change]) -> None:
    """Take back the attempts that `begin_attempts` counted, for rows that still wait: the process is alive."""
    seqs = [change.seq for change in changes if not change.deleted]
    connection.execute(statement("outbox.sql", "cancel_attempts"), {"index": index, "seqs": seqs})


@retry_on_deadlock
def stage(
    connection: Connection,
    index: str,
    index_id: int,
    changes: Sequence[Change],
    prepared: Sequence[Prepared],
    expected: Sequence[builds.Build],
) -> Written:
    """Stage at most 100 documents and delete their rows, except documents that another worker has locked.

    Raises StalePreparation as `write` does; then nothing has changed.
    """
    with builds.locked(connection, index_id, exclusive=False):
        taken = {change.id: change.seq for change in _take(connection, index, changes)}
        items = [item for item in prepared if item.document.id in taken]
        return write(connection, index_id, items, expected, before=taken)


def delete(connection: Connection, index: str, index_id: int, changes: Sequence[Change]) -> None:
    """Delete documents and their rows, except those that another worker has locked; one transaction per version."""
    by_version = sorted(changes, key=_version_key)
    for _, same in groupby(by_version, key=_version_key):
        _delete(connection, index, index_id, list(same))


@retry_on_deadlock
def reject(connection: Connection, index: str, changes: Sequence[Change], errors: Mapping[str, str]) -> None:
    """Mark the row that counts of each document as rejected, with its error by id.

    The other rows keep waiting, and one of them counts now.
    """
    with connection.transaction():
        rejected = {change.seq: change.id for change in _lock(connection, index, changes)}
        parameters = {
            "index": index,
            "seqs": list(rejected),
            "ids": list(rejected.values()),
            "errors": [errors[id] for id in rejected.values()],
        }
        for name in ("set_errors", "delete_stale_rejections", "delete_superseded_rejections"):
            connection.execute(statement("outbox.sql", name), parameters)


def retry(connection: Connection, index: str, ids: Sequence[str] | None) -> int:
    """Let rejected rows be staged again, of these documents or of all; the number of rows."""
    parameters = {"index": index, "ids": None if ids is None else list(ids)}
    return connection.execute(statement("outbox.sql", "clear_errors"), parameters).rowcount


def counts(connection: Connection, index: str) -> OutboxCounts:
    """The numbers of waiting and rejected rows, and the age of the oldest waiting one in seconds."""
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(statement("outbox.sql", "counts"), {"index": index}).fetchone() or {}
    return {
        "waiting": found["waiting"],
        "rejected": found["rejected"],
        "oldest_seconds": round(found["oldest_seconds"], 1),
    }


def rows_of_unknown_indexes(connection: Connection, known: Sequence[str]) -> dict[str, int]:
    """The number of waiting rows by name of indexes that the settings do not have. They wait until the settings do."""
    rows = connection.execute(statement("outbox.sql", "rows_of_unknown_indexes"), {"names": list(known)})
    return dict(rows.fetchall())


@dataclass(frozen=True, kw_only=True)
class _Row:
    """An outbox row without its content."""

    seq: int
    id: str
    version: int | None
    deleted: bool
    size: int  # bytes of the text
    attempts: int
    tried_seconds: float | None


def _change(rows: Sequence[_Row]) -> Change:
    """The change that the rows of one document amount to; rows by seq."""
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
    """Delete the rows of the changes whose rows are all free; these changes.

    If a row is gone or locked, another worker is staging an older row of the document. The rest comes after it.
    """
    free = _lock(connection, index, changes)
    seqs = [seq for change in free for seq in change.seqs]
    connection.execute(statement("outbox.sql", "delete_rows"), {"index": index, "seqs": seqs})
    return free


def _lock(connection: Connection, index: str, changes: Sequence[Change]) -> list[Change]:
    parameters = {"index": index, "seqs": [seq for change in changes for seq in change.seqs]}
    locked = {row[0] for row in connection.execute(statement("outbox.sql", "lock_rows"), parameters)}
    return [change for change in changes if locked.issuperset(change.seqs)]
