"""reindex: sync an index with its source."""

from datetime import datetime
from typing import Any

from celery import Task

from tasks.indexing import await_indexing
from tasks.schedule import SCHEDULED_FOR
from worker import configuration, wiring
from worker.celery.application import app
from worker.celery.retries import WAIT_FOR_SERVICES
from worker.errors import InvalidQuery, SourceFailed
from worker.indexing import reindexing
from worker.store.reindexing import ReindexRequest

COUNTS = ("indexed", "unchanged", "stale", "chunks", "embedded", "tokens", "deleted")


@app.task(name="tasks.reindex", bind=True, dont_autoretry_for=(SourceFailed,), **WAIT_FOR_SERVICES)
def reindex(
    self: Task, full: bool = False, allow_shrink: bool = False, index: str = "default"
) -> dict[str, Any]:
    """Stage all documents of the index's source, delete those that it no longer has, then become `await_indexing`.

    A second run reads the source again, until one has reached its end; staging skips unchanged documents. While one
    run of an index is active, another ends with a warning. A source with a cursor is read from there; `full` reads
    it from its beginning, as all other sources are, and finds deleted documents. Final errors: a source that fails,
    an index without a source, wrong settings.
    """
    _check(full=full, allow_shrink=allow_shrink)
    request = _request(self, configuration.current().index(index).name)
    # for the schedule, a run without a row still waits for a worker
    with reindexing.recorded_failure(wiring.addresses().database_url, request):
        target = wiring.index(index)
    skipped = reindexing.reindex(
        target,
        lambda: wiring.source(index),
        request,
        max_bytes=configuration.current().max_document_bytes,
        full=full,
        allow_shrink=allow_shrink,
        on_progress=lambda read: self.update_state(
            state="PROGRESS", meta={"documents": read, "done": 0, "chunks": 0, "embedded": 0}
        ),
    )
    if skipped is not None:
        return {"index": index, **dict.fromkeys(COUNTS, 0), "failed": [], "seconds": 0.0, "warning": skipped}
    raise self.replace(await_indexing.si(index=index))


def _check(**flags: object) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidQuery(f"{name} must be true or false, not {value!r}")


def _request(task: Task, index: str) -> ReindexRequest:
    due = task.request.get(SCHEDULED_FOR)
    scheduled_for = datetime.fromisoformat(due) if due else None
    return ReindexRequest(index=index, task_id=task.request.id, scheduled_for=scheduled_for)
