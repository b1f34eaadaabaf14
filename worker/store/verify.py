"""What must be, compared with what is; and the repairs that need neither a text split nor a task sent.

A check walks a table in slices; each is one statement, so one snapshot, in which what commits together is seen
together. A repair asks again, in the statement that mends and under the locks of the protocol: what was mended
meanwhile is left alone.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from worker.documents import digest, embedding_text
from worker.store import builds, garbage, publishing
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.garbage import Key
from worker.store.statements import BUILD_TABLES, SCHEMA, statement, statements

LOST = "the stored text is gone: send the document again"
REPAIRED_AT_ONCE = 500  # keys of one transaction

Find = Callable[[Connection, Build], Iterator[dict[Key, str]]]
Repair = Callable[[Connection, Build, Sequence[Any]], object]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must be so in a build."""

    name: str  # of its statement in verify.sql, unless `find` is given
    problem: str  # what is wrong with what it finds
    remedy: str  # what a repair does
    over: tuple[str, str] | None = None  # the table that is walked, and by which key
    find: Find | None = None
    repair: Repair | None = None  # None: it takes more than the store
    collect: Callable[[Connection, Build], int] | None = (
        None  # of garbage: delete all of it, and say how much
    )
    live_only: bool = False  # not of a build that is still being filled

    @property
    def fault(self) -> bool:
        """Whether it must not be; else it is garbage, as any run leaves some."""
        return self.collect is None


@dataclass(frozen=True, kw_only=True)
class StoredRevision:
    """The newest revision of a document."""

    doc: int
    id: str
    head_rev: int | None
    title: str
    metadata: dict[str, Any]
    text: str | None  # None: it is not stored


def find(
    connection: Connection, build: Build, check: Check, *, max_attempts: int
) -> Iterator[dict[Key, str]]:
    """What a check finds, some at a time: key, and what to call it. `max_attempts` of one content."""
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
        yield from garbage.found(connection, build, build.sql("verify.sql", check.name), *check.over, values)


def stored_revision(connection: Connection, doc: int) -> StoredRevision | None:
    """The newest revision of a document, as far as it is there; None once it is deleted."""
    row = connection.execute(statement("verify.sql", "stored_revision"), {"doc": doc}).fetchone()
    if row is None:
        return None
    doc, id, head_rev, title, metadata, text = row
    return StoredRevision(
        doc=doc, id=id, head_rev=head_rev, title=title or "", metadata=metadata or {}, text=text
    )


@retry_on_deadlock
def fail_without_text(connection: Connection, index_id: int, docs: Sequence[int]) -> None:
    """Fail the documents whose newest text is not stored, in every build; whoever sends them again mends them."""
    with builds.locked(connection, index_id, exclusive=False):
        connection.execute(statement("verify.sql", "lock_documents"), {"keys": list(docs)})
        rows = connection.execute(
            statement("verify.sql", "clear_content_hash"), {"keys": list(docs)}
        ).fetchall()
        lost = {"keys": [row[0] for row in rows], "docs": [row[0] for row in rows], "error": LOST}
        for build in builds.writable(connection, index_id):
            served = connection.execute(build.sql("writing.sql", "lock_served"), lost).fetchall()
            connection.execute(build.sql("verify.sql", "fail_documents"), lost)
            former = [rev for _, live, want, _ in served for rev in (live, want) if rev is not None]
            connection.execute(build.sql("verify.sql", "delete_orphan_chunks"), {"keys": former})


def _find_wrong_chunks(connection: Connection, build: Build) -> Iterator[dict[Key, str]]:
    """Documents with a revision whose chunks are not those of its text; a text is in memory one at a time."""
    prefix = build.recipe["document_prefix"]
    text = build.sql("verify.sql", "wrong_chunks")
    for after, until in garbage.slices(connection, build, "served", "doc"):
        with connection.cursor() as cursor:
            rows = cursor.stream(text, {"after": after, "until": until})
            wrong = {doc: id for doc, id, whole, *columns in rows if not _fits(whole, columns, prefix)}
        if wrong:
            yield wrong


def _fits(text: str, columns: Sequence[Sequence[Any] | None], prefix: str) -> bool:
    """Whether chunks, given as columns, are numbered from 0, are what they say, and cover all but white space."""
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
    with builds.locked(connection, build.index_id, exclusive=False):
        keys = {"keys": list(docs), "docs": list(docs)}
        connection.execute(statement("verify.sql", "lock_documents"), keys)
        connection.execute(build.sql("writing.sql", "lock_served"), keys)
        rows = connection.execute(build.sql("verify.sql", "delete_served"), keys).fetchall()
        revs = [rev for row in rows for rev in row if rev is not None]
        connection.execute(build.sql("writing.sql", "delete_chunks"), {"revs": revs})


