"""outbox: stage documents that applications enqueued in their own transactions."""

import time

from tasks.arguments import Index
from worker.celery.application import app
from worker.celery.background_threads import stage_page

SLICE_SECONDS = 3.0  # that it keeps its pool process before other messages get it


@app.task(name="tasks.outbox", ignore_result=True)
def outbox(index: Index = "default") -> None:
    """Stage rows of the outbox, page by page, until none wait or the slice is over.

    Sent by: the outbox pollers of embed workers while more than a page waits. They stage pages themselves, too, so a
    lost message is harmless.

    Second run: stages the rows that are left. Any number may run at once, as each locks its own rows.
    """
    deadline = time.monotonic() + SLICE_SECONDS
    while stage_page(index) and time.monotonic() < deadline:
        pass
