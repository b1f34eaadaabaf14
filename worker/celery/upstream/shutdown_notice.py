"""Celery's notice at a signal, printed beside the log: the log has `stopping` instead."""

from typing import Any


def print_nothing(*_: Any) -> None:
    """Keep JSON logs free of Celery's `worker: Warm shutdown (MainProcess)`."""
