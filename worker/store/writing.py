"""Stage documents: write new revisions with their chunks, and queue the contents that lack a vector.

`stage` is for messages and `write` for any transaction that holds the shared lock of the index and can run only once.
The lock of the index comes first, then rows in one order, as docs/internals/protocol.md says. The provider stays out of
it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from worker.documents import Chunk, Document
from worker.packing import batches
from worker.store import acceptance, builds, fencing, jobs, languages, lexemes, queue, refusals
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.fencing import Fence
from worker.store.jobs import JobSlice, StageCounts
from worker.store.languages import Language
from worker.store.locking import LockedDocument, find_unsettled, lock_documents, lock_served
from worker.store.reindexing import ReindexRun
from worker.store.statements import statement

DOCUMENTS_PER_TRANSACTION = 100
# of a statement that inserts chunks: their words take ten times the memory of their text
CHARACTERS_AT_ONCE = 1_000_000
CHUNKS_AT_ONCE = 5_000
MANY_CHUNKS = 1_000  # of a slice: a document of 20 MB has 10,000 and more, 100 documents of 4.5 kB have 300
BULK_PRIORITY = 1  # of the contents of a slice with more
FILLING_PRIORITY = 2  # of the contents of a build that is being filled


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A document with everything that was computed before the transaction."""

    document: Document
    content_hash: bytes  # 32 bytes
    chunks: Mapping[int, Sequence[Chunk]]  # by build; empty if the newest revision has this content
    # by build: vectors that came with the document, by hash
    vectors: Mapping[int, Mapping[bytes, NDArray[np.float32]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Written:
    """The result of `write`."""

    # document, revision, and its outcome once that revision is live: indexed or unchanged
    waited: Sequence[tuple[int, int | None, str]] = ()
    # id and version of documents that are not stale, in the order of `waited`
    accepted: Sequence[tuple[str, int | None]] = ()
    settled: Collection[int] = ()  # documents of `waited` that were searchable as they came
    final: StageCounts | None = None  # of a message of one slice whose result waits for no document
    overtaken: Sequence[tuple[int, str]] = ()  # stale documents of a run, which a fence held back: key and id
    to_publish: Sequence[int] = ()  # documents of which each vector may be there already
    stale: Sequence[str] = ()  # ids
    chunks: Mapping[str, Sequence[Chunk]] = field(
        default_factory=dict
    )  # of the live build, by id of a new revision
    queued: Mapping[bytes, int] = field(
        default_factory=dict
    )  # tokens of contents that are new to the live build

    @property
    def counts(self) -> StageCounts:
        """The counts of the transaction."""
        return StageCounts(
            stale=len(self.stale),
            chunks=sum(map(len, self.chunks.values())),
            embedded=len(self.queued),
            tokens=sum(self.queued.values()),
        )

    @property
    def docs(self) -> list[int]:
        """The written documents."""
        return [doc for doc, _, _ in self.waited]

    @property
    def has_changes(self) -> bool:
        """Whether a document has a new revision, or is pending again."""
        return any(outcome == "indexed" for _, _, outcome in self.waited)


@dataclass(frozen=True, kw_only=True)
class Retried:
    """The result of a retry."""

    docs: Sequence[int]  # documents that had failed and are pending now
    chunks: int  # contents that were queued for them
    rows: int = 0  # outbox rows that could not be staged and wait again


class StalePreparation(Exception):
    """The builds or a document changed while the documents were being chunked: prepare them again."""


@dataclass(frozen=True, kw_only=True)
class _Staged:
    """A new revision of a document."""

    doc: int
    rev: int
    item: Prepared


@retry_on_deadlock
def stage(
    connection: Connection,
    job: JobSlice,
    prepared: Sequence[Prepared],
    expected: Sequence[Build],
    *,
    priority: int = 0,
    heads: Mapping[str, int] | None = None,
    run: ReindexRun | None = None,
) -> Written | None:
    """Write at most 100 documents with distinct ids in one transaction; `None` when the slice was written before.

    `run`: the run of reindexing that read the documents. It must hold its lease, and replaces nothing that has changed
    since it began. See `write` for the other arguments and its errors. Raises LeaseLost.
    """
    with builds.locked(connection, job.index_id, exclusive=False):
        fence = None if run is None else fencing.hold(connection, run)
        if not jobs.begin_slice(connection, job):
            return None
        written = write(
            connection, job.index_id, prepared, expected, priority=priority, heads=heads, fence=fence
        )
        since = None if run is None else run.since
        refusals.record(connection, job.index_id, job.task_id, job.refusals, since=since)
        # a run of reindexing looks up which documents it has found unchanged
        settled = written.settled if run is None else ()
        waited = [each for each in written.waited if each[0] not in settled]
        jobs.add_documents(connection, job, waited)
        stale, unchanged = written.counts.stale + job.superseded, job.unchanged + len(settled)
        counts = replace(written.counts, stale=stale, unchanged=unchanged, left_out=job.left_out)
        is_final = run is None and job.slices == 1 and not waited
        jobs.set_counts(connection, job, counts, finished=is_final)
        return replace(written, final=counts) if is_final else written


def unchanged(connection: Connection, index_id: int, hashes: Mapping[str, bytes]) -> set[str]:
    """The ids whose newest revision has the given content hash: their chunks are there. Takes no lock."""
    parameters = {"index_id": index_id, "ids": list(hashes), "hashes": list(hashes.values())}
    return {row[0] for row in connection.execute(statement("writing.sql", "unchanged"), parameters)}


def known(connection: Connection, index_id: int, ids: Sequence[str]) -> set[str]:
    """Those ids of which the index has a document or a tombstone. Takes no lock."""
    rows = connection.execute(statement("writing.sql", "known"), {"index_id": index_id, "ids": list(ids)})
    return {row[0] for row in rows}


@retry_on_deadlock
def retry(connection: Connection, index_id: int, ids: Sequence[str]) -> Retried:
    """Make at most 100 failed documents pending again, in every build in which they failed."""
    with builds.locked(connection, index_id, exclusive=False):
        docs = [row.doc for row in lock_documents(connection, {"index_id": index_id, "ids": list(ids)})]
        tried: set[int] = set()
        chunks = 0
        for build in builds.writable(connection, index_id):
            _, again = want(connection, build, [], docs)
            chunks += len(queue_contents(connection, build, again, priority=0))
            tried.update(again)
    return Retried(docs=sorted(tried), chunks=chunks)


def write(
    connection: Connection,
    index_id: int,
    prepared: Sequence[Prepared],
    expected: Sequence[Build],
    *,
    priority: int = 0,
    heads: Mapping[str, int] | None = None,
    fence: Fence | None = None,
    before: Mapping[str, int] | None = None,
) -> Written:
    """Write documents inside a transaction that holds the shared lock and can run only once.

    `heads`, by id: the newest revisions with the same content; each is replaced if it is still the newest one.
    `fence`: documents that it holds back count as stale. `before`: see `refusals.delete_rows`.

    Raises StalePreparation when `expected`, the builds that the documents were chunked for, are no longer the writable
    ones, or when an unchanged document, which was not chunked, has changed.
    """
    by_id = {item.document.id: item for item in prepared}
    parameters: dict[str, Any] = {"index_id": index_id, "ids": list(by_id)}
    if chunked := [item.document.id for item in prepared if item.chunks]:
        connection.execute(statement("writing.sql", "insert_documents"), {**parameters, "ids": chunked})
    rows = lock_documents(connection, parameters)
    if len(rows) < len(by_id):  # an unchanged document was deleted, and its tombstone too
        raise StalePreparation
    writable = builds.writable(connection, index_id)
    if [build.build for build in writable] != [build.build for build in expected]:
        raise StalePreparation

    if heads is not None:
        rows = [replace(row, content_hash=None) for row in rows if row.head_rev == heads[row.id]]
    stale, same, new = _sort(rows, by_id)
    overtaken: Sequence[LockedDocument] = ()
    if fence is not None:
        overtaken = fence.hold_back(connection, [(row, item.document) for row, item in new])
        new = [(row, item) for row, item in new if row not in overtaken]
    if not all(item.chunks for _, item in new):
        raise StalePreparation
    staged = _insert_revisions(connection, new)
    stale += [row.id for row in overtaken]
    settled: set[int] = set()
    retried: set[int] = set()
    wanted: set[int] = set()
    chunks: dict[str, Sequence[Chunk]] = {}
    queued_live: Mapping[bytes, int] = {}
    may_be_complete = False
    for build in writable:
        unsettled = find_unsettled(connection, build, [row for row, _ in same])
        waiting, again = want(connection, build, staged, unsettled)
        wanted.update(waiting)
        queue.supply(connection, build, _vectors(prepared, build))
        docs = [entry.doc for entry in staged] + again
        queued = queue_contents(connection, build, docs, _priority(build, staged, priority))
        # contents of failed documents are queued too, so then the number says nothing
        may_be_complete |= bool(again) or not _all_queued(staged, build, len(queued))
        if build.state == "live":
            retried, queued_live = set(again), queued
            settled = {row.doc for row, _ in same}.difference(unsettled)
            chunks = {entry.item.document.id: entry.item.chunks[build.build] for entry in staged}
    waited: list[tuple[int, int | None, str]] = [(entry.doc, entry.rev, "indexed") for entry in staged]
    waited += [(row.doc, row.head_rev, "indexed" if row.doc in retried else "unchanged") for row, _ in same]
    accepted = [(row.id, item.document.version) for row, item in [*new, *same]]
    unchanged = [(row, item.document.version) for row, item in same]
    acceptance.note(connection, index_id, accepted, unchanged, before=before)
    return Written(
        waited=waited,
        accepted=accepted,
        settled=settled,
        overtaken=[(row.doc, row.id) for row in overtaken],
        to_publish=[*wanted, *(entry.doc for entry in staged if may_be_complete)],
        stale=stale,
        chunks=chunks,
        queued=queued_live,
    )


def _priority(build: Build, staged: Sequence[_Staged], priority: int) -> int:
    """The priority of the contents of these revisions in a build.

    The live build sends first: a build that is being filled copies vectors where it can. Many chunks let others pass.
    """
    if build.state == "filling":
        return max(priority, FILLING_PRIORITY)
    chunks = sum(len(entry.item.chunks[build.build]) for entry in staged)
    return max(priority, BULK_PRIORITY) if chunks > MANY_CHUNKS else priority


def _all_queued(staged: Sequence[_Staged], build: Build, queued: int) -> bool:
    """Whether every content of these revisions is new to a build, so that none of them is complete."""
    chunks = [entry.item.chunks[build.build] for entry in staged]
    return all(chunks) and queued == len({chunk.hash for each in chunks for chunk in each})


def _sort(
    rows: Sequence[LockedDocument], by_id: Mapping[str, Prepared]
) -> tuple[list[str], list[tuple[LockedDocument, Prepared]], list[tuple[LockedDocument, Prepared]]]:
    """The ids of stale documents, the unchanged ones, and the new ones."""
    stale, same, new = [], [], []
    for row in rows:
        item = by_id[row.id]
        if row.is_newer_than(item.document.version):
            stale.append(row.id)
        elif row.content_hash == item.content_hash and not row.deleted:
            same.append((row, item))
        else:
            new.append((row, item))
    return stale, same, new


def _vectors(prepared: Sequence[Prepared], build: Build) -> dict[bytes, NDArray[np.float32]]:
    """The vectors that came with documents for a build, by hash."""
    return {hash: vector for item in prepared for hash, vector in item.vectors.get(build.build, {}).items()}


def _insert_revisions(
    connection: Connection, new: Sequence[tuple[LockedDocument, Prepared]]
) -> list[_Staged]:
    """Insert the revisions of changed documents and make them the newest ones; by doc."""
    if not new:
        return []
    numbers = connection.execute(statement("writing.sql", "next_revisions"), {"count": len(new)}).fetchall()
    staged = [
        _Staged(doc=row.doc, rev=number, item=item)
        for (row, item), (number,) in zip(new, numbers, strict=True)
    ]
    with connection.cursor() as cursor, cursor.copy(statement("writing.sql", "copy_revisions")) as copy:
        copy.set_types(["int8", "int8", "text", "jsonb", "text"])
        for entry in staged:
            document = entry.item.document
            copy.write_row(
                (entry.rev, entry.doc, document.title, Jsonb(dict(document.metadata)), document.text)
            )
    connection.execute(
        statement("writing.sql", "move_heads"),
        {
            "docs": [entry.doc for entry in staged],
            "revs": [entry.rev for entry in staged],
            "versions": [entry.item.document.version for entry in staged],
            "hashes": [entry.item.content_hash for entry in staged],
        },
    )
    return staged


def want(
    connection: Connection, build: Build, staged: Sequence[_Staged], unchanged: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Let a build want the new revisions. Returns the unchanged documents that are not live in it.

    The second list has those among them that had failed, which are pending again.
    """
    chunks = [(entry.doc, entry.rev, entry.item.chunks[build.build]) for entry in staged]
    waiting, again = want_chunks(connection, build, chunks, unchanged)
    if again:
        connection.execute(build.sql("writing.sql", "want_again"), {"docs": again})
    return waiting, again


def want_chunks(
    connection: Connection,
    build: Build,
    staged: Sequence[tuple[int, int, Sequence[Chunk]]],
    unchanged: Sequence[int] = (),
) -> tuple[list[int], list[int]]:
    """Let a build want revisions, given as document, revision and chunks.

    Returns which of `unchanged` are not live in it, and which of these have failed.
    """
    docs, revs = [doc for doc, _, _ in staged], [rev for _, rev, _ in staged]
    rows = lock_served(connection, build, [*docs, *unchanged]) if docs or unchanged else []
    same = set(unchanged)
    superseded = [row.want_rev for row in rows if row.want_rev is not None and row.doc not in same]
    waiting = [row for row in rows if row.want_rev is not None and row.doc in same]
    if superseded:
        connection.execute(build.sql("writing.sql", "delete_chunks"), {"revs": superseded})
    if staged:
        _insert_chunks(connection, build, [(rev, chunks) for _, rev, chunks in staged])
        connection.execute(build.sql("writing.sql", "want"), {"docs": docs, "revs": revs})
    return [row.doc for row in waiting], [row.doc for row in waiting if row.state == "failed"]


def _insert_chunks(
    connection: Connection, build: Build, revisions: Sequence[tuple[int, Sequence[Chunk]]]
) -> None:
    each = ((rev, at, chunk) for rev, chunks in revisions for at, chunk in enumerate(chunks))
    named = languages.of_revisions(connection, build, [rev for rev, _ in revisions])
    for some in batches(
        each, lambda row: len(row[2].text), weight_limit=CHARACTERS_AT_ONCE, size_limit=CHUNKS_AT_ONCE
    ):
        _insert_some(connection, build, some, named)


def _insert_some(
    connection: Connection,
    build: Build,
    each: Sequence[tuple[int, int, Chunk]],
    named: Mapping[int, Language],
) -> None:
    own = languages.own(build)
    spoken = [(chunk.heading, chunk.text, named.get(rev, own)) for rev, _, chunk in each]
    found = lexemes.of_chunks(connection, spoken)
    with connection.cursor() as cursor, cursor.copy(build.sql("writing.sql", "copy_chunks")) as copy:
        copy.set_types(["int8", "int4", "bytea", "int4", "int4", "int4", "text", "text", "tsvector"])
        for (rev, at, chunk), words in zip(each, found, strict=True):
            copy.write_row(
                (rev, at, chunk.hash, chunk.start, chunk.end, chunk.tokens, chunk.heading, chunk.text, words)
            )


def queue_contents(
    connection: Connection, build: Build, docs: Sequence[int], priority: int
) -> dict[bytes, int]:
    """Queue the contents without a vector of these documents, by hash; the tokens of each newly queued content."""
    if not docs:
        return {}
    parameters = {"docs": list(docs), "priority": priority}
    queued: dict[bytes, int] = dict(
        connection.execute(build.sql("writing.sql", "queue_chunks"), parameters).fetchall()
    )
    connection.execute(build.sql("writing.sql", "raise_priority"), parameters)
    return queued
