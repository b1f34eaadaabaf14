"""What a worker logs of messages that it cannot take, the beat of those that it cannot send, and half a result."""

import logging
import os
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from celery.beat import SchedulingError
from celery.concurrency.asynpool import ResultHandler
from celery.worker.consumer import consumer
from kombu.exceptions import OperationalError

from tasks.indexing import WAIT_FOR_SERVICES
from worker.celery.broker import HiddenTask, HideBodies, OneLine, guard_results
from worker.errors import Bug, InputError, ServiceUnreachable
from worker.observability.logs import Text


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
    """In one line: Celery writes a page about a task's name that is mistyped, and a traceback."""
    raised = (KeyError, KeyError("nope"), None)
    record = logging.LogRecord("celery", logging.ERROR, "", 0, message, values, raised)
    assert HideBodies().filter(record)
    line = Text({}).format(record)
    assert "celery: message_refused error=" in line
    assert shown in line
    assert "secret" not in line
    assert "\n" not in line


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


def test_a_result_that_is_read_in_part_when_the_connection_ends_is_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event loop forgets its readers then, and asks for the next result where half of one is left."""
    monkeypatch.setattr(ResultHandler, "_recv_message", ResultHandler._recv_message)  # to be put back
    guard_results()
    out, into = os.pipe()
    os.set_blocking(out, False)
    got: list[Any] = []
    pool: Any = SimpleNamespace(fileno_to_outq={out: SimpleNamespace()}, handle_event=None)

    def reads_on() -> bool:
        """Whether it waits for more, as the event loop asks that has just begun."""
        reading = ResultHandler._recv_message(pool, lambda *_: None, out, got.append)
        return next(reading, "ended") is None

    for number in (1, 2):
        message = pickle.dumps((number, "x" * 20_000))
        os.write(into, len(message).to_bytes(4, "big"))
        assert reads_on()
        os.write(into, message[:9_000])
        assert reads_on()
        os.write(into, message[9_000:])
        assert not reads_on()
    assert [number for number, _ in got] == [1, 2]
    os.close(out)
    os.close(into)


def test_of_a_bug_its_kind_and_its_place_are_told_and_not_its_words() -> None:
    """They are those of Postgres about a row, or of a parser about a text: results and Flower show them for a week."""
    app = Celery("broken", task_cls=HiddenTask, set_as_current=False)

    @app.task(name="tasks.break", shared=False)  # type: ignore[untyped-decorator]
    def stumble(word: str) -> None:
        try:
            {}[word]
        except KeyError as error:
            raise ValueError(f"bad text: {word}") from error

    result = stumble.apply(args=["Marrakesh"])
    with pytest.raises(Bug, match=r"\(ValueError from KeyError\); .*report it$"):
        result.get()
    assert "in stumble" in result.traceback
    assert "Marrakesh" not in result.traceback


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (InputError("send less"), InputError),
        (OperationalError("connection refused"), ServiceUnreachable),  # as kombu says it
        (
            redis.ConnectionError("connection refused"),
            ServiceUnreachable,
        ),  # and as it comes where kombu does not
        (redis.exceptions.BusyLoadingError("loading"), ServiceUnreachable),
    ],
)
def test_an_error_of_ours_and_a_broker_that_is_away_keep_their_words(
    raised: Exception, told: type[Exception]
) -> None:
    app = Celery("ending", task_cls=HiddenTask, set_as_current=False)

    @app.task(name="tasks.end", shared=False)  # type: ignore[untyped-decorator]
    def end() -> None:
        raise raised

    with pytest.raises(told, match=str(raised)):
        end.apply().get()


@pytest.mark.parametrize("error", [OperationalError("refused"), redis.ConnectionError("closed")])
def test_a_task_that_waits_for_services_waits_for_the_broker(error: Exception) -> None:
    """A task of an application that looks at its result, and finds a failure where nothing had failed, sends again."""
    app = Celery("waiting", task_cls=HiddenTask, set_as_current=False)
    errors = [error]

    @app.task(name="tasks.wait", shared=False, **WAIT_FOR_SERVICES)  # type: ignore[untyped-decorator]
    def wait() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert wait.apply().get() == "done"
