"""Flower and other monitors on our app: hide the texts that reach them past the worker's argument summaries."""

from typing import Any

from celery.events.receiver import EventReceiver

_event_from_message = EventReceiver.event_from_message


def event_from_message(self: Any, body: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Remove the arguments from `task-sent` events: the sender writes them, up to 1 kB of text."""
    if body.get("type") == "task-sent":
        body = {key: value for key, value in body.items() if key not in ("args", "kwargs")}
    return _event_from_message(self, body, *args, **kwargs)


def refuse_result(handler: Any, *_: str) -> None:
    """Answer 404 for a stored result: passages and answers belong to the application that asked."""
    handler.set_status(404)
    handler.finish("results are for the application that asked: it reads them from the result backend")
