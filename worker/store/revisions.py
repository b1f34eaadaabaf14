"""Stage, publish and delete: the transactions that move documents.

Each follows the protocol in docs/protocol.md: the index's lock first, then rows in one order; completeness is
checked in the statement after the one that locked; nothing here talks to a provider.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from worker.documents import Chunk, Document
from worker.store import builds
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.statements import statement

DOCUMENTS_PER_TRANSACTION = 100
PUBLISH_SLICE = 200  # documents locked at once, when one content is shared by thousands


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A document with everything that is computed before the transaction."""

    document: Document
    content_hash: bytes  # 32 bytes
    chunks: Mapping[int, Sequence[Chunk]]  # by build; none when the head had this content already


@dataclass(frozen=True, kw_only=True)
class StageCounts:
    """What one slice came to; the rest of the result is known once its documents are searchable."""

    stale: int = 0
    deleted: int = 0
    chunks: int = 0  # of the documents that got a new revision, in the live build
    embedded: int = 0  # contents that were queued: new to the live build
    tokens: int = 0  # of those


@dataclass(frozen=True, kw_only=True)
class Job:
    """One slice of a message: redelivered, it is staged no second time."""

    task_id: str
    slice: int  # from 0
    slices: int  # of the whole message
    index_id: int
    rejected: Sequence[Mapping[str, str]] = ()  # id and error of documents that were never staged
    superseded: int = 0  # documents of the message that another one of the same id replaced: stale


@dataclass(frozen=True, kw_only=True)
class Retried:
    """What a retry came to."""

    docs: Sequence[int]  # had failed and are pending now
    chunks: int  # contents that were queued for them


class PreparedInVain(Exception):
    """Something moved while the documents were being chunked: prepare them again."""


@retry_on_deadlock
def stage(
    connection: Connection,
    job: Job,
    prepared: Sequence[Prepared],
    expected: Sequence[Build],
    *,
    priority: int = 0,
    heads: Mapping[str, int] | None = None,
) -> list[int]:
    """Write at most 100 documents, each of another id, in one transaction; nothing when the job did so before.

    With `heads`, the newest revisions that say the same: a new one takes the place of each that is still the newest.

    Returns the keys of the documents that the job waits for: some may be complete. Raises PreparedInVain when
    `expected`, the builds that the documents were chunked for, are no longer the writable ones, or when a
    document that was unchanged has changed.
    """
    with builds.locked(connection, job.index_id, exclusive=False):
        if not _enter(connection, job):
            return []
        by_id = {item.document.id: item for item in prepared}
        parameters: dict[str, Any] = {"index_id": job.index_id, "ids": list(by_id)}
        connection.execute(statement("revisions.sql", "insert_documents"), parameters)
        rows = _lock_documents(connection, parameters)
        writable = builds.writable(connection, job.index_id)
        if [build.build for build in writable] != [build.build for build in expected]:
            raise PreparedInVain

        if heads is not None:
            rows = [replace(row, content_hash=None) for row in rows if row.head_rev == heads[row.id]]
        stale, same, new = _sort(rows, by_id)
        if not all(item.chunks for _, item in new):
            raise PreparedInVain
        staged = _insert_revisions(connection, new)
        _raise_versions(connection, same)
        counts = StageCounts(stale=stale + job.superseded)
        unchanged = [row.doc for row, _ in same]
        retried: set[int] = set()
        for build in writable:
            again = _want(connection, build, staged, unchanged)
            queued = _queue(connection, build, [entry.doc for entry in staged] + again, priority)
            if build.state == "live":
                retried = set(again)
                chunks = sum(len(entry.item.chunks[build.build]) for entry in staged)
                counts = replace(counts, chunks=chunks, embedded=len(queued), tokens=sum(queued))

        waited: list[tuple[int, int | None, str]] = [(entry.doc, entry.rev, "indexed") for entry in staged]
        waited += [
            (row.doc, row.head_rev, "indexed" if row.doc in retried else "unchanged") for row, _ in same
        ]
        parameters = {
            "docs": [doc for doc, _, _ in waited],
            "revs": [rev for _, rev, _ in waited],
            "outcomes": [outcome for _, _, outcome in waited],
        }
        connection.execute(statement("revisions.sql", "insert_job_documents"), _key(job) | parameters)
        _count(connection, job, counts)
        return [doc for doc, _, _ in waited]


def unchanged(connection: Connection, index_id: int, hashes: Mapping[str, bytes]) -> set[str]:
    """Of ids with their content hashes, those whose head says the same: not worth chunking. A look, no lock."""
    parameters = {"index_id": index_id, "ids": list(hashes), "hashes": list(hashes.values())}
    return {row[0] for row in connection.execute(statement("revisions.sql", "unchanged"), parameters)}


