"""Callbacks: the signatures that an application attached to a task of ours, which our workers send on.

`link`, `link_error`, the next step of a chain and the body of a chord arrive inside the message, and the worker that
runs the task sends them. Our routes are not for them: they go to the queue that the application named, and without
one to Celery's default queue. No queue of ours gets a task that we do not have.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from celery.app import routes
from kombu.entity import Queue
from kombu.exceptions import EncodeError, OperationalError

from worker.celery.upstream.memory_limit import past_memory_limit
from worker.keyspace import QUEUES

DEFAULT_QUEUE = "celery"  # where Celery sends a task without a queue
BUILT_IN = "celery."  # prefix of celery.accumulate and others, which every app has

# Ten minutes: the task is done, and its message comes back if this worker has lost its connection.
RETRY_POLICY = {"max_retries": 45, "interval_start": 0, "interval_step": 1, "interval_max": 15}

_is_callback: ContextVar[bool] = ContextVar("is_callback", default=False)


class Router(routes.Router):
    """Routes our own tasks by the settings, and all others as an app with Celery's default settings does."""

    def route(
        self, options: dict[str, Any], name: str, args: Any = (), kwargs: Any = None, task_type: Any = None
    ) -> Any:
        if _is_callback.get():
            options = {"retry_policy": RETRY_POLICY, **options}
        is_ours = name in self.app.tasks and not name.startswith(BUILT_IN)
        if is_ours and _queue_name(options) in ("", *QUEUES):
            return super().route(options, name, args, kwargs, task_type)
        return _route_of_application(options)


def publish(send: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Send a callback of a task that is done. Raises EncodeError, which fails the task, if it cannot be sent."""
    token = _is_callback.set(True)
    try:
        with past_memory_limit():
            return send(*args, **kwargs)
    except OperationalError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a signature of the application causes
        name, kind = getattr(send, "__self__", {}).get("task"), type(error).__name__
        raise EncodeError(
            f"the task is done, but its callback {name} cannot be sent ({kind}): correct the options of its signature"
        ) from None
    finally:
        _is_callback.reset(token)


def _route_of_application(options: dict[str, Any]) -> dict[str, Any]:
    queue = _queue_name(options)
    exchange, routing_key = options.get("exchange"), options.get("routing_key")
    if not queue and exchange and routing_key and exchange not in QUEUES:
        return options
    kept = {key: value for key, value in options.items() if key not in ("exchange", "routing_key")}
    name = DEFAULT_QUEUE if queue in ("", *QUEUES) else queue
    return {**kept, "queue": Queue(name)}  # type: ignore[no-untyped-call]


def _queue_name(options: Mapping[str, Any]) -> str:
    queue = options.get("queue")
    return queue.name if isinstance(queue, Queue) else str(queue or "")
