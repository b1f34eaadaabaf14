"""Check that the tables of a build are consistent, and repair them as far as the store alone can.

A check walks a table in slices. Each slice is one statement, so one snapshot: it sees what commits together, together.
A repair checks again, in the statement that changes rows and under the locks of the protocol. It skips rows that were
repaired meanwhile.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from worker.documents import digest, embedding_text
from worker.store import builds, garbage, publishing
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock, walking
from worker.store.garbage import Key
from worker.store.statements import BUILD_TABLES, SCHEMA, statement, statements

TEXT_IS_MISSING = "the stored text is missing: send the document again"
REPAIRED_AT_ONCE = 500  # keys of one transaction

Find = Callable[[Connection, Build], Iterator[dict[Key, str]]]
Repair = Callable[[Connection, Build, Sequence[Any]], object]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A rule for the rows of a build, with what to do about rows that break it."""

    name: str  # also of its statement in verify.sql, unless it has `find`
    problem: str  # what it finds, in the plural
    remedy: str  # what a repair does about it
    over: tuple[str, str] | None = None  # the table to walk in slices, and the key that orders it
    find: Find | None = None
    repair: Repair | None = None  # None: the repair is in worker/indexing/verification.py
    # of garbage only: delete all of it; the number of rows
    collect: Callable[[Connection, Build], int] | None = None
    live_only: bool = False  # skips builds that are still being filled

    @property
    def fault(self) -> bool:
        """Whether a finding is an error. If not, it is garbage, which every index has."""
        return self.collect is None


@dataclass(frozen=True, kw_only=True)
class StoredRevision:
    """The newest revision of a document, as far as it is stored."""

    doc: int
    id: str
    head_rev: int | None
    title: str
    metadata: dict[str, Any]
    text: str | None  # None: not stored


def find(
    connection: Connection, build: Build, check: Check, *, max_attempts: int
) -> Iterator[dict[Key, str]]:
    """Run a check: the name to show by key, slice by slice. `max_attempts` is the limit of attempts at a content."""
    values = {
        "max_attempts": max_attempts,
        "dimensions": build.dimensions,
        "index_id": build.index_id,
        "tables": [f"{SCHEMA}.{table}_{build.build}" for table in BUILD_TABLES],
    }
    if check.find is not None:
        yield from check.find(connection, build)
    elif check.over is None:
        yield dict(connection.execute(build.sql("verify.sql", check.name), values).fetchall())
    else:
        yield from garbage.find_in_slices(
            connection, build, build.sql("verify.sql", check.name), *check.over, values
        )


def stored_revision(connection: Connection, doc: int) -> StoredRevision | None:
    """The newest revision of a document; `None` if the document is deleted."""
    row = connection.execute(statement("verify.sql", "stored_revision"), {"doc": doc}).fetchone()
    if row is None:
        return None
    doc, id, head_rev, title, metadata, text = row
    return StoredRevision(
        doc=doc, id=id, head_rev=head_rev, title=title or "", metadata=metadata or {}, text=text
    )


@retry_on_deadlock
def fail_without_text(connection: Connection, index_id: int, docs: Sequence[int]) -> None:
    """Fail the documents whose newest text is not stored, in every build. Sending them again repairs them."""
    with builds.locked(connection, index_id, exclusive=False):
        connection.execute(statement("verify.sql", "lock_documents"), {"keys": list(docs)})
        rows = connection.execute(
            statement("verify.sql", "clear_content_hash"), {"keys": list(docs)}
        ).fetchall()
        lost = {"keys": [row[0] for row in rows], "docs": [row[0] for row in rows], "error": TEXT_IS_MISSING}
        for build in builds.writable(connection, index_id):
            served = connection.execute(build.sql("writing.sql", "lock_served"), lost).fetchall()
            connection.execute(build.sql("verify.sql", "fail_documents"), lost)
            former = [rev for _, live, want, _ in served for rev in (live, want) if rev is not None]
            connection.execute(build.sql("verify.sql", "delete_orphan_chunks"), {"keys": former})


def _find_wrong_chunks(connection: Connection, build: Build) -> Iterator[dict[Key, str]]:
    """Find documents with a revision whose chunks differ from its text. Holds one text in memory at a time."""
    prefix = build.recipe["document_prefix"]
    text = build.sql("verify.sql", "wrong_chunks")
    for after, until in garbage.slices(connection, build, "served", "doc"):
        with walking(connection), connection.cursor() as cursor:
            rows = cursor.stream(text, {"after": after, "until": until})
            wrong = {doc: id for doc, id, whole, *columns in rows if not _fits(whole, columns, prefix)}
        if wrong:
            yield wrong


def _fits(text: str, columns: Sequence[Sequence[Any] | None], prefix: str) -> bool:
    """Whether chunks, given as columns, are numbered from 0, match the text and cover all of it but white space."""
    chunks = zip(*columns, strict=True) if all(columns) else ()
    covered = 0
    for at, (ordinal, start, end, hash, heading, body) in enumerate(chunks):
        fits = ordinal == at and text[start:end] == body and not text[covered:start].strip()
        if not fits or hash != digest(embedding_text(prefix, heading, body)):
            return False
        covered = max(covered, end)
    return not text[covered:].strip()


