"""What a worker process does from its start to its end: it checks, serves, drains, and gives back what is not done."""

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import billiard
from celery import Celery, Task, bootsteps, signals
from celery.utils.log import current_process_index
from celery.worker.components import Pool

from worker import configuration, wiring
from worker.celery import liveness, startup
from worker.celery.broker import (
    BROKER_ERRORS,
    HideBodies,
    LeaseHeartbeat,
    guard_reconnect,
    guard_results,
    lengths,
)
from worker.celery.upstream.delivery import take_whole
from worker.celery.upstream.full_broker import guard_full, in_place
from worker.errors import ServiceUnreachable, VectorIndexError
from worker.indexing import outbox
from worker.indexing.draining.drainer import Drainer
from worker.keyspace import EMBED, QUEUES
from worker.observability import events, metrics
from worker.observability.logs import log_fields
from worker.store import connection

SWEEP_SECONDS = 30.0
WAKE_SECONDS = 2.0  # how long a message to those who stage waits: the poller sends another while it is due
STOP_SECONDS = 10.0  # for what is under way when the process is asked to end; `up` kills after 15
LET_GO_SECONDS = 3.0  # for giving back what is not done by then
STUCK = 75  # the exit code of a worker that no longer consumes: EX_TEMPFAIL, to be started again

logger = logging.getLogger("vector_index.worker")

_drainers: list[Drainer] = []
_nodes: list[str] = []  # the name of this worker, once it is ready
_metrics_folder: list["TemporaryDirectory[str]"] = []  # in which the processes of a prefork pool count
_pollers: list[outbox.Poller] = []
_ending, _hurry = threading.Event(), threading.Event()


@signals.worker_init.connect
def start(sender: Any, **_: Any) -> None:
    """Check everything before the first message is taken, in the parent of all pool processes."""
    guard_reconnect()
    guard_results()
    take_whole()
    guard_full()
    logging.getLogger("celery.worker.consumer.consumer").addFilter(HideBodies())
    if EMBED in sender.app.amqp.queues.consume_from and "thread" not in str(sender.pool_cls):
        end(f"the queue {EMBED} needs --pool=threads: its requests run in threads of the worker process", 2)
    try:
        for notice in startup.prepare():
            logger.warning(notice)
        serve_metrics(forks="prefork" in str(sender.pool_cls))
    except VectorIndexError as error:
        end_with(error)
    connection.close_pools()  # before pool processes are forked: each opens its own


def serve_metrics(*, forks: bool) -> None:
    """Serve metrics where METRICS_PORT is set, before the pool forks its processes. Raises SettingsError."""
    settings = configuration.current()
    if settings.metrics_port is None:
        return
    from worker.observability import scraping

    folder = None
    if forks:
        _metrics_folder.append(TemporaryDirectory(prefix="vector-index-metrics-", ignore_cleanup_errors=True))
        folder = configuration.environment()["PROMETHEUS_MULTIPROC_DIR"] = _metrics_folder[0].name
    registry = metrics.start(folder, process=lambda: current_process_index() or "parent")
    metrics.initialize_series(*startup.metric_labels())
    addresses = wiring.addresses()
    registry.register(
        scraping.ServiceState(addresses.database_url, lambda: lengths(addresses.broker_url, QUEUES))
    )
    listening = scraping.serve(settings.metrics_address, settings.metrics_port, registry)
    if forks:  # a child that outlives this process would keep the port; the solo pool sends the signal, too
        signals.worker_process_init.connect(lambda **_: listening.close(), weak=False)
    signals.task_prerun.connect(begin_task)
    signals.task_postrun.connect(count_task)


def begin_task(task: Task, **_: Any) -> None:
    task.request.counted_from = time.monotonic()


def count_task(task: Task, state: str | None, **_: Any) -> None:
    events.task(task.name, state, time.monotonic() - task.request.counted_from)


