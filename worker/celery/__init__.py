"""Everything that serves only Celery and Redis: the app, the task base, leases, the life of a worker process."""

from typing import Any


def __getattr__(name: str) -> Any:
    """The app for `celery -A worker`, loaded on first use: the other modules here are imported without it."""
    if name == "app":
        from worker.celery.application import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
