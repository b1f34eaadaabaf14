"""Locked rows of documents: every transaction that changes documents locks them first, in the order of their keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.statements import statement


@dataclass(frozen=True, kw_only=True)
class LockedDocument:
    """A locked row of `documents`."""

    doc: int
    id: str
    head_rev: int | None
    version: int | None
    content_hash: bytes | None
    deleted: bool
    changed_at: datetime  # by the clock of the database

    def is_newer_than(self, version: int | None) -> bool:
        """Whether an update or deletion with this version is stale."""
        return version is not None and self.version is not None and version < self.version

    def is_older_than(self, version: int | None) -> bool:
        """Whether an update with this version raises that of the document."""
        return version is not None and (self.version is None or version > self.version)

    def has_changed_since(self, moment: datetime) -> bool:
        """Whether it was sent, changed or deleted at this moment or later. A new row has not been sent yet."""
        return self.changed_at >= moment and (self.deleted or self.head_rev is not None)


@dataclass(frozen=True, kw_only=True)
class LockedServed:
    """A locked row of `served`."""

    doc: int
    live_rev: int | None
    want_rev: int | None
    state: str


def lock_documents(connection: Connection, parameters: Mapping[str, Any]) -> list[LockedDocument]:
    """Lock the rows of documents by doc."""
    with connection.cursor(row_factory=class_row(LockedDocument)) as cursor:
        return cursor.execute(statement("writing.sql", "lock_documents"), parameters).fetchall()


def lock_served(connection: Connection, build: Build, docs: Sequence[int]) -> list[LockedServed]:
    """Lock the served rows of documents by doc."""
    with connection.cursor(row_factory=class_row(LockedServed)) as cursor:
        return cursor.execute(build.sql("writing.sql", "lock_served"), {"docs": list(docs)}).fetchall()


def find_unsettled(connection: Connection, build: Build, documents: Sequence[LockedDocument]) -> list[int]:
    """The documents that do not serve their newest revision in a build, or wait for one.

    The others need no lock of their rows in `served`: whoever changes what these want locks the documents first.
    """
    if not documents:
        return []
    parameters = {"docs": [row.doc for row in documents], "revs": [row.head_rev for row in documents]}
    return [row[0] for row in connection.execute(build.sql("writing.sql", "unsettled"), parameters)]
