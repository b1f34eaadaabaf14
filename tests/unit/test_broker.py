"""What a worker logs of messages that it cannot take, and the beat of those that it cannot send."""

import logging

import pytest
from celery.beat import SchedulingError
from celery.worker.consumer import consumer

from worker.broker import HideBodies, OneLine


@pytest.mark.parametrize(
    ("message", "values", "shown"),
    [
        (consumer.UNKNOWN_FORMAT, ("secret text",), ""),
        (consumer.UNKNOWN_TASK_ERROR, ("'tasks.nope'", "secret text", "secret", "text"), "tasks.nope"),
        (consumer.INVALID_TASK_ERROR, (ValueError("no id"), "secret text"), "no id"),
        (consumer.MESSAGE_DECODE_ERROR, (ValueError("bad"), "j", "u", "{}", "secret text"), "bad"),
    ],
)
def test_the_reason_is_logged_and_the_body_is_not(
    message: str, values: tuple[object, ...], shown: str
) -> None:
    record = logging.LogRecord("celery", logging.ERROR, "", 0, message, values, None)
    assert HideBodies().filter(record)
    assert shown in record.getMessage()
    assert "secret" not in record.getMessage()


def test_other_messages_keep_their_values() -> None:
    """Why the broker cannot be reached stood behind `(hidden)` once."""
    values = ("redis://host", "Connection refused", "Trying again")
    record = logging.LogRecord("celery", logging.ERROR, "", 0, consumer.CONNECTION_ERROR, values, None)
    HideBodies().filter(record)
    assert "Connection refused" in record.getMessage()


def test_the_beat_says_in_one_line_that_the_broker_does_not_answer() -> None:
    error = SchedulingError("Couldn't apply scheduled task due: Connection refused.")
    values = (error, ["a stack", "of frames"])
    raised = (SchedulingError, error, None)
    record = logging.LogRecord("celery.beat", logging.ERROR, "", 0, "Message Error: %s\n%s", values, raised)
    assert OneLine().filter(record)
    assert logging.Formatter().format(record) == str(error)
