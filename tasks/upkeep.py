"""sweep and status: what keeps the system whole, and what looks at it."""

import logging
from typing import Any

from worker import process
from worker.celery import app
from worker.documents import document_ids
from worker.errors import InvalidDocument, InvalidQuery
from worker.store import builds, connection, upkeep

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
    try:
        chosen = None if ids is None else document_ids(ids)
    except InvalidDocument as error:
        raise InvalidQuery(str(error)) from error
    with connection.checkout(target.url) as conn:
        build = builds.live(conn, index)
        if chosen is not None:
            return {"index": index, "documents": upkeep.document_states(conn, build, chosen)}
        return {"index": index, **upkeep.figures(conn, build)}
