"""pause, resume, drop: manage a whole index, in the settings or not."""

from datetime import UTC, datetime

from celery import Task

from tasks.arguments import AnyIndex
from worker import configuration, wiring
from worker.celery.application import app
from worker.celery.retries import WAIT_FOR_SERVICES
from worker.errors import InvalidQuery, described
from worker.results import Dropped, Paused
from worker.store import connection, indexes


@app.task(name="tasks.pause", bind=True, **WAIT_FOR_SERVICES)
def pause(self: Task, index: AnyIndex = "default") -> Paused:
    """Pause embedding for an index; search, chat and deletes still work.

    Requests in flight end. New documents are accepted and wait.

    Second run: finds the index paused. A late repetition of one message does not undo a later `tasks.resume`.

    Errors: InvalidQuery, also for an index that does not exist.
    """
    _check(index)
    with connection.checkout(wiring.addresses().database_url) as conn:
        return _state(index, indexes.pause(conn, index, self.request.id))


@app.task(name="tasks.resume", bind=True, **WAIT_FOR_SERVICES)
def resume(self: Task, index: AnyIndex = "default") -> Paused:
    """Resume embedding for a paused index.

    Second run: finds the index resumed. A late repetition of one message does not undo a later `tasks.pause`.

    Errors: InvalidQuery, also for an index that does not exist.
    """
    _check(index)
    with connection.checkout(wiring.addresses().database_url) as conn:
        return _state(index, indexes.resume(conn, index, self.request.id))


@app.task(name="tasks.drop", bind=True, **WAIT_FOR_SERVICES)
def drop(self: Task, index: AnyIndex = "default") -> Dropped:
    """Delete an index with all its documents. The next document for an index of the settings creates it again.

    If readers or writers hold the index for long, the task retries.

    Second run: completes the first, and leaves a new index of this name alone.

    Errors: InvalidQuery. An index that does not exist is no error.
    """
    _check(index)
    configured = index in configuration.current().indexes
    with connection.checkout(wiring.addresses().database_url) as conn:
        report = indexes.drop(conn, index, self.request.id, configured=configured)
    return {
        "index": index,
        "documents": report["documents"],
        "builds": report["builds"],
        "enqueued": report["enqueued"],
        "configured": configured,
    }


def _state(index: str, paused: datetime | None) -> Paused:
    since = None if paused is None else paused.astimezone(UTC).isoformat(timespec="seconds")
    return {"index": index, "paused": since}


def _check(index: object) -> None:
    if not isinstance(index, str):
        raise InvalidQuery(f"index must be the name of an index, not {described(index)}")
