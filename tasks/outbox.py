"""outbox: stage documents that applications enqueued in their own transactions."""

import time

from worker.celery.application import app
from worker.celery.background_threads import stage_page

SLICE_SECONDS = 3.0  # that it keeps its pool process before other messages get it


@app.task(name="tasks.outbox", ignore_result=True)
def outbox(index: str = "default") -> None:
    """Stage rows of the outbox, page by page, until none wait or the slice is over.

    Any number may run at once: each locks its own rows. The outbox pollers send it while more than a page waits, and
    stage pages themselves, so a lost message is harmless.
    """
    deadline = time.monotonic() + SLICE_SECONDS
    while stage_page(index) and time.monotonic() < deadline:
        pass
