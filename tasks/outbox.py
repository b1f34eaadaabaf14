"""outbox: stage what applications enqueued in their own transactions."""

import time

from worker.celery.application import app
from worker.celery.lifecycle import stage_page

SLICE_SECONDS = 3.0  # how long it keeps its process before other messages get a turn


@app.task(name="tasks.outbox", ignore_result=True)
def outbox(index: str = "default") -> None:
    """Stage what waits in the outbox, page by page, until nothing does or others are due.

    Any number may run at once, and none need to: the pollers, which send it when more than a page waits, stage by
    themselves, and send it again.
    """
    deadline = time.monotonic() + SLICE_SECONDS
    while stage_page(index) and time.monotonic() < deadline:
        pass