@retry_on_deadlock
def _delete_orphan_chunks(connection: Connection, build: Build, revs: Sequence[int]) -> None:
    """Without a lock: a revision that was left is never taken up again."""
    connection.execute(build.sql("verify.sql", "delete_orphan_chunks"), {"keys": list(revs)})


@retry_on_deadlock
def _queue_documents(connection: Connection, build: Build, docs: Sequence[int]) -> None:
    with builds.locked(connection, build.index_id, exclusive=False):
        connection.execute(build.sql("verify.sql", "queue_documents"), {"keys": list(docs)})


@retry_on_deadlock
def _reset_attempts(connection: Connection, build: Build, hashes: Sequence[bytes]) -> None:
    connection.execute(build.sql("verify.sql", "reset_attempts"), {"keys": list(hashes)})


@retry_on_deadlock
def _embed_again(connection: Connection, build: Build, hashes: Sequence[bytes]) -> None:
    keys = {"keys": list(hashes), "dimensions": build.dimensions}
    with builds.locked(connection, build.index_id, exclusive=True):
        connection.execute(build.sql("verify.sql", "delete_bad_vectors"), keys)
        connection.execute(build.sql("verify.sql", "queue_contents"), keys)


def _rebuild_indexes(connection: Connection, build: Build, names: Sequence[str]) -> None:
    for name in names:
        left = re.search(r"_cc(new|old)\d*$", name)  # as Postgres names what an interrupted REINDEX leaves
        text = statements("verify.sql")["drop_index" if left else "rebuild_index"]
        connection.execute(sql.SQL(text).format(index=sql.Identifier(SCHEMA, name)))


def repair(connection: Connection, build: Build, check: Check, keys: Sequence[Key]) -> None:
    """Mend what a check found, as far as it is still so."""
    assert check.repair is not None, check.name
    for at in range(0, len(keys), REPAIRED_AT_ONCE):
        check.repair(connection, build, keys[at : at + REPAIRED_AT_ONCE])


# In the order in which they are mended: what a repair leaves behind, a later one takes up.
CHECKS = (
    Check(
        name="missing_documents",
        problem="documents neither shown, nor wanted, nor failed",
        remedy="stage the stored text again",
        over=("documents", "doc"),
        live_only=True,
    ),
    Check(
        name="deleted_but_served",
        problem="deleted documents that are served",
        remedy="serve them no longer",
        over=("served", "doc"),
        repair=_delete_served,
    ),
    Check(
        name="missing_text",
        problem="documents whose text is gone",
        remedy="stage the newest text, or fail them",
        over=("served", "doc"),
    ),
    Check(
        name="wrong_chunks",
        problem="documents whose chunks are not those of their text",
        remedy="stage the stored text again",
        find=_find_wrong_chunks,
    ),
    Check(
        name="orphan_chunks",
        problem="revisions with chunks that nothing serves",
        remedy="delete the chunks",
        over=("chunks", "rev"),
        repair=_delete_orphan_chunks,
    ),
    Check(
        name="bad_vectors",
        problem="vectors of another length, of zeros or NaN",
        remedy="delete them, and queue their contents",
        over=("embeddings", "hash"),
        repair=_embed_again,
    ),
    Check(
        name="missing_vectors",
        problem="searchable documents that lack a vector",
        remedy="queue what they lack",
        over=("served", "doc"),
        repair=_queue_documents,
    ),
    Check(
        name="missing_queue_entries",
        problem="waiting documents for which nothing is queued",
        remedy="queue what they lack",
        over=("served", "doc"),
        repair=_queue_documents,
    ),
    Check(
        name="exhausted_attempts",
        problem="queued contents whose attempts are spent",
        remedy="count their attempts from nothing",
        over=("pending", "hash"),
        repair=_reset_attempts,
    ),
    Check(
        name="unpublished_documents",
        problem="complete documents that readers do not see",
        remedy="publish them",
        over=("served", "doc"),
        repair=publishing.publish,
    ),
    Check(
        name="invalid_indexes",
        problem="invalid indexes of Postgres",
        remedy="build them again",
        repair=_rebuild_indexes,
    ),
    Check(
        name="unreported_jobs",
        problem="jobs that are done and that nobody reports",
        remedy="send their waiting task again",
        live_only=True,
    ),
    Check(
        name="unreferenced_vectors",
        problem="vectors that no chunk refers to",
        remedy="delete them",
        find=garbage.embeddings,
        collect=garbage.delete_embeddings,
    ),
    Check(
        name="unreferenced_queue_entries",
        problem="queued contents that no chunk has",
        remedy="delete them",
        find=garbage.pending,
        collect=garbage.delete_pending,
    ),
    Check(
        name="unreferenced_revisions",
        problem="revisions that nothing refers to",
        remedy="delete them",
        find=garbage.revisions,
        collect=garbage.delete_revisions,
        live_only=True,
    ),
)
