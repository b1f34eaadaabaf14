"""sweep, status, failures, retry: what keeps the system whole, and what looks at it."""

import logging
from typing import Any

from celery import Task

from tasks.indexing import WAIT_FOR_SERVICES
from worker import process, staging
from worker.celery import app
from worker.documents import document_ids
from worker.errors import InvalidDocument, InvalidQuery
from worker.store import builds, connection, upkeep

MAX_FAILURES = 1000
QUIET_SECONDS = 120.0  # a job that nobody has looked at for so long gets a new waiting task

logger = logging.getLogger("vector_index.sweep")


@app.task(name="tasks.sweep", ignore_result=True)
def sweep() -> None:
    """Find what nobody works on: publish, queue again, wake waiting tasks. Any number may run at once."""
    with connection.checkout(process.addresses().database_url) as conn:
        for build in upkeep.written_builds(conn):
            repairs = upkeep.sweep(conn, build)
            if repairs.queued:
                logger.error(
                    "repaired %d contents that were neither embedded nor pending: a bug", repairs.queued
                )
        quiet = upkeep.quiet_jobs(conn, seconds=QUIET_SECONDS)
        upkeep.forget_jobs(conn)
    for task_id, index in quiet:
        app.send_task("tasks.embed", task_id=task_id, kwargs={"index": index})


@app.task(name="tasks.status")
def status(ids: list[Any] | None = None, index: str = "default") -> dict[str, Any]:
    """What is searchable, pending and failed; with ids, where each of these documents stands."""
    target = process.index(index)
    chosen = _checked(ids)
    with connection.checkout(target.url) as conn:
        build = builds.live(conn, index)
        if chosen is not None:
            return {"index": index, "documents": upkeep.document_states(conn, build, chosen)}
        return {"index": index, **upkeep.figures(conn, build)}


@app.task(name="tasks.failures")
def failures(limit: int = 100, after: Any = "", index: str = "default") -> dict[str, Any]:
    """Failed documents in the order of their ids; `after` is the `next` of the page before, null at the end."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_FAILURES:
        raise InvalidQuery(f"limit must be a whole number from 1 to {MAX_FAILURES:,}, not {limit!r}")
    known = _checked([after] if after != "" else [])
    target = process.index(index)
    with connection.checkout(target.url) as conn:
        build = builds.live(conn, index)
        page = (
            []
            if build is None
            else upkeep.failures(conn, build, after=known[0] if known else "", limit=limit)
        )
    return {"index": index, "failures": page, "next": page[-1]["id"] if len(page) == limit else None}


@app.task(name="tasks.retry", bind=True, **WAIT_FOR_SERVICES)
def retry(self: Task, ids: list[Any] | None = None, index: str = "default") -> dict[str, Any]:
    """Try failed documents again: these, or all of the index; waits for none. Run again it finds what fails still."""
    target = process.index(index)
    chosen = _checked(ids)
    found = staging.failed_ids(target.url, index) if chosen is None else chosen
    done = staging.retry(target.url, index, found)
    return {"index": index, "retried": len(done.docs), "chunks": done.chunks}


def _checked(ids: list[Any] | None) -> list[str] | None:
    try:
        return None if ids is None else document_ids(ids)
    except InvalidDocument as error:
        raise InvalidQuery(str(error)) from error
