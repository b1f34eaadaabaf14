"""Background threads of a worker that serves the embed queue: the drainers and the outbox poller."""

from functools import partial

from celery import Celery

from worker import configuration, wiring
from worker.celery.retries import BROKER_ERRORS
from worker.errors import ServiceUnreachable
from worker.indexing import outbox
from worker.indexing.draining.drainer import Drainer

WAKE_SECONDS = 2.0  # after which an unread wake-up message expires: the poller sends another while rows wait

_drainers: list[Drainer] = []
_pollers: list[outbox.Poller] = []


def start(app: Celery) -> None:
    """Start one drainer per embedding backend, and the poller."""
    _drainers[:] = wiring.drainers()
    _pollers[:] = [
        outbox.Poller(
            wiring.addresses().database_url,
            list(configuration.current().indexes),
            stage_page,
            partial(wake_staging, app),
        )
    ]
    for drainer in _drainers:
        drainer.start()
    for poller in _pollers:
        poller.start()


def stop(timeout_seconds: float) -> None:
    """Claim no further work. Waits up to the timeout for each thread's current work."""
    for poller in _pollers:
        poller.stop(timeout_seconds)
    for drainer in _drainers:
        drainer.stop(timeout_seconds)


def release_in_flight() -> None:
    """Return unfinished claims, for other processes to take at once."""
    for drainer in _drainers:
        drainer.stop(0.0)
        drainer.let_go()


def stage_page(index: str) -> bool:
    """Stage a page of the outbox; returns whether more rows wait."""
    target = wiring.index(index)
    limit = configuration.current().max_document_bytes
    return outbox.consume(target.url, target.settings, target.backend, max_bytes=limit)


def wake_staging(app: Celery, index: str) -> None:
    """Ask the staging workers to help with the outbox. Raises ServiceUnreachable."""
    try:
        app.send_task(
            "tasks.outbox", kwargs={"index": index}, expires=WAKE_SECONDS, ignore_result=True, retry=False
        )
    except BROKER_ERRORS as error:
        raise ServiceUnreachable(f"the broker takes no message: {error}") from error
