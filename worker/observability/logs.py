"""Log format: one line per event with stable fields, as text or as JSON.

The message of our records is the name of an event in snake_case; its fields are in `extra=log_fields(...)`. Fields hold
names from the settings, counts, ids of tasks and documents, seconds, and error messages. Texts, questions and API keys
stay out of log lines.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from worker.observability.printing import dumps, printable

SHOWN_IDS = 20  # ids in one event; `documents` has the number of all

# by the message of a Celery record as it is in Celery's code: the name of the event
Events = Mapping[str, str]


def log_fields(**values: object) -> dict[str, dict[str, object]]:
    """The fields of an event, for the argument `extra` of a logger's methods; leaves out values that are `None`."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


def document_fields(ids: Sequence[str]) -> dict[str, object]:
    """The fields `documents`, their number, and `ids`, the first SHOWN_IDS of them."""
    return {"documents": len(ids), "ids": list(ids[:SHOWN_IDS])}


def setup(level: int, form: str, events: Events) -> None:
    """Log to stderr: our records from `level` on, Celery's from INFO on, and all others from WARNING on.

    Below that, libraries log whole messages and requests. `form` is "text" or "json".
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines(events) if form == "json" else Text(events))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("vector_index").setLevel(level)
    for name in ("celery", "kombu", "billiard"):
        logging.getLogger(name).setLevel(max(level, logging.INFO))


class _Formatter(logging.Formatter):
    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events

    def event(self, record: logging.LogRecord) -> dict[str, Any]:
        """The event of a record and its fields, in the order of the line."""
        ours = getattr(record, "fields", None)
        if isinstance(ours, dict):
            return {"event": record.msg, **ours}
        about = getattr(record, "data", None)
        if isinstance(about, dict) and record.msg.strip() in self._events:
            return {"event": self._events[record.msg.strip()]} | _of_task(about)
        if record.name == "stamina":
            return {"event": "tried_again"} | _of_retry(vars(record))
        return {"event": "message", "message": record.getMessage()}

    def trace(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else None


class JSONLines(_Formatter):
    """One JSON object per line: time (UTC, ISO 8601), level, logger, event, then the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        values = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self.event(record),
        }
        if trace := self.trace(record):
            values["traceback"] = trace
        return dumps(values)


class Text(_Formatter):
    """`time LEVEL logger: event field=value ...`; values with spaces are quoted as in JSON, tracebacks follow below."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        values = self.event(record)
        event = values.pop("event")
        # a plain message has no event name in front
        shown = [values["message"]] if event == "message" else [event, *_pairs(values)]
        line = f"{moment}.{int(record.msecs):03} {record.levelname:<7} {record.name}: {' '.join(shown)}"
        trace = self.trace(record)
        return printable(f"{line}\n{trace}" if trace else line)


def _of_task(about: Mapping[str, Any]) -> dict[str, object]:
    """The fields of Celery's events about a task run, without its arguments and result."""
    values = {"task": about.get("name"), "task_id": about.get("id")}
    if (seconds := about.get("runtime")) is not None:
        values["seconds"] = round(seconds, 3)
    if (error := about.get("exc")) is not None:
        values["error"] = str(error)
    return values


def _of_retry(about: Mapping[str, Any]) -> dict[str, object]:
    """The fields of stamina's retries. Only the class of the error: its message may be Postgres quoting a row."""
    error, seconds = str(about["stamina.caused_by"]), float(about["stamina.wait_for"])
    return {
        "attempt": about["stamina.retry_num"],
        "seconds": round(seconds, 3),
        "error": error.partition("(")[0],
    }


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_quoted(value)}" for name, value in values.items()]


def _quoted(value: object) -> str:
    if isinstance(value, str) and value and not set(value) & set(' "=\\') and value.isprintable():
        return value
    return dumps(value)
