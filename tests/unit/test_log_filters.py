"""Filters for Celery's own log records."""

import logging

import pytest
from celery.beat import SchedulingError
from celery.worker.consumer import consumer

from worker.celery.log_filters import HideReplacements, RedactMessageBodies, ShortenSchedulingErrors
from worker.observability.logs import Text


@pytest.mark.parametrize(
    ("message", "values", "shown"),
    [
        (consumer.UNKNOWN_FORMAT, ("secret text",), ""),
        (consumer.UNKNOWN_TASK_ERROR, ("'tasks.nope'", "secret text", "secret", "text"), "tasks.nope"),
    ],
)
def test_a_refused_message_is_logged_without_its_body(
    message: str, values: tuple[object, ...], shown: str
) -> None:
    """In one line: Celery logs a page and a traceback for a mistyped task name."""
    raised = (KeyError, KeyError("nope"), None)
    record = logging.LogRecord("celery", logging.ERROR, "", 0, message, values, raised)
    assert RedactMessageBodies().filter(record)
    line = Text({}).format(record)
    assert "celery: message_refused error=" in line
    assert shown in line
    assert "secret" not in line
    assert "\n" not in line


def test_other_records_keep_their_values() -> None:
    """Such as the reason why the broker is unreachable."""
    values = ("redis://host", "Connection refused", "Trying again")
    record = logging.LogRecord("celery", logging.ERROR, "", 0, consumer.CONNECTION_ERROR, values, None)
    RedactMessageBodies().filter(record)
    assert "Connection refused" in record.getMessage()


def test_beat_logs_an_unreachable_broker_in_one_line() -> None:
    error = SchedulingError("Couldn't apply scheduled task due: Connection refused.")
    values = (error, ["a stack", "of frames"])
    raised = (SchedulingError, error, None)
    record = logging.LogRecord("celery.beat", logging.ERROR, "", 0, "Message Error: %s\n%s", values, raised)
    assert ShortenSchedulingErrors().filter(record)
    assert logging.Formatter().format(record) == str(error)


@pytest.mark.parametrize(("reason", "shown"), [("Ignore('Replaced by new task')", False), ("Ignore()", True)])
def test_a_task_that_another_one_continues_is_not_reported_as_ignored(reason: str, shown: bool) -> None:
    record = logging.LogRecord("celery.app.trace", logging.INFO, "", 0, "Task ignored", (), None)
    record.data = {"name": "tasks.index_documents", "id": "1", "exc": reason}
    assert HideReplacements().filter(record) is shown
