"""Start of a worker process: check everything before the first message, then start the background work."""

import logging
from functools import partial
from typing import Any

from celery import signals

from worker import configuration
from worker.celery import background_threads, metrics_endpoint, shutdown, startup_checks
from worker.celery.exits import ends_on_error, exit_with
from worker.celery.heartbeat import HeartbeatThread
from worker.celery.log_filters import RedactMessageBodies
from worker.celery.upstream.memory_limit import past_memory_limit
from worker.exit_codes import ExitCode
from worker.keyspace import EMBED
from worker.observability.logs import log_fields
from worker.store import connection

SWEEP_SECONDS = 30.0

logger = logging.getLogger("vector_index.worker")


@signals.worker_init.connect
@ends_on_error
def check(sender: Any, **_: Any) -> None:
    """Check settings, services and models, in the parent of all pool processes. Exits with code 2 or 3."""
    logging.getLogger("celery.worker.consumer.consumer").addFilter(RedactMessageBodies())
    if EMBED in sender.app.amqp.queues.consume_from and "thread" not in str(sender.pool_cls):
        exit_with(
            f"the queue {EMBED} needs --pool=threads: its requests run in threads of the worker process",
            ExitCode.REFUSED,
        )
    for notice in startup_checks.prepare():
        logger.info(notice)  # `up` has printed it
    shutdown.node_name.take(configuration.current().home, sender.hostname)
    metrics_endpoint.serve(forks="prefork" in str(sender.pool_cls))
    connection.close_pools()  # a forked process opens its own


@signals.worker_ready.connect
@ends_on_error
def start_background_work(sender: Any, **_: Any) -> None:
    """Start heartbeats and, in a worker that serves the embed queue, drainers, outbox poller and the first sweep."""
    shutdown.heartbeat_file.start(configuration.current().home, sender.hostname)
    HeartbeatThread.on_stuck = partial(shutdown.leave, ExitCode.STUCK)
    HeartbeatThread.on_alive = shutdown.heartbeat_file.write
    if EMBED in sender.app.amqp.queues.consume_from:
        for sentence in startup_checks.note_drift():
            logger.warning(sentence)
        background_threads.start(sender.app)
        with past_memory_limit():  # a worker also starts while the broker is full
            sender.app.send_task("tasks.sweep", expires=SWEEP_SECONDS)
    logger.info(
        "ready", extra=log_fields(worker=sender.hostname, queues=list(sender.app.amqp.queues.consume_from))
    )
