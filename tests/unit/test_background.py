"""Background threads repeat their step whatever it raises, and stop in time."""

import logging
import threading

import pytest

from tests.fixtures.system import PATIENCE_SECONDS
from worker.errors import ServiceUnreachable, TemporaryError
from worker.indexing import background
from worker.indexing.background import BackgroundThread


def test_a_thread_survives_an_internal_error_and_logs_only_its_class(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.01)
    stopping, errors = threading.Event(), [ValueError("Words of a document."), None]

    def step() -> None:
        if (error := errors.pop(0)) is not None:
            raise error
        stopping.set()

    thread = background_thread(step, stopping)
    thread.start()
    assert thread.join(PATIENCE_SECONDS)
    assert errors == []
    assert "it failed" in caplog.text
    assert "ValueError" in caplog.text
    assert "Words of a document" not in caplog.text


def test_an_unreachable_service_is_handed_on_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    stopping, away = threading.Event(), ServiceUnreachable("Postgres is away")
    handed_on: list[TemporaryError] = []

    def step() -> None:
        raise away

    def on_unreachable(error: TemporaryError) -> None:
        handed_on.append(error)
        stopping.set()

    thread = background_thread(step, stopping, on_unreachable)
    thread.start()
    assert thread.join(PATIENCE_SECONDS)
    assert handed_on == [away]
    assert not caplog.records


def test_joining_tells_whether_the_thread_has_ended() -> None:
    stopping, over = threading.Event(), threading.Event()
    thread = background_thread(lambda: over.wait(PATIENCE_SECONDS), stopping)
    assert thread.join(0.0)  # it was not started
    thread.start()
    stopping.set()
    assert not thread.join(0.0)
    over.set()
    assert thread.join(PATIENCE_SECONDS)


def background_thread(step, stopping, on_unreachable=lambda error: None):  # type: ignore[no-untyped-def]
    return BackgroundThread(
        "test",
        step,
        stopping=stopping,
        on_unreachable=on_unreachable,
        logger=logging.getLogger("vector_index.test"),
        failure="it failed",
    )