@retry_on_deadlock
def publish(connection: Connection, build: Build, docs: Sequence[int]) -> int:
    """Make the wanted revisions live that have every vector; the number of them.

    Called after the commit that saved vectors, by staging for its own documents, and by the sweep.
    The locks wait: with SKIP LOCKED, two that complete a document together would both leave it.
    """
    published = 0
    for at in range(0, len(docs), PUBLISH_SLICE):
        parameters = {"docs": sorted(docs)[at : at + PUBLISH_SLICE]}
        with connection.transaction():
            connection.execute(build.sql("revisions.sql", "lock_wanted"), parameters)
            published += len(connection.execute(build.sql("revisions.sql", "publish"), parameters).fetchall())
    return published


def touched_by(connection: Connection, build: Build, hashes: Sequence[bytes]) -> list[int]:
    """The documents that want one of these contents, by doc."""
    rows = connection.execute(build.sql("revisions.sql", "touched_by"), {"hashes": list(hashes)})
    return [row[0] for row in rows]


@retry_on_deadlock
def delete(
    connection: Connection,
    job: Job,
    ids: Sequence[str],
    version: int | None,
    *,
    heads: Mapping[str, int] | None = None,
) -> Mapping[str, int]:
    """Delete at most 100 documents in one transaction; a second time it only reports what the first came to.

    With `heads`, the newest revisions for which they were chosen: one that has another by now stays.

    An id that is not known becomes a tombstone when there is a version, so that an older update that is still
    on its way finds the fence.
    """
    with builds.locked(connection, job.index_id, exclusive=False):
        if not _enter(connection, job):
            row = connection.execute(statement("revisions.sql", "slice_counts"), _key(job)).fetchone()
            return row[0] if row else {}
        parameters: dict[str, Any] = {"index_id": job.index_id, "ids": list(ids)}
        if version is not None:
            connection.execute(statement("revisions.sql", "insert_documents"), parameters)
        rows = _lock_documents(connection, parameters)
        if heads is not None:
            rows = [row for row in rows if row.head_rev == heads[row.id]]
        fenced = [row for row in rows if row.is_newer_than(version)]
        docs = [row.doc for row in rows if row not in fenced]
        connection.execute(statement("revisions.sql", "mark_deleted"), {"docs": docs, "version": version})
        for build in builds.every(connection, job.index_id):
            served = _lock_served(connection, build, docs)
            revs = [rev for row in served for rev in (row.live_rev, row.want_rev) if rev is not None]
            connection.execute(build.sql("revisions.sql", "delete_served"), {"docs": docs})
            connection.execute(build.sql("revisions.sql", "delete_chunks"), {"revs": revs})
        connection.execute(statement("revisions.sql", "delete_revisions"), {"docs": docs})
        there = sum(1 for row in rows if row not in fenced and row.head_rev is not None)
        counts = StageCounts(stale=len(fenced), deleted=there)
        _count(connection, job, counts, finished=True)
        return asdict(counts)


@retry_on_deadlock
def retry(connection: Connection, index_id: int, ids: Sequence[str]) -> Retried:
    """Let at most 100 documents that failed be tried again, in every build in which they did."""
    with builds.locked(connection, index_id, exclusive=False):
        docs = [row.doc for row in _lock_documents(connection, {"index_id": index_id, "ids": list(ids)})]
        tried: set[int] = set()
        chunks = 0
        for build in builds.writable(connection, index_id):
            again = _want(connection, build, [], docs)
            chunks += len(_queue(connection, build, again, priority=0))
            tried.update(again)
    return Retried(docs=sorted(tried), chunks=chunks)


@dataclass(frozen=True, kw_only=True)
class _Document:
    """A locked row of documents."""

    doc: int
    id: str
    head_rev: int | None
    version: int | None
    content_hash: bytes | None
    deleted: bool

    def is_newer_than(self, version: int | None) -> bool:
        return version is not None and self.version is not None and version < self.version


@dataclass(frozen=True, kw_only=True)
class _Served:
    """A locked row of served."""

    doc: int
    live_rev: int | None
    want_rev: int | None
    state: str


@dataclass(frozen=True, kw_only=True)
class _Staged:
    """A new revision of a document."""

    doc: int
    rev: int
    item: Prepared


def _enter(connection: Connection, job: Job) -> bool:
    """Write the ledger row; False when it stands already, after waiting for whoever is writing it."""
    parameters = asdict(job) | {"rejected": Jsonb(list(job.rejected))}
    return connection.execute(statement("revisions.sql", "insert_job"), parameters).rowcount == 1


def _count(connection: Connection, job: Job, counts: StageCounts, *, finished: bool = False) -> None:
    parameters = {"counts": Jsonb(asdict(counts)), "finished": finished}
    connection.execute(statement("revisions.sql", "set_job_counts"), _key(job) | parameters)


