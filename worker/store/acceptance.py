"""Acceptance: what changes beside the revisions when documents are accepted."""

from collections.abc import Mapping, Sequence

from worker.store import refusals
from worker.store.connection import Connection
from worker.store.locking import LockedDocument
from worker.store.statements import statement


def note(
    connection: Connection,
    index_id: int,
    accepted: Sequence[tuple[str, int | None]],
    unchanged: Sequence[tuple[LockedDocument, int | None]],
    *,
    before: Mapping[str, int] | None = None,
) -> None:
    """Delete what refused earlier changes of accepted documents, and raise the versions of unchanged ones.

    `accepted`: ids and versions; `unchanged`: locked rows and versions; `before`: see `refusals.delete_rows`. Most
    indexes have nothing refused and no run of reindexing, so one look spares the statements.
    """
    row = connection.execute(statement("writing.sql", "concerns"), {"index_id": index_id}).fetchone()
    assert row is not None
    has_refusals, has_rejected_rows, is_reindexing = row
    _confirm(connection, [each for each in unchanged if is_reindexing or each[0].is_older_than(each[1])])
    if has_refusals:
        refusals.clear(connection, index_id, accepted)
    if has_rejected_rows:
        refusals.delete_rows(connection, index_id, accepted, before=before)


def _confirm(connection: Connection, unchanged: Sequence[tuple[LockedDocument, int | None]]) -> None:
    """Raise the versions of unchanged documents, and show a run of reindexing that they were sent after it began."""
    if not unchanged:
        return
    parameters = {
        "docs": [row.doc for row, _ in unchanged],
        "versions": [version for _, version in unchanged],
    }
    connection.execute(statement("writing.sql", "confirm"), parameters)
