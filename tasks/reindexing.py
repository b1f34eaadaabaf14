"""reindex: bring an index up to its source."""

from datetime import datetime
from typing import Any

from celery import Task

from tasks.indexing import WAIT_FOR_SERVICES, embed
from tasks.schedule import SCHEDULED_FOR
from worker import configuration, wiring
from worker.celery.application import app
from worker.errors import InvalidQuery, SourceFailed
from worker.indexing import reindexing
from worker.store.reindexing import ReindexRequest


@app.task(name="tasks.reindex", bind=True, dont_autoretry_for=(SourceFailed,), **WAIT_FOR_SERVICES)
def reindex(
    self: Task, full: bool = False, allow_shrink: bool = False, index: str = "default"
) -> dict[str, Any]:
    """Stage all documents of the index's source, delete those that it has no longer, then become `tasks.embed`.

    Run again it reads the source anew, until it came to the end once; two runs of one index at a time are one too
    many: the second ends with a warning. `full` reads a source that keeps a cursor from its beginning, and deletes
    what it has no longer; others are always read so. Final: a source that fails, an index without a source, wrong
    settings.
    """
    for name, value in {"full": full, "allow_shrink": allow_shrink}.items():
        if not isinstance(value, bool):
            raise InvalidQuery(f"{name} must be true or false, not {value!r}")
    configuration.current().index(index)
    due = self.request.get(SCHEDULED_FOR)
    scheduled_for = datetime.fromisoformat(due) if due else None
    request = ReindexRequest(index=index, task_id=self.request.id, scheduled_for=scheduled_for)
    # a run without a row waits for a worker, as far as the schedule knows
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
        counts = dict.fromkeys(
            ("indexed", "unchanged", "stale", "chunks", "embedded", "tokens", "deleted"), 0
        )
        return {"index": index, **counts, "failed": [], "seconds": 0.0, "warning": skipped}
    raise self.replace(embed.si(index=index))
