"""Flower, and other monitors that run on our app: what they must not show, whoever sent it.

Workers tell no arguments and no results of searches (worker/celery/broker.py); these are the two ways around them.
"""

import sys
from typing import Any

from celery.events.receiver import EventReceiver


def guard() -> None:
    """For a process of our app; where no monitor runs, it changes nothing that is used."""
    _hide_sent_arguments()
    _hide_results()


def _hide_sent_arguments() -> None:
    """An application with `task_send_sent_event` tells all monitors of its broker what it sends, up to 1 kB of text."""
    original: Any = EventReceiver.event_from_message

    def event_from_message(self: Any, body: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if body.get("type") == "task-sent":
            body = {key: value for key, value in body.items() if key not in ("args", "kwargs")}
        return original(self, body, *args, **kwargs)

    if not hasattr(original, "guarded"):
        event_from_message.guarded = True  # type: ignore[attr-defined]
        EventReceiver.event_from_message = event_from_message


def _hide_results() -> None:
    """Flower's API answers with any stored result, passages and answers too, which are for those who asked.

    Celery imports Flower, where it is installed, with its commands; elsewhere there is nothing to guard.
    """
    if (api := sys.modules.get("flower.api.tasks")) is not None:
        api.TaskResult.get = _refuse


def _refuse(handler: Any, *_: str) -> None:
    handler.set_status(404)
    handler.finish("results are for the application that asked: it reads them from the result backend")