@signals.worker_ready.connect
def start_draining(sender: Any, **_: Any) -> None:
    """The worker that serves the queue of waiting tasks embeds, too, and looks into the outbox.

    Its first sweep is due at once.
    """
    LeaseHeartbeat.on_stuck = partial(leave, STUCK)
    _nodes[:] = [sender.hostname]
    LeaseHeartbeat.on_turn = beat
    beat()
    if EMBED in sender.app.amqp.queues.consume_from:
        _drainers[:] = startup.drainers()
        for drainer in _drainers:
            drainer.start()
        names = list(configuration.current().indexes)
        wake = partial(wake_staging, sender.app)
        _pollers[:] = [outbox.Poller(wiring.addresses().database_url, names, stage_page, wake)]
        _pollers[0].start()
        with in_place():  # a full broker takes this one: a worker starts there, too
            sender.app.send_task("tasks.sweep", expires=SWEEP_SECONDS)
    logger.info(
        "ready", extra=log_fields(worker=sender.hostname, queues=list(sender.app.amqp.queues.consume_from))
    )


def stage_page(index: str) -> bool:
    """Stage a page of the outbox; whether more waits."""
    target = wiring.index(index)
    limit = configuration.current().max_document_bytes
    return outbox.stage_page(target, max_bytes=limit)


def wake_staging(app: Celery, index: str) -> None:
    """Let a process that stages help with the outbox. Raises ServiceUnreachable."""
    try:
        app.send_task(
            "tasks.outbox", kwargs={"index": index}, expires=WAKE_SECONDS, ignore_result=True, retry=False
        )
    except BROKER_ERRORS as error:
        raise ServiceUnreachable(f"the broker takes no message: {error}") from error


def beat() -> None:
    """Let `vector-index live` see that this process lives."""
    try:
        for node in list(_nodes):
            liveness.beat(configuration.current().home, node)
    except OSError as error:
        logger.warning("pulse_not_written", extra=log_fields(error=str(error), mend="set VECTOR_INDEX_HOME"))


@signals.worker_shutting_down.connect
def stop(code: int = 0, **_: Any) -> None:
    """Claim nothing more. What is under way has STOP_SECONDS to end, or until a second signal.

    Celery itself would wait for its tasks without end on SIGTERM, and cannot be hurried on the threads pool.
    """
    stop_threads(0.0)
    if not _ending.is_set():
        _ending.set()
        threading.Thread(target=leave_in_time, args=(code,), name="leave-in-time", daemon=True).start()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda *_: _hurry.set())


class EndInTime(bootsteps.StartStopStep):
    """However a worker comes to its end, by a signal, a remote command or an error of Celery's, it ends in time.

    After an error Celery waits for its pool without end, while the lease of every message in hand is renewed.
    """

    requires = (Pool,)

    def close(self, worker: Any) -> None:
        stop(code=worker.exitcode or 0)


@signals.worker_shutdown.connect
def finish(**_: Any) -> None:
    """Wait for requests in flight; `leave_in_time` bounds it."""
    stop_threads(STOP_SECONDS)
    connection.close_pools()
    clean_up()


def stop_threads(timeout_seconds: float) -> None:
    for poller in _pollers:
        poller.stop(timeout_seconds)
    for drainer in _drainers:
        drainer.stop(timeout_seconds)


def leave_in_time(code: int) -> None:
    logger.info("stopping", extra=log_fields(at_most_seconds=STOP_SECONDS))  # a signal handler must not
    _hurry.wait(STOP_SECONDS)
    logger.warning("what is not done yet is given back")
    leave(code)


def leave(code: int) -> None:
    """End the process now; what it has in hand is free for others at once, where Postgres and the broker answer."""
    try:
        giving = threading.Thread(target=let_go, name="let-go", daemon=True)
        giving.start()
        giving.join(LET_GO_SECONDS)
        for child in billiard.active_children():
            with suppress(ProcessLookupError):  # the pool waited for it, which billiard does not see
                os.kill(child.pid, signal.SIGKILL)
        clean_up()
    finally:
        os._exit(code)


def clean_up() -> None:
    """Remove the files of this process. It writes none of them again."""
    for folder in _metrics_folder:
        folder.cleanup()
    while _nodes:
        with suppress(OSError):
            liveness.end(configuration.current().home, _nodes.pop())


def let_go() -> None:
    for drainer in _drainers:
        drainer.stop(0.0)
        drainer.release_in_flight()
    LeaseHeartbeat.let_go()


def end_with(error: VectorIndexError) -> NoReturn:
    """End the process with the sentence of an error: 3 when a service is unreachable, else 2."""
    end(str(error), 3 if isinstance(error, ServiceUnreachable) else 2)


def end(sentence: str, code: int) -> NoReturn:
    print(f"vector-index: {sentence}", file=sys.stderr, flush=True)  # noqa: T201
    raise SystemExit(code)
