"""Background threads of a worker that serves the embed queue: the drainers and the outbox poller."""

from functools import partial

from celery import Celery

from worker import configuration, wiring
from worker.celery import startup_checks
from worker.celery.retries import BROKER_ERRORS
from worker.errors import ServiceUnreachable
from worker.indexing import outbox
from worker.indexing.draining.drainer import Drainer
from worker.indexing.draining.other_builds import OtherBuilds

WAKE_SECONDS = 2.0  # after which an unread wake-up message expires: the poller sends another while rows wait

_drainers: list[Drainer] = []
_pollers: list[outbox.Poller] = []
_others: list[OtherBuilds] = []


def start(app: Celery) -> None:
    """Start one drainer per embedding backend, those for builds of other models, and the poller."""
    _drainers[:] = _new_drainers()
    _pollers[:] = [
        outbox.Poller(
            wiring.addresses().database_url,
            list(configuration.current().indexes),
            stage_page,
            partial(wake_staging, app),
        )
    ]
    _others[:] = [_other_builds()]
    for drainer in _drainers:
        drainer.start()
    for others in _others:
        others.start()
    for poller in _pollers:
        poller.start()


def stop(timeout_seconds: float) -> None:
    """Stop claiming work. Waits up to the timeout for each thread's current work."""
    for poller in _pollers:
        poller.stop(timeout_seconds)
    for others in _others:
        others.stop(timeout_seconds)
    for drainer in _drainers:
        drainer.stop(timeout_seconds)


def release_in_flight() -> None:
    """Return unfinished claims, for other processes to take at once."""
    for drainer in [*_drainers, *(drainer for each in _others for drainer in each.drainers.values())]:
        drainer.stop(0.0)
        drainer.release_in_flight()


def stage_page(index: str) -> bool:
    """Stage a page of the outbox; returns whether more rows wait."""
    target = wiring.index(index)
    limit = configuration.current().max_document_bytes
    return outbox.stage_page(target, max_bytes=limit)


def wake_staging(app: Celery, index: str) -> None:
    """Ask the staging workers to help with the outbox. Raises ServiceUnreachable."""
    try:
        app.send_task(
            "tasks.outbox", kwargs={"index": index}, expires=WAKE_SECONDS, ignore_result=True, retry=False
        )
    except BROKER_ERRORS as error:
        raise ServiceUnreachable(f"the broker takes no message: {error}") from error


def _new_drainers() -> list[Drainer]:
    """Make a drainer for each embedding backend in use."""
    url = wiring.addresses().database_url
    return [
        Drainer(
            url,
            used,
            wiring.embedding_backend(used.name),
            wiring.embedding_budget(used.name),
            [
                name
                for name, index in configuration.current().indexes.items()
                if index.embedding_backend.name == used.name
            ],
        )
        for used in startup_checks.embedding_backends_in_use()
    ]


def _other_builds() -> OtherBuilds:
    """Make what drains the builds of indexes whose settings name another model by now."""
    indexes = configuration.current().indexes
    return OtherBuilds(
        wiring.addresses().database_url,
        {name: wiring.embedding_backend(index.embedding_backend.name) for name, index in indexes.items()},
        lambda build: wiring.remembered(wiring.index(build.index), build),
    )
