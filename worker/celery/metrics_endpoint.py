"""Prometheus metrics of a worker: an endpoint, and the duration of every task."""

import time
from tempfile import TemporaryDirectory
from typing import Any

from celery import Task, signals
from celery.utils.log import current_process_index

from worker import configuration, wiring
from worker.celery import startup_checks
from worker.celery.queue_lengths import queue_lengths
from worker.keyspace import QUEUES
from worker.observability import events, metrics

_folders: list["TemporaryDirectory[str]"] = []  # in which the processes of a prefork pool count


def serve(*, forks: bool) -> None:
    """Serve metrics if METRICS_PORT is set. Call it before the pool forks its processes. Raises SettingsError."""
    settings = configuration.current()
    if settings.metrics_port is None:
        return
    from worker.observability import scraping

    folder = _shared_folder() if forks else None
    registry = metrics.start(folder, process=lambda: current_process_index() or "parent")
    metrics.initialize_series(*_labels())
    addresses = wiring.addresses()
    registry.register(
        scraping.ServiceState(addresses.database_url, lambda: queue_lengths(addresses.broker_url, QUEUES))
    )
    listening = scraping.serve(settings.metrics_address, settings.metrics_port, registry)
    if forks:
        # A child that outlives this process would keep the port. Only with forks: the solo pool sends the signal too.
        signals.worker_process_init.connect(lambda **_: listening.close(), weak=False)
    signals.task_prerun.connect(start_timer)
    signals.task_postrun.connect(count_task)


def remove_files() -> None:
    for folder in _folders:
        folder.cleanup()


def start_timer(task: Task, **_: Any) -> None:
    task.request.counted_from = time.monotonic()


def count_task(task: Task, state: str | None, **_: Any) -> None:
    events.task(task.name, state, time.monotonic() - task.request.counted_from)


def _labels() -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the labels of all metrics: the names of indexes, and of embedding, chat and rerank backends."""
    settings = configuration.current()
    embedding = [
        wiring.embedding_budget(used.name).name for used in startup_checks.embedding_backends_in_use()
    ]
    chat = [f"chat:{name}" for name in settings.chat_backends]
    rerank = [f"rerank:{name}" for name in settings.rerank_backends]
    return list(settings.indexes), embedding, chat, rerank


def _shared_folder() -> str:
    folder = TemporaryDirectory(prefix="vector-index-metrics-", ignore_cleanup_errors=True)
    _folders.append(folder)
    configuration.environment()["PROMETHEUS_MULTIPROC_DIR"] = folder.name
    return folder.name
