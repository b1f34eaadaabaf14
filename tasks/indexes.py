"""pause, resume, drop: an index as a whole, whether the settings still name it or not."""

from datetime import UTC, datetime
from typing import Any

from celery import Task

from tasks.indexing import WAIT_FOR_SERVICES
from worker import configuration, wiring
from worker.celery.application import app
from worker.errors import InvalidQuery
from worker.store import connection, indexes


@app.task(name="tasks.pause", bind=True, **WAIT_FOR_SERVICES)
def pause(self: Task, index: str = "default") -> dict[str, Any]:
    """Send nothing of the index to its provider until it is resumed; what is in flight ends.

    What applications send is accepted and waits; search, chat and deletes go on. Run again it changes nothing.
    Final: an index that is not there.
    """
    _check(index)
    with connection.checkout(wiring.addresses().database_url) as conn:
        return _state(index, indexes.pause(conn, index, self.request.id))


@app.task(name="tasks.resume", bind=True, **WAIT_FOR_SERVICES)
def resume(self: Task, index: str = "default") -> dict[str, Any]:
    """Go on with what waits in a paused index. Run again it changes nothing. Final: an index that is not there."""
    _check(index)
    with connection.checkout(wiring.addresses().database_url) as conn:
        return _state(index, indexes.resume(conn, index, self.request.id))


@app.task(name="tasks.drop", bind=True, **WAIT_FOR_SERVICES)
def drop(self: Task, index: str = "default") -> dict[str, Any]:
    """Delete an index with everything of it. The next document for an index of the settings makes it anew.

    Run again it completes what was begun, and drops no second index of the name. An index that readers or writers
    hold for long is tried again.
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
