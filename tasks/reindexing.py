"""reindex: sync an index with its source."""

from datetime import datetime
from typing import Annotated

from celery import Task

from tasks.arguments import Index
from tasks.indexing import await_indexing
from tasks.schedule import SCHEDULED_FOR
from worker import configuration, wiring
from worker.celery.application import app
from worker.celery.retries import WAIT_FOR_SERVICES
from worker.errors import InvalidQuery, SourceFailed, described
from worker.indexing import reindexing
from worker.reference import Meaning
from worker.results import Progress, Reindexed
from worker.store.reindexing import ReindexRequest


@app.task(name="tasks.reindex", bind=True, dont_autoretry_for=(SourceFailed,), **WAIT_FOR_SERVICES)
def reindex(
    self: Task,
    full: Annotated[
        bool, Meaning("read a source with a cursor from its beginning, and find deleted documents")
    ] = False,
    allow_shrink: Annotated[
        bool, Meaning("delete even if the source returned less than half of the documents of the last run")
    ] = False,
    index: Index = "default",
) -> Reindexed:
    """Sync an index with its source: index its documents, and delete those that it no longer has.

    It becomes `tasks.await_indexing` with the same id. A source with a cursor is read from there, and nothing is
    deleted. While one run of an index is active, another ends with a warning.

    Second run: reads the source again until one run has reached its end; unchanged documents cost nothing.

    Errors: InvalidQuery, UnknownIndex, SettingsError (also for an index without a source), SourceFailed if the source
    fails before its end.
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
        on_progress=lambda read: self.update_state(state="PROGRESS", meta=_progress(read)),
    )
    if skipped is not None:
        return _skipped(index, skipped)
    raise self.replace(await_indexing.si(index=index))


def _progress(read: int) -> Progress:
    return {"documents": read, "done": 0, "chunks": 0, "embedded": 0}


def _skipped(index: str, reason: str) -> Reindexed:
    return {
        "index": index,
        "indexed": 0,
        "unchanged": 0,
        "stale": 0,
        "failed": [],
        "chunks": 0,
        "embedded": 0,
        "tokens": 0,
        "deleted": 0,
        "seconds": 0.0,
        "warning": reason,
    }


def _check(**flags: object) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidQuery(f"{name} must be true or false, not {described(value)}")


def _request(task: Task, index: str) -> ReindexRequest:
    due = task.request.get(SCHEDULED_FOR)
    scheduled_for = datetime.fromisoformat(due) if due else None
    return ReindexRequest(index=index, task_id=task.request.id, scheduled_for=scheduled_for)
