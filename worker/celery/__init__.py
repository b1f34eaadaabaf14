"""Celery and Redis: the app, the base of tasks and requests, leases, and the life of a worker process."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Load the app for `celery -A worker` on first use: the other modules can be imported without it."""
    if name == "app":
        from worker.celery.application import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
