"""sweep, collect, index_vectors, verify, status, failures, retry: what keeps the system whole, and what looks at it."""

import logging
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC
from typing import Any

from celery import Task

from tasks.indexing import WAIT_FOR_SERVICES
from worker import configuration, wiring
from worker.celery.application import app
from worker.celery.broker import lengths
from worker.documents import document_ids
from worker.errors import BuildDropped, InvalidDocument, InvalidQuery
from worker.indexing import staging, verification
from worker.keyspace import EMBED
from worker.observability.logs import log_fields
from worker.store import builds, connection, garbage, hnsw, indexes, jobs, outbox
from worker.store.builds import Build
from worker.store.status import document_states, failed_documents, index_status
from worker.store.sweep import sweep_build

MAX_FAILURES = 1000
QUIET_SECONDS = 120.0  # a job that nobody has looked at for so long gets a new waiting task
COLLECT_SECONDS = 3600.0  # between two collections of an index
ERASED_SECONDS = 600.0  # where documents were deleted since
INDEX_VECTORS_SECONDS = 60.0  # how long the message waits: each sweep sends another while it is due

REPAIRED = "contents were neither embedded nor pending: the protocol has no such state"

logger = logging.getLogger("vector_index.sweep")


@app.task(name="tasks.sweep", ignore_result=True)
def sweep() -> None:
    """Find what nobody works on: publish, queue again, wake waiting tasks; send what is due.

    Any number may run at once.
    """
    url = wiring.addresses().database_url
    with connection.checkout(url) as conn:
        written = builds.all_writable(conn)
    for build in written:
        with suppress(BuildDropped):  # meanwhile
            _sweep_build(url, build)
    with connection.checkout(url) as conn:
        jobs.delete_expired(conn)
        due = garbage.collections_due(conn, seconds=COLLECT_SECONDS, erased_seconds=ERASED_SECONDS)
    wake()
    for index in due:
        app.send_task("tasks.collect", kwargs={"index": index}, ignore_result=True)


def _sweep_build(url: str, build: Build) -> None:
    with connection.checkout(url) as conn:
        repairs = sweep_build(conn, build)
        if repairs.queued:
            logger.error("repaired", extra=log_fields(index=build.index, inputs=repairs.queued, bug=REPAIRED))
        if hnsw.is_due(conn, build):
            app.send_task(
                "tasks.index_vectors",
                kwargs={"index": build.index},
                expires=INDEX_VECTORS_SECONDS,
                ignore_result=True,
            )


def wake() -> None:
    """Send the waiting task of jobs that have gone quiet again, under its own id.

    Not of those that wait for a slot: with thousands of jobs a turn takes longer than QUIET_SECONDS, and every task
    that is sent beside another lengthens it.
    """
    addresses = wiring.addresses()
    waiting = lengths(addresses.broker_url, [EMBED])[EMBED]
    with connection.checkout(addresses.database_url) as conn:
        quiet = jobs.quiet(conn, seconds=QUIET_SECONDS, waiting=waiting)
    for task_id, index in quiet:
        app.send_task("tasks.embed", task_id=task_id, kwargs={"index": index})


@app.task(name="tasks.collect")
def collect(index: str = "default") -> dict[str, Any]:
    """Delete what nothing refers to: old revisions, and vectors where they are more than a fifth. Run again: no-op.

    The sweep sends it once an hour, and ten minutes after a deletion: then all such vectors go. What cannot be locked
    within a second stays for the next time. What is left of dropped indexes goes too.
    """
    collected = garbage.Collected()
    with connection.checkout(wiring.addresses().database_url) as conn:
        build = builds.live(conn, index)
        if build is not None:
            collected = garbage.collect_index(conn, build.index_id)
        indexes.purge(conn)
    return {"index": index, **asdict(collected)}


@app.task(name="tasks.index_vectors")
def index_vectors(index: str = "default") -> dict[str, Any]:
    """Make the vector index of each build that has grown enough. Run again, or at once: no-op.

    The sweep sends it. One that died is made again when its lease has ended.
    """
    url = wiring.addresses().database_url
    with connection.checkout(url) as conn:
        written = [build for build in builds.all_writable(conn) if build.index == index]
    return {"index": index, "builds": [build.build for build in written if hnsw.create(url, build)]}


@app.task(name="tasks.verify", **WAIT_FOR_SERVICES)
def verify(repair: bool = False, index: str = "default") -> dict[str, Any]:
    """Compare what must be with what is, under any load; with `repair`, mend it. Run again it finds what is left."""
    if not isinstance(repair, bool):
        raise InvalidQuery(f"repair must be true or false, not {repair!r}")
    target = wiring.index(index)
    verifier = verification.Verifier(index=target, wake=wake)
    return verifier.verify(repair=repair)


@app.task(name="tasks.status")
def status(ids: list[Any] | None = None, index: str = "default") -> dict[str, Any]:
    """What is searchable, pending and failed; with ids, where each of these documents stands."""
    target = wiring.index(index)
    chosen = _checked(ids)
    with connection.checkout(target.url) as conn:
        build = builds.live(conn, index)
        if chosen is not None:
            return {"index": index, "documents": document_states(conn, build, chosen)}
        paused = indexes.paused_at(conn, index)
        since = paused and paused.astimezone(UTC).isoformat(timespec="seconds")
        unknown = {
            "unknown_indexes": outbox.rows_of_unknown_indexes(conn, list(configuration.current().indexes))
        }
        enqueued = outbox.counts(conn, index) | unknown
        return {"index": index, "paused": since, **index_status(conn, build), "outbox": enqueued}


@app.task(name="tasks.failures")
def failures(limit: int = 100, after: Any = "", index: str = "default") -> dict[str, Any]:
    """Failed documents in the order of their ids; `after` is the `next` of the page before, null at the end."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_FAILURES:
        raise InvalidQuery(f"limit must be a whole number from 1 to {MAX_FAILURES:,}, not {limit!r}")
    known = _checked([after] if after != "" else [])
    target = wiring.index(index)
    with connection.checkout(target.url) as conn:
        build = builds.live(conn, index)
        page = (
            []
            if build is None
            else failed_documents(conn, build, after=known[0] if known else "", limit=limit)
        )
    return {"index": index, "failures": page, "next": page[-1]["id"] if len(page) == limit else None}


@app.task(name="tasks.retry", bind=True, **WAIT_FOR_SERVICES)
def retry(self: Task, ids: list[Any] | None = None, index: str = "default") -> dict[str, Any]:
    """Try failed documents again: these, or all of the index; waits for none. Run again it finds what fails still."""
    target = wiring.index(index)
    chosen = _checked(ids)
    found = staging.failed_ids(target) if chosen is None else chosen
    done = staging.retry(target, found)
    return {"index": index, "retried": len(done.docs) + done.rows, "chunks": done.chunks}


def _checked(ids: list[Any] | None) -> list[str] | None:
    try:
        return None if ids is None else document_ids(ids)
    except InvalidDocument as error:
        raise InvalidQuery(str(error)) from error
