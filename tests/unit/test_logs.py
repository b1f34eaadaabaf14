"""Each line of the log is one event with its keys, as JSON."""

import json
import logging
import shlex
import sys
from collections.abc import Mapping

import pytest
import stamina

from worker.observability import logs
from worker.observability.logs import JSONLines, Text, log_fields

EVENTS = {"Task %(name)s[%(id)s] ended in %(runtime)ss: %(return_value)s": "task_succeeded"}


def record(message: str, extra: Mapping[str, object], *args: object) -> logging.LogRecord:
    logger = logging.getLogger("vector_index.test")
    return logger.makeRecord(logger.name, logging.WARNING, "file.py", 1, message, args, None, extra=extra)


def test_an_event_is_one_json_object_with_its_keys() -> None:
    line = JSONLines(EVENTS).format(
        record("documents_failed", log_fields(index="a", documents=2, error=None))
    )
    values = json.loads(line)
    assert values.pop("time").endswith("+00:00")
    assert values == {
        "level": "warning",
        "logger": "vector_index.test",
        "event": "documents_failed",
        "index": "a",
        "documents": 2,
    }


def test_a_retry_event_has_the_error_class_and_the_time_of_the_next_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without the message, because Postgres quotes rows in its messages."""
    for attempt in stamina.retry_context(on=ValueError, attempts=2, wait_initial=0.001, wait_jitter=0):
        with attempt:
            if attempt.num == 1:
                raise ValueError("of a secret")
    [told] = caplog.records
    line = Text(EVENTS).format(told)
    assert line.endswith("stamina: tried_again attempt=1 seconds=0.0 error=ValueError")


@pytest.mark.parametrize(
    "value", ["one", "two words", 'a "quoted" one', "new\nline", "", "a=b", "café", "\\"]
)
def test_an_event_is_one_line_for_any_value(value: str) -> None:
    told = record("request_failed", log_fields(error=value, inputs=3))
    line = Text(EVENTS).format(told)
    assert line.splitlines() == [line]
    assert " WARNING vector_index.test: request_failed error=" in line
    pairs = dict(pair.split("=", 1) for pair in shlex.split(line.replace("\\n", "\n"))[5:])
    assert pairs == {"error": value, "inputs": "3"}
    assert json.loads(JSONLines(EVENTS).format(told))["error"] == value


def test_a_message_without_keys_is_an_event_of_its_own() -> None:
    told = record("%d seconds are left", {}, 3)
    assert Text(EVENTS).format(told).endswith(" WARNING vector_index.test: 3 seconds are left")
    assert json.loads(JSONLines(EVENTS).format(told))["message"] == "3 seconds are left"


def test_celery_events_have_the_task_id_without_arguments_and_result() -> None:
    (message,) = EVENTS
    data = {
        "name": "tasks.chat",
        "id": "7",
        "runtime": 0.12345,
        "return_value": "a secret",
        "args": "a secret",
    }
    told = record(f"{message}\n", {"data": data}, data)
    values = json.loads(JSONLines(EVENTS).format(told))
    assert values["event"] == "task_succeeded"
    assert (values["task"], values["task_id"]) == ("tasks.chat", "7")
    assert values["seconds"] == 0.123
    assert "secret" not in Text(EVENTS).format(told) + str(values)


def test_a_traceback_is_in_the_line_of_its_event() -> None:
    try:
        raise ZeroDivisionError("of a bug")
    except ZeroDivisionError:
        logger = logging.getLogger("vector_index.test")
        told = logger.makeRecord(logger.name, logging.ERROR, "file.py", 1, "broken", (), sys.exc_info())
    line = JSONLines(EVENTS).format(told)
    assert line.splitlines() == [line]
    assert "ZeroDivisionError: of a bug" in json.loads(line)["traceback"]
    assert "ZeroDivisionError: of a bug" in Text(EVENTS).format(told).splitlines()[-1]


def test_an_event_of_many_documents_names_some_and_counts_all() -> None:
    ids = [str(number) for number in range(1000)]
    assert logs.document_fields(ids) == {"documents": 1000, "ids": ids[: logs.SHOWN_IDS]}
