"""Fill a build that is to replace the live one with documents, from their stored texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import class_row

from worker.documents import Chunk
from worker.store import builds, writing
from worker.store.connection import Connection, retry_on_deadlock, walking
from worker.store.locking import LockedServed, lock_served
from worker.store.rebuilds import Pair
from worker.store.statements import statement


@dataclass(frozen=True, kw_only=True)
class Unfilled:
    """A document that the new build lacks in the revision that it needs."""

    doc: int
    rev: int
    bytes: int  # of its text


@dataclass(frozen=True, kw_only=True)
class StoredText:
    """A stored revision."""

    doc: int
    rev: int
    id: str
    title: str
    metadata: Mapping[str, Any]
    text: str


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What a slice of filling wrote."""

    docs: Sequence[int] = ()  # publish them, as some are complete
    chunks: int = 0
    copied: int = 0  # vectors


def unfilled(connection: Connection, pair: Pair, *, after: int, limit: int) -> list[Unfilled]:
    """Documents after a key that the new build lacks, by doc, with the revision that it needs."""
    parameters = {"index_id": pair.new.index_id, "after": after, "limit": limit}
    with walking(connection):
        rows = connection.execute(pair.sql("unfilled"), parameters)
        return [Unfilled(doc=doc, rev=rev, bytes=size) for doc, rev, size in rows]


def texts(connection: Connection, revs: Sequence[int]) -> list[StoredText]:
    """The texts of revisions, by doc; those that were deleted meanwhile are left out."""
    with connection.cursor(row_factory=class_row(StoredText)) as cursor:
        return cursor.execute(statement("rebuilds.sql", "texts"), {"revs": list(revs)}).fetchall()


@retry_on_deadlock
def fill(
    connection: Connection, pair: Pair, wanted: Sequence[tuple[StoredText, Sequence[Chunk]]], *, priority: int
) -> Filled:
    """Let the new build want these revisions, in one transaction; skips documents that need another one by now.

    Contents that the live build has a vector of, under the same model, get a copy of it. The others are queued.
    """
    new = pair.new
    with builds.locked(connection, new.index_id, exclusive=False):
        if not any(each.build == new.build for each in builds.writable(connection, new.index_id)):
            return Filled()
        due = _still_due(connection, pair, [text for text, _ in wanted])
        staged = [(text.doc, text.rev, chunks) for text, chunks in wanted if text.doc in due]
        leftover = {"revs": [rev for _, rev, _ in staged]}  # of a revision that it had served before
        connection.execute(new.sql("writing.sql", "delete_chunks"), leftover)
        writing.want_chunks(connection, new, staged)
        copied = 0
        if pair.live.shares_vectors(new):
            hashes = {chunk.hash for _, _, chunks in staged for chunk in chunks}
            copying = builds.copy_statement(new, pair.live)
            copied = connection.execute(copying, {"hashes": sorted(hashes)}).rowcount
            count = {"build": new.build, "copied": copied}
            connection.execute(statement("rebuilds.sql", "count_copied"), count)
        docs = [doc for doc, _, _ in staged]
        writing.queue_contents(connection, new, docs, priority)
        return Filled(docs=docs, chunks=sum(len(chunks) for _, _, chunks in staged), copied=copied)


def _still_due(connection: Connection, pair: Pair, wanted: Sequence[StoredText]) -> set[int]:
    """The documents that still need the given revision, once their rows are locked."""
    docs, revs = [text.doc for text in wanted], [text.rev for text in wanted]
    heads: dict[int, int] = dict(
        connection.execute(statement("rebuilds.sql", "lock_documents"), {"docs": docs}).fetchall()
    )
    mine = {row.doc: row for row in lock_served(connection, pair.new, docs)}
    rows = connection.execute(pair.live.sql("rebuilds.sql", "served"), {"docs": docs})
    live = {row[0]: LockedServed(doc=row[0], live_rev=row[1], want_rev=row[2], state=row[3]) for row in rows}
    found = connection.execute(statement("rebuilds.sql", "stored_revisions"), {"revs": revs})
    stored = {row[0] for row in found}
    return {
        text.doc
        for text in wanted
        if text.doc in heads
        and text.rev in stored
        and needed(heads[text.doc], mine.get(text.doc), live.get(text.doc)) == text.rev
    }


def needed(head: int, new: LockedServed | None, live: LockedServed | None) -> int | None:
    """The revision that the new build has to fill of a document; `None`: it has what it needs, or waits for it.

    It is the newest one. Where that one failed in the live build, searches read an older revision, which comes first:
    the newest one may fail again.
    """
    has = (new.live_rev if new else None) or 0
    wants = (new.want_rev if new else None) or has
    if live is not None and live.state == "failed" and live.live_rev is not None and has < live.live_rev:
        is_tried = new is not None and new.want_rev == live.live_rev  # it is coming, or has failed
        is_coming = new is not None and new.state == "pending" and wants > live.live_rev
        return None if is_tried or is_coming else live.live_rev
    return head if wants < head else None