@retry_on_deadlock
def _delete_served(connection: Connection, build: Build, docs: Sequence[int]) -> None:
    """Stop serving documents that are deleted or do not exist."""
    with builds.locked(connection, build.index_id, exclusive=False):
        keys = {"keys": list(docs), "docs": list(docs)}
        connection.execute(statement("verify.sql", "lock_documents"), keys)
        connection.execute(build.sql("writing.sql", "lock_served"), keys)
        rows = connection.execute(build.sql("verify.sql", "delete_served"), keys).fetchall()
        revs = [rev for row in rows for rev in row if rev is not None]
        connection.execute(build.sql("writing.sql", "delete_chunks"), {"revs": revs})


@retry_on_deadlock
def _delete_orphan_chunks(connection: Connection, build: Build, revs: Sequence[int]) -> None:
    """Delete chunks without a lock, as a revision that is not wanted any more is never wanted again."""
    connection.execute(build.sql("verify.sql", "delete_orphan_chunks"), {"keys": list(revs)})


@retry_on_deadlock
def _queue_documents(connection: Connection, build: Build, docs: Sequence[int]) -> None:
    """Queue the contents without a vector of documents."""
    with builds.locked(connection, build.index_id, exclusive=False):
        connection.execute(build.sql("verify.sql", "queue_documents"), {"keys": list(docs)})


@retry_on_deadlock
def _reset_attempts(connection: Connection, build: Build, hashes: Sequence[bytes]) -> None:
    """Set the attempts of queued contents to 0."""
    connection.execute(build.sql("verify.sql", "reset_attempts"), {"keys": list(hashes)})


@retry_on_deadlock
def _embed_again(connection: Connection, build: Build, hashes: Sequence[bytes]) -> None:
    """Delete bad vectors and queue their contents."""
    keys = {"keys": list(hashes), "dimensions": build.dimensions}
    with builds.locked(connection, build.index_id, exclusive=True):
        connection.execute(build.sql("verify.sql", "delete_bad_vectors"), keys)
        connection.execute(build.sql("verify.sql", "queue_contents"), keys)


def _rebuild_indexes(connection: Connection, build: Build, names: Sequence[str]) -> None:
    """Rebuild invalid indexes, or drop what an interrupted REINDEX left."""
    for name in names:
        leftover = re.search(r"_cc(new|old)\d*$", name)  # the name of what an interrupted REINDEX leaves
        text = statements("verify.sql")["drop_index" if leftover else "rebuild_index"]
        connection.execute(sql.SQL(text).format(index=sql.Identifier(SCHEMA, name)))


def repair(connection: Connection, build: Build, check: Check, keys: Sequence[Key]) -> None:
    """Repair the findings of a check that are still true."""
    assert check.repair is not None, check.name
    for at in range(0, len(keys), REPAIRED_AT_ONCE):
        check.repair(connection, build, keys[at : at + REPAIRED_AT_ONCE])


# In the order of their repairs: a later repair may build on an earlier one.
CHECKS = (
    Check(
        name="missing_documents",
        problem="documents that are neither live, nor pending, nor failed",
        remedy="stage the stored text again",
        over=("documents", "doc"),
        live_only=True,
    ),
    Check(
        name="deleted_but_served",
        problem="deleted documents that are still served",
        remedy="stop serving them",
        over=("served", "doc"),
        repair=_delete_served,
    ),
    Check(
        name="missing_text",
        problem="documents without a stored text",
        remedy="stage the newest text, or fail them",
        over=("served", "doc"),
    ),
    Check(
        name="wrong_chunks",
        problem="documents whose chunks do not match their text",
        remedy="stage the stored text again",
        find=_find_wrong_chunks,
    ),
    Check(
        name="orphan_chunks",
        problem="revisions with chunks that are not served",
        remedy="delete the chunks",
        over=("chunks", "rev"),
        repair=_delete_orphan_chunks,
    ),
    Check(
        name="bad_vectors",
        problem="vectors of the wrong length, of zeros or NaN",
        remedy="delete them and queue their contents",
        over=("embeddings", garbage.PLACE),
        repair=_embed_again,
    ),
    Check(
        name="missing_vectors",
        problem="searchable documents with a missing vector",
        remedy="queue the missing contents",
        over=("chunks", "hash"),
        repair=_queue_documents,
    ),
    Check(
        name="missing_queue_entries",
        problem="pending documents with contents that are not queued",
        remedy="queue the missing contents",
        over=("served", "doc"),
        repair=_queue_documents,
    ),
    Check(
        name="exhausted_attempts",
        problem="queued contents without attempts left",
        remedy="reset their attempts",
        over=("pending", "hash"),
        repair=_reset_attempts,
    ),
    Check(
        name="unpublished_documents",
        problem="complete documents that are not searchable",
        remedy="publish them",
        over=("served", "doc"),
        repair=publishing.publish,
    ),
    Check(
        name="invalid_indexes",
        problem="invalid Postgres indexes",
        remedy="rebuild them",
        repair=_rebuild_indexes,
    ),
    Check(
        name="unreported_jobs",
        problem="finished jobs whose result was not reported",
        remedy="send their waiting task again",
        live_only=True,
    ),
    Check(
        name="unreferenced_vectors",
        problem="vectors without a chunk",
        remedy="delete them",
        find=garbage.unreferenced_embeddings,
        collect=garbage.delete_embeddings,
    ),
    Check(
        name="unreferenced_queue_entries",
        problem="queued contents without a chunk",
        remedy="delete them",
        find=garbage.unreferenced_pending,
        collect=garbage.delete_pending,
    ),
    Check(
        name="unreferenced_revisions",
        problem="old revisions that nothing refers to",
        remedy="delete them",
        find=garbage.unreferenced_revisions,
        collect=garbage.delete_revisions,
        live_only=True,
    ),
)
