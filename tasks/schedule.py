"""due, schedule: start scheduled reindexing, and show the schedules."""

from typing import Any

from worker import configuration, wiring
from worker.celery.application import app
from worker.store import connection, schedule

SCHEDULED_FOR = "scheduled_for"  # a header of tasks.reindex: when the run was due, ISO 8601


# no events: monitors see the runs that it sends
@app.task(name="tasks.due", ignore_result=True, send_events=False)
def due() -> None:
    """Send tasks.reindex for each index whose source is due.

    Any number may run at once, and crash at any point: a run that is sent twice has one id, so the second delivery
    does nothing.
    """
    indexes = list(configuration.current().indexes)
    for run in schedule.runs_to_send(wiring.addresses().database_url, indexes):
        app.send_task(
            "tasks.reindex",
            task_id=run.task_id,
            kwargs={"index": run.index},
            headers={SCHEDULED_FOR: run.scheduled_for.isoformat()},
        )


@app.task(name="tasks.schedule")
def listed(index: str | None = None) -> dict[str, Any]:
    """List the schedules: the next due time, the last run, and the runs skipped since. Changes nothing."""
    known = configuration.current()
    indexes = list(known.indexes) if index is None else [known.index(index).name]
    with connection.checkout(wiring.addresses().database_url) as conn:
        return {"schedules": schedule.list_schedules(conn, indexes)}
