"""index_documents, delete_documents, and the task that waits until documents are searchable."""

import time
from typing import Any

from celery import Task

from worker import configuration, wiring
from worker.celery.application import app
from worker.celery.broker import BROKER_ERRORS
from worker.documents import document_ids, document_version
from worker.errors import InvalidDocument, InvalidQuery, TemporaryError
from worker.indexing import jobs, staging
from worker.store import connection

SLICE_SECONDS = 1.5  # how long a waiting task keeps its slot before the next one gets a turn
LOOK_SECONDS = 0.1

# What is accepted is safe in Postgres or in the broker; a task whose services are away waits for them.
WAIT_FOR_SERVICES = {
    "autoretry_for": (TemporaryError, *BROKER_ERRORS),
    "max_retries": None,
    "retry_backoff": 1,
    "retry_backoff_max": 60,
}


@app.task(name="tasks.index_documents", bind=True, **WAIT_FOR_SERVICES)
def index_documents(self: Task, documents: list[Any], index: str = "default") -> None:
    """Stage documents, then become `tasks.embed` under the same id.

    Run again it stages nothing, as the ledger of jobs has its id. Bad documents are set aside one by one;
    a document that is staged is never lost. Final: documents that are not a list, an unknown index, wrong settings.
    """
    if not isinstance(documents, list):
        raise InvalidQuery(f"documents must be a list of objects, not {type(documents).__name__}")
    target = wiring.index(index)
    limit = configuration.current().max_document_bytes
    staging.stage(target, self.request.id, documents, max_bytes=limit)
    raise self.replace(embed.si(index=index))


# STARTED, at the start of each slice, would hide PROGRESS a moment after the last one had told it; to monitors each
# slice would be another beginning
@app.task(name="tasks.embed", bind=True, track_started=False, send_events=False, **WAIT_FOR_SERVICES)
def embed(self: Task, index: str = "default") -> dict[str, Any]:
    """Wait for the documents of the job of this id, in slices; then report what became of them.

    It only looks: run twice, or never, the documents are indexed all the same.
    """
    url = wiring.addresses().database_url
    deadline = time.monotonic() + SLICE_SECONDS
    while True:
        looked = time.monotonic()
        with connection.checkout(url) as conn:
            result, progress = jobs.job_result(conn, index, self.request.id)
        if result is not None:
            return result
        # a job of a million documents takes a while to look at: at most half of the time
        time.sleep(max(LOOK_SECONDS, time.monotonic() - looked))
        if time.monotonic() > deadline:
            self.update_state(state="PROGRESS", meta=progress)
            raise self.replace(embed.si(index=index))


@app.task(name="tasks.delete_documents", bind=True, **WAIT_FOR_SERVICES)
def delete_documents(
    self: Task,
    ids: list[Any] | None = None,
    filter: dict[str, Any] | None = None,
    version: int | None = None,
    index: str = "default",
) -> dict[str, Any]:
    """Delete by id, or by filter over metadata. Run again it deletes nothing and reports the same."""
    target = wiring.index(index)
    if (ids is None) == (filter is None):
        raise InvalidQuery("give ids or filter, one of them: which documents are to be deleted?")
    try:
        fence = document_version(version)
        chosen = None if ids is None else document_ids(ids)
    except InvalidDocument as error:
        raise InvalidQuery(str(error)) from error
    if chosen is not None:
        done = staging.delete(target, self.request.id, chosen, fence)
    else:
        done = staging.delete_matching(target, self.request.id, filter or {}, fence)
    return {"index": index, "deleted": done.deleted, "stale": done.stale}
