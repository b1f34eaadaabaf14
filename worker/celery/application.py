"""The Celery app: queues, routes and settings. What a worker does from start to end: worker/celery/lifecycle.py.

Nothing is read or connected at import; Celery asks for its settings when a command needs them.
"""

import logging
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.app import trace
from celery.apps import worker as celery_worker
from kombu.entity import Queue

from worker import configuration, wiring
from worker.celery import startup
from worker.celery.broker import RESTORE_SECONDS, VISIBILITY_TIMEOUT_SECONDS, LeaseHeartbeat, OneLine
from worker.celery.lifecycle import SWEEP_SECONDS, EndInTime, end, end_with
from worker.celery.upstream import flower
from worker.errors import VectorIndexError
from worker.keyspace import CHAT, EMBED, QUEUES, STAGING, UNACKED, UNACKED_INDEX
from worker.observability import logs
from worker.sources.scheduling import look_seconds
from worker.store import connection

TASK_MODULES = (
    "tasks.chat",
    "tasks.indexes",
    "tasks.indexing",
    "tasks.outbox",
    "tasks.reindexing",
    "tasks.retrieval",
    "tasks.schedule",
    "tasks.upkeep",
)

STATIC: dict[str, Any] = {
    "task_queues": [Queue(name) for name in QUEUES],  # type: ignore[no-untyped-call]
    "task_default_queue": STAGING,
    "task_create_missing_queues": False,  # a typo in a queue's name is an error, not a silent new queue
    "task_routes": {
        "tasks.embed": EMBED,
        "tasks.sweep": EMBED,
        "tasks.search": CHAT,
        "tasks.chat": CHAT,
        "tasks.find_similar": CHAT,
        "tasks.status": CHAT,
        "tasks.failures": CHAT,
        "tasks.pause": CHAT,
        "tasks.resume": CHAT,
        "tasks.schedule": CHAT,
        "tasks.due": CHAT,  # it takes milliseconds, and the backlog that fills the other queues must not delay it
    },
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "task_acks_late": True,
    # a process of the pool that dies: its message is sent again, and fails the third time (worker/celery/broker.py)
    "task_retry_on_worker_lost": True,
    "task_reject_on_worker_lost": True,  # where it cannot be sent, it stays
    "task_track_started": True,
    "worker_prefetch_multiplier": 1,
    "worker_pool": "threads",  # one worker for all queues; staging on processes of its own: --pool=prefork
    "worker_concurrency": 64,  # waiting tasks sleep in a slot each
    "worker_send_task_events": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_deduplicate_successful_tasks": True,
    "worker_hijack_root_logger": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_transport_options": {
        "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,  # short, as leases are renewed: worker/celery/broker.py
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
    "result_failure_expires": 604_800,  # a week, to be looked into
    "result_extended": False,  # it would store arguments with the result
    "beat_scheduler": "celery.beat:Scheduler",  # in memory: due times stand in Postgres
    "beat_schedule": {
        "sweep": {"task": "tasks.sweep", "schedule": SWEEP_SECONDS, "options": {"expires": SWEEP_SECONDS}},
    },
}

# how the log calls what Celery tells of a run of a task
TASK_EVENTS = {
    trace.LOG_RECEIVED: "task_received",
    trace.LOG_SUCCESS: "task_succeeded",
    trace.LOG_FAILURE: "task_failed",
    trace.LOG_INTERNAL_ERROR: "task_failed",
    trace.LOG_IGNORED: "task_ignored",
    trace.LOG_REJECTED: "task_rejected",
    trace.LOG_RETRY: "task_retried",
}

# no fixups: where DJANGO_SETTINGS_MODULE is set for a source, Celery's would set up the application's Django in here
app = Celery("vector_index", task_cls="worker.celery.broker:HiddenTask", fixups=())
app.steps["consumer"].add(LeaseHeartbeat)
app.steps["worker"].add(EndInTime)


@app.on_configure.connect
def configure(sender: Celery, **_: Any) -> None:
    """Read the settings at the last moment; a mistake in them ends the command with its sentence."""
    spec = find_spec("tasks")
    ours = Path(__file__).parents[2] / "tasks"
    if spec is None or spec.origin is None or Path(spec.origin).parent != ours:
        where = spec.origin if spec else "nothing"
        end(
            f"`import tasks` finds {where}, not the tasks of vector-index-worker: start with `vector-index worker`",
            2,
        )
    # Celery imports our modules with the working folder first on the path: what is loaded stays ours
    import_module("tasks")
    try:
        broker, results = wiring.addresses().broker_url, wiring.result_backend()
    except VectorIndexError as error:
        end_with(error)
    flower.guard()
    entries = STATIC["beat_schedule"] | beat_entries()
    sender.config_from_object(
        {
            **STATIC,
            "beat_schedule": entries,
            "broker_url": broker,
            "result_backend": results,
            "include": TASK_MODULES,
        }
    )


def beat_entries() -> dict[str, Any]:
    """A look for what is due, where the settings have a schedule."""
    schedules = startup.schedules().values()
    # a message is good for as long as a sweep's, not until the next one: clocks of machines differ by seconds
    options = {"expires": SWEEP_SECONDS}
    entry = {"task": "tasks.due", "schedule": look_seconds(schedules), "options": options}
    return {"due": entry} if schedules else {}


@signals.setup_logging.connect
def log(loglevel: int, **_: Any) -> None:
    """In place of Celery's own lines, which hold results."""
    events = {message.strip(): event for message, event in TASK_EVENTS.items()}
    logs.setup(loglevel, configuration.current().vector_index_log_format, events)
    app.log.redirect_stdouts(app.conf.worker_redirect_stdouts_level)  # what a plugin prints
    celery_worker.safe_say = lambda *_: None  # its remark at a signal is no line of ours: `stopping` tells it


@signals.beat_init.connect
def start_beat(**_: Any) -> None:
    """What has changed in the settings is due from now on, whichever process is started first."""
    try:
        startup.take_over_schedules()
    except VectorIndexError as error:
        end_with(error)
    connection.close_pools()
    logging.getLogger("celery.beat").addFilter(OneLine())
