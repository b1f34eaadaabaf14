"""due, schedule: start scheduled reindexing, and show the schedules."""

from typing import Annotated

from worker import configuration, wiring
from worker.celery.application import app
from worker.reference import Meaning
from worker.results import Schedules
from worker.store import connection, schedule

SCHEDULED_FOR = "scheduled_for"  # a header of tasks.reindex: when the run was due, ISO 8601


# no events: monitors see the runs that it sends
@app.task(name="tasks.due", ignore_result=True, send_events=False)
def due() -> None:
    """Send tasks.reindex for each index whose source is due.

    Sent by: the beat while the settings have a `SCHEDULE`.

    Second run: sends the runs that became due since. A run that is sent twice has one id, so the second delivery does
    nothing.
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
def listed(
    index: Annotated[str | None, Meaning("name of an index in the settings; null: all")] = None,
) -> Schedules:
    """List the schedules: the next due time, the last run, and the last run skipped since.

    Second run: lists them again. It changes nothing.

    Errors: InvalidQuery, UnknownIndex, ServiceUnreachable.
    """
    known = configuration.current()
    indexes = list(known.indexes) if index is None else [known.index(index).name]
    with connection.checkout(wiring.addresses().database_url) as conn:
        return {"schedules": schedule.list_schedules(conn, indexes)}
