"""Errors of tasks, as the sender gets them, and their progress, as monitors get it."""

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from worker.celery.retries import WAIT_FOR_SERVICES
from worker.celery.task import BaseTask, progress_text
from worker.errors import Bug, InputError, ServiceUnreachable


def test_a_bug_is_reported_with_its_kind_and_place_and_without_its_message() -> None:
    """Postgres may quote a row in it, or a parser a text; results and Flower show it for a week."""
    app = Celery("broken", task_cls=BaseTask, set_as_current=False)

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
    ("raised", "reported"),
    [
        (InputError("send less"), InputError),
        (OperationalError("connection refused"), ServiceUnreachable),  # from kombu
        (redis.ConnectionError("connection refused"), ServiceUnreachable),  # from redis-py
        (redis.exceptions.BusyLoadingError("loading"), ServiceUnreachable),
    ],
)
def test_an_expected_error_and_an_unreachable_broker_keep_their_message(
    raised: Exception, reported: type[Exception]
) -> None:
    app = Celery("ending", task_cls=BaseTask, set_as_current=False)

    @app.task(name="tasks.end", shared=False)  # type: ignore[untyped-decorator]
    def end() -> None:
        raise raised

    with pytest.raises(reported, match=str(raised)):
        end.apply().get()


@pytest.mark.parametrize("error", [OperationalError("refused"), redis.ConnectionError("closed")])
def test_a_task_that_waits_for_services_waits_for_the_broker(error: Exception) -> None:
    """An application that finds a failure, although nothing failed, would send the task again."""
    app = Celery("waiting", task_cls=BaseTask, set_as_current=False)
    errors = [error]

    @app.task(name="tasks.wait", shared=False, **WAIT_FOR_SERVICES)  # type: ignore[untyped-decorator]
    def wait() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert wait.apply().get() == "done"


def test_monitors_get_every_known_figure_of_the_progress() -> None:
    figures = {"documents": 1234, "pending_chunks": 5, "seconds": 61.4, "seconds_left": None}
    assert progress_text(figures) == "1,234 documents, 5 pending chunks, 61 seconds"