def _lock_documents(connection: Connection, parameters: Mapping[str, Any]) -> list[_Document]:
    with connection.cursor(row_factory=class_row(_Document)) as cursor:
        return cursor.execute(statement("revisions.sql", "lock_documents"), parameters).fetchall()


def _lock_served(connection: Connection, build: Build, docs: Sequence[int]) -> list[_Served]:
    with connection.cursor(row_factory=class_row(_Served)) as cursor:
        return cursor.execute(build.sql("revisions.sql", "lock_served"), {"docs": list(docs)}).fetchall()


def _key(job: Job) -> dict[str, Any]:
    return {"task_id": job.task_id, "slice": job.slice}


def _sort(
    rows: Sequence[_Document], by_id: Mapping[str, Prepared]
) -> tuple[int, list[tuple[_Document, Prepared]], list[tuple[_Document, Prepared]]]:
    """How many are older than what is known, which say the same again, and which are new."""
    stale, same, new = 0, [], []
    for row in rows:
        item = by_id[row.id]
        if row.is_newer_than(item.document.version):
            stale += 1
        elif row.content_hash == item.content_hash and not row.deleted:
            same.append((row, item))
        else:
            new.append((row, item))
    return stale, same, new


def _insert_revisions(connection: Connection, new: Sequence[tuple[_Document, Prepared]]) -> list[_Staged]:
    """The revisions of documents that changed, by doc; the heads move to them."""
    numbers = connection.execute(statement("revisions.sql", "next_revisions"), {"count": len(new)}).fetchall()
    staged = [
        _Staged(doc=row.doc, rev=number, item=item)
        for (row, item), (number,) in zip(new, numbers, strict=True)
    ]
    with connection.cursor() as cursor, cursor.copy(statement("revisions.sql", "copy_revisions")) as copy:
        copy.set_types(["int8", "int8", "text", "jsonb", "text"])
        for entry in staged:
            document = entry.item.document
            copy.write_row(
                (entry.rev, entry.doc, document.title, Jsonb(dict(document.metadata)), document.text)
            )
    connection.execute(
        statement("revisions.sql", "move_heads"),
        {
            "docs": [entry.doc for entry in staged],
            "revs": [entry.rev for entry in staged],
            "versions": [entry.item.document.version for entry in staged],
            "hashes": [entry.item.content_hash for entry in staged],
        },
    )
    return staged


def _raise_versions(connection: Connection, same: Sequence[tuple[_Document, Prepared]]) -> None:
    raised = [(row.doc, item.document.version) for row, item in same if item.document.version is not None]
    if raised:
        docs, versions = zip(*raised, strict=True)
        connection.execute(
            statement("revisions.sql", "raise_versions"), {"docs": list(docs), "versions": list(versions)}
        )


def _want(
    connection: Connection, build: Build, staged: Sequence[_Staged], unchanged: Sequence[int]
) -> list[int]:
    """Let the build want the new revisions; which unchanged documents had failed in it and are tried again."""
    docs = [entry.doc for entry in staged]
    rows = _lock_served(connection, build, [*docs, *unchanged])
    superseded = [row.want_rev for row in rows if row.want_rev is not None and row.doc in set(docs)]
    failed = [row.doc for row in rows if row.state == "failed" and row.want_rev is not None]
    again = [doc for doc in failed if doc in set(unchanged)]
    connection.execute(build.sql("revisions.sql", "delete_chunks"), {"revs": superseded})
    with connection.cursor() as copying, copying.copy(build.sql("revisions.sql", "copy_chunks")) as copy:
        copy.set_types(["int8", "int4", "bytea", "int4", "int4", "int4", "text", "text"])
        for entry in staged:
            for ordinal, chunk in enumerate(entry.item.chunks[build.build]):
                span = (chunk.start, chunk.end, chunk.tokens, chunk.heading, chunk.text)
                copy.write_row((entry.rev, ordinal, chunk.hash, *span))
    revs = [entry.rev for entry in staged]
    connection.execute(build.sql("revisions.sql", "want"), {"docs": docs, "revs": revs})
    connection.execute(build.sql("revisions.sql", "want_again"), {"docs": again})
    return again


def _queue(connection: Connection, build: Build, docs: Sequence[int], priority: int) -> list[int]:
    """Queue what these documents lack, all at once and by hash; the tokens of each content that is new."""
    parameters = {"docs": list(docs), "priority": priority}
    rows = connection.execute(build.sql("revisions.sql", "queue_chunks"), parameters).fetchall()
    connection.execute(build.sql("revisions.sql", "raise_priority"), parameters)
    return [row[0] for row in rows]
