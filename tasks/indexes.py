"""pause, resume, drop: manage a whole index, in the settings or not."""

from datetime import UTC, datetime
from typing import Any

from celery import Task

from worker import configuration, wiring
from worker.celery.application import app
from worker.celery.retries import WAIT_FOR_SERVICES
from worker.errors import InvalidQuery
from worker.store import connection, indexes


@app.task(name="tasks.pause", bind=True, **WAIT_FOR_SERVICES)
def pause(self: Task, index: str = "default") -> dict[str, Any]:
    """Pause embedding for an index; search, chat and deletes still work.

    Requests in flight end. New documents are accepted and wait. A second run finds the index paused. Final error: an
    index that does not exist.
    """
    _check(index)
    with connection.checkout(wiring.addresses().database_url) as conn:
        return _state(index, indexes.pause(conn, index, self.request.id))


@app.task(name="tasks.resume", bind=True, **WAIT_FOR_SERVICES)
def resume(self: Task, index: str = "default") -> dict[str, Any]:
    """Resume embedding for an index. A second run finds it resumed. Final error: an index that does not exist."""
    _check(index)
    with connection.checkout(wiring.addresses().database_url) as conn:
        return _state(index, indexes.resume(conn, index, self.request.id))


@app.task(name="tasks.drop", bind=True, **WAIT_FOR_SERVICES)
def drop(self: Task, index: str = "default") -> dict[str, Any]:
    """Delete an index with all its documents. The next document for an index of the settings creates it again.

    A second run completes the first, and leaves a new index of this name alone. If readers or writers hold the index
    for long, the task retries.
    """
    _check(index)
    configured = index in configuration.current().indexes
    with connection.checkout(wiring.addresses().database_url) as conn:
        report = indexes.drop(conn, index, self.request.id, configured=configured)
    return {"index": index, **report, "configured": configured}


def _state(index: str, paused: datetime | None) -> dict[str, Any]:
    return {"index": index, "paused": paused and paused.astimezone(UTC).isoformat(timespec="seconds")}


def _check(index: object) -> None:
    if not isinstance(index, str):
        raise InvalidQuery(f"index must be the name of an index, not {index!r:.100}")
