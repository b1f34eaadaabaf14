"""The fence of a run of reindexing: it holds back rows that the run may have read before a change of their document.

A source says nothing about when it read a row: it may have all of them in hand since its first page. So what an
application has sent or deleted since the run began counts as newer than any row of the run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.documents import Document
from worker.errors import TemporaryError
from worker.store import builds
from worker.store.connection import Connection
from worker.store.filters import compile_filter
from worker.store.locking import LockedDocument
from worker.store.reindexing import ReindexRun
from worker.store.statements import statement, statements


class LeaseLost(TemporaryError):
    """Another run has taken over the index, and has closed this run in the history.

    Do: nothing. The task tries again by itself.
    """


@dataclass(frozen=True, kw_only=True)
class Fence:
    """What a run may not write, inside a transaction that holds the lock of the index."""

    run: ReindexRun
    deletions: Sequence[Mapping[str, Any]]  # by filter, since the run began: filter, version, tenant_field

    def hold_back(
        self, connection: Connection, rows: Sequence[tuple[LockedDocument, Document]]
    ) -> list[LockedDocument]:
        """The documents whose row of the source may be older than a change or a deletion.

        A document that the index does not know yet and that a deletion by filter takes becomes a tombstone.
        """
        changed = [row for row, _ in rows if row.has_changed_since(self.run.since)]
        own = self._own_revisions(connection, changed)
        held = {row.doc: row for row in changed if row.head_rev not in own}
        for entry in self.deletions:
            deleted = self._deleted(connection, entry, rows)
            unknown = [row.doc for row in deleted if row.head_rev is None and not row.deleted]
            connection.execute(
                statement("deletion.sql", "mark_deleted"), {"docs": unknown, "version": entry["version"]}
            )
            held |= {row.doc: row for row in deleted}
        return list(held.values())

    def _own_revisions(self, connection: Connection, rows: Sequence[LockedDocument]) -> set[int]:
        """Those newest revisions that this run has staged: its source may return a document twice."""
        if not rows:
            return set()
        parameters = {
            "task_id": self.run.task_id,
            "docs": [row.doc for row in rows],
            "revs": [row.head_rev for row in rows],
        }
        return {
            row[0] for row in connection.execute(statement("reindexing.sql", "own_revisions"), parameters)
        }

    def _deleted(
        self,
        connection: Connection,
        deletion: Mapping[str, Any],
        rows: Sequence[tuple[LockedDocument, Document]],
    ) -> list[LockedDocument]:
        """The documents that a deletion by filter takes, as the source has them."""
        condition, parameters = compile_filter(
            deletion["filter"], tenant_field=deletion.get("tenant_field"), sole_tenant=True
        )
        text = sql.SQL(statements("reindexing.sql")["matching_rows"]).format(filter=condition)
        values = {
            "docs": [row.doc for row, _ in rows],
            "versions": [document.version for _, document in rows],
            "metadata": [Jsonb(dict(document.metadata)) for _, document in rows],
            "version": deletion["version"],
        }
        matching = {row[0] for row in connection.execute(text, values | parameters)}
        return [row for row, _ in rows if row.doc in matching]


def hold(connection: Connection, run: ReindexRun) -> Fence:
    """Renew the lease of a run inside the transaction in which it writes. Raises LeaseLost: write nothing."""
    row = connection.execute(statement("reindexing.sql", "renew_lease"), run.lease).fetchone()
    if row is None:
        raise LeaseLost("another run of reindex has taken over the index of this run")
    return Fence(run=run, deletions=row[0])


def note_deletion(
    connection: Connection,
    index_id: int,
    filter: Mapping[str, Any],
    version: int | None,
    *,
    tenant_field: str | None,
) -> None:
    """Show a deletion by filter to the run that reads the source, before the documents are selected.

    The lock is exclusive: a staging of the run comes before and its documents are selected, or comes after and sees
    the deletion.
    """
    noted = {"filter": dict(filter), "version": version, "tenant_field": tenant_field}
    parameters = {"index_id": index_id, "deletion": Jsonb([noted])}
    with builds.locked(connection, index_id, exclusive=True):
        connection.execute(statement("reindexing.sql", "note_deletion"), parameters)
