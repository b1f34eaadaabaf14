"""Log: one line per event, with stable keys, as text or as JSON.

A record of ours has the event as its message, a few words in snake_case, and `extra=keys(...)` beside it: names of the
settings, counts, ids of tasks and documents, seconds, and the sentence of an error. Never a text, a question or a key.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

SHOWN_IDS = 20  # of the documents of one event; `documents` counts them all

# the message of a record of Celery's, as it stands in the code, and the event that it is
Events = Mapping[str, str]


def keys(**values: object) -> dict[str, dict[str, object]]:
    """For `extra` of a logger's methods; what is None is left out."""
    return {"keys": {name: value for name, value in values.items() if value is not None}}


def documents(ids: Sequence[str]) -> dict[str, object]:
    """Keys that tell of documents: how many, and which."""
    return {"documents": len(ids), "ids": list(ids[:SHOWN_IDS])}


def setup(level: int, form: str, events: Events) -> None:
    """Let all records go to stderr: ours of this level, those of Celery from INFO on, of all else from WARNING on.

    What libraries tell below that has whole messages and requests in it. `form` is text or json.
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
        """The event of a record and its keys, in the order in which they are shown."""
        ours = getattr(record, "keys", None)
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
    """One JSON object a line: time (UTC, ISO 8601), level, logger, event, then the keys of the event."""

    def format(self, record: logging.LogRecord) -> str:
        values = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self.event(record),
        }
        if trace := self.trace(record):
            values["traceback"] = trace
        return json.dumps(values, ensure_ascii=False, default=str)


class Text(_Formatter):
    """`time LEVEL event key=value ...`, where values with spaces are quoted as in JSON; a traceback on lines below."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        values = self.event(record)
        event = values.pop("event")
        # a sentence without keys stands for itself
        shown = [values["message"]] if event == "message" else [event, *_pairs(values)]
        line = f"{moment}.{int(record.msecs):03} {record.levelname:<7} {record.name}: {' '.join(shown)}"
        trace = self.trace(record)
        return f"{line}\n{trace}" if trace else line


def _of_task(about: Mapping[str, Any]) -> dict[str, object]:
    """What Celery says of a run of a task; its arguments and its result are not among it."""
    values = {"task": about.get("name"), "task_id": about.get("id")}
    if (seconds := about.get("runtime")) is not None:
        values["seconds"] = round(seconds, 3)
    if (error := about.get("exc")) is not None:
        values["error"] = str(error)
    return values


def _of_retry(about: Mapping[str, Any]) -> dict[str, object]:
    """What stamina says: of the error only its class, as its words may be those of Postgres about a row."""
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
    return json.dumps(value, ensure_ascii=False, default=str)
