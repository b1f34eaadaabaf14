"""The Celery app: queues, routes and settings.

`startup.py` and `shutdown.py` have the life of a worker process. An import leaves settings and servers alone: Celery
asks for its settings when a command needs them.
"""

import logging
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.app import trace
from click import Option
from kombu.entity import Queue

from worker import configuration, wiring
from worker.celery import startup_checks
from worker.celery.exits import ends_on_error, exit_with
from worker.celery.heartbeat import HeartbeatThread
from worker.celery.leases import RESTORE_SECONDS, VISIBILITY_TIMEOUT_SECONDS
from worker.celery.log_filters import HideReplacements, ShortenSchedulingErrors
from worker.celery.own_addresses import OwnAddresses
from worker.celery.remote_control import ApplicationControl
from worker.celery.scheduler import SchedulerStep
from worker.celery.shutdown import StopInTime
from worker.celery.startup import SWEEP_SECONDS
from worker.celery.upstream import registry
from worker.configuration.addresses import celery_settings
from worker.exit_codes import ExitCode
from worker.keyspace import CHAT, CONTROL, EMBED, QUEUES, STAGING, UNACKED, UNACKED_INDEX
from worker.observability import logs
from worker.sources.scheduling import look_seconds
from worker.store import connection

TASK_MODULES = (
    "tasks.chat",
    "tasks.embedding",
    "tasks.indexes",
    "tasks.indexing",
    "tasks.maintenance",
    "tasks.outbox",
    "tasks.rebuilding",
    "tasks.reindexing",
    "tasks.retrieval",
    "tasks.schedule",
    "tasks.status",
)

STATIC: dict[str, Any] = {
    "task_queues": [Queue(name) for name in QUEUES],  # type: ignore[no-untyped-call]
    "task_default_queue": STAGING,
    "task_create_missing_queues": False,  # a typo in a queue's name is an error
    "task_routes": {
        "tasks.await_indexing": EMBED,
        "tasks.await_jobs": EMBED,
        "tasks.sweep": EMBED,
        "tasks.search": CHAT,
        "tasks.chat": CHAT,
        "tasks.embed_texts": CHAT,
        "tasks.find_similar": CHAT,
        "tasks.status": CHAT,
        "tasks.failures": CHAT,
        "tasks.pause": CHAT,
        "tasks.resume": CHAT,
        "tasks.schedule": CHAT,
        "tasks.due": CHAT,  # it takes milliseconds; a backlog in the other queues would delay it
    },
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "task_acks_late": True,
    # The message of a dead pool process is sent again, and fails at the third death (worker/celery/requests.py).
    "task_retry_on_worker_lost": True,
    "task_reject_on_worker_lost": True,  # requeue it if the broker refuses it
    "task_track_started": True,
    "control_exchange": CONTROL,
    "worker_consumer": "worker.celery.batching:BatchingConsumer",
    "worker_prefetch_multiplier": 1,
    "worker_pool": "threads",  # for all queues; staging alone can use --pool=prefork
    "worker_concurrency": 64,  # each waiting task sleeps in a slot
    "worker_send_task_events": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_deduplicate_successful_tasks": True,
    "worker_hijack_root_logger": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_transport_options": {
        "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,  # short, because leases are renewed
        "unacked_key": UNACKED,
        "unacked_index_key": UNACKED_INDEX,
        "unacked_restore_interval": RESTORE_SECONDS,
        "health_check_interval": 25,
        "socket_connect_timeout": 5,
        "socket_timeout": 30,
        "socket_keepalive": True,
    },
    "result_backend_always_retry": True,
    "result_expires": 86_400,  # a day
    "result_failure_expires": 604_800,  # a week
    "result_extended": False,  # True would store the arguments with the result
    "beat_scheduler": "celery.beat:Scheduler",  # in memory; due times are in Postgres
    "beat_schedule": {
        "sweep": {"task": "tasks.sweep", "schedule": SWEEP_SECONDS, "options": {"expires": SWEEP_SECONDS}},
    },
}

# Celery's log messages on tasks -> names of our log events
TASK_EVENTS = {
    trace.LOG_RECEIVED: "task_received",
    trace.LOG_SUCCESS: "task_succeeded",
    trace.LOG_FAILURE: "task_failed",
    trace.LOG_INTERNAL_ERROR: "task_failed",
    trace.LOG_IGNORED: "task_ignored",
    trace.LOG_REJECTED: "task_rejected",
    trace.LOG_RETRY: "task_retried",
}

app = OwnAddresses(
    "vector_index",
    task_cls="worker.celery.task:BaseTask",
    amqp="worker.celery.upstream.channel:AMQP",
    loader="worker.celery.upstream.results:Loader",
    # DJANGO_SETTINGS_MODULE may be set for a source: Celery's fixup would set up the application's Django here
    fixups=(),
)
app.steps["consumer"].add(HeartbeatThread)
app.steps["consumer"].add(ApplicationControl)
app.steps["worker"].add(StopInTime)
app.steps["worker"].add(SchedulerStep)
app.user_options["worker"].add(Option(["--periodic"], is_flag=True, help="Also send periodic tasks."))


@app.on_configure.connect
@ends_on_error
def configure(sender: Celery, **_: Any) -> None:
    """Read the settings when a command needs them; a mistake in them ends the command with its sentence."""
    spec = find_spec("tasks")
    ours = Path(__file__).parents[2] / "tasks"
    if spec is None or spec.origin is None or Path(spec.origin).parent != ours:
        where = spec.origin if spec else "nothing"
        exit_with(
            f"`import tasks` finds {where}, not the tasks of vector-index-worker: start with `vector-index worker`",
            ExitCode.REFUSED,
        )
    # Celery puts the working folder first on the path before it imports our modules: import the package before that
    import_module("tasks")
    addresses = celery_settings(wiring.addresses().broker_url, wiring.result_backend())
    registry.install()
    entries = STATIC["beat_schedule"] | beat_entries()
    sender.backend_cls = addresses["result_backend"]
    sender.config_from_object(
        {
            **STATIC,
            "beat_schedule": entries,
            **addresses,
            "include": TASK_MODULES,
        }
    )


def beat_entries() -> dict[str, Any]:
    """Add the task that looks for due schedules, if the settings have a schedule."""
    schedules = startup_checks.schedules().values()
    # as long as a sweep's, not until the next message: the clocks of machines differ by seconds
    options = {"expires": SWEEP_SECONDS}
    entry = {"task": "tasks.due", "schedule": look_seconds(schedules), "options": options}
    return {"due": entry} if schedules else {}


@signals.setup_logging.connect
@ends_on_error
def log(loglevel: int, **_: Any) -> None:
    """Set up our log in place of Celery's, which contains results."""
    events = {message.strip(): event for message, event in TASK_EVENTS.items()}
    logs.setup(loglevel, configuration.current().vector_index_log_format, events)
    logging.getLogger("celery.app.trace").addFilter(HideReplacements())
    logging.getLogger("celery.beat").addFilter(ShortenSchedulingErrors())
    app.log.redirect_stdouts(app.conf.worker_redirect_stdouts_level)  # what a plugin prints
    registry.warn()


@signals.beat_init.connect
@ends_on_error
def start_beat(**_: Any) -> None:
    """Apply changed schedules; a worker does the same, whichever starts first."""
    startup_checks.check_broker()
    startup_checks.sync_schedules()
    connection.close_pools()
