"""Batches in the process of a worker that takes messages, without a broker: what Celery calls there."""

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from kombu.asynchronous.timer import Timer

from worker.celery import batching
from worker.celery.batching import BatchingConsumer


@dataclass(eq=False)
class Message:
    """A small message, as the consumer gets it; `fails` names the method that raises an error."""

    fails: str = ""
    called: list[str] = field(default_factory=list)
    may_join = True
    is_revoked = False

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        self._call("on_accepted")

    def on_failure(self, exc_info: Any) -> None:
        self._call("on_failure")

    def _call(self, name: str) -> None:
        self.called.append(name)
        if name == self.fails:
            raise KeyError(name)


@pytest.fixture
def consumer() -> BatchingConsumer:
    """A consumer that waits for the time of its next batch; its connection is lost."""
    consumer = BatchingConsumer.__new__(BatchingConsumer)
    consumer._forget()
    consumer._next_at = time.monotonic() + 60
    consumer.timer, consumer.qos = Timer(), None
    return consumer


def test_messages_that_wait_for_the_next_batch_share_one_timer(consumer: BatchingConsumer) -> None:
    for _ in range(50):
        consumer._take(Message())  # type: ignore[arg-type]
    assert len(consumer.timer._queue) == 1
    assert len(consumer._waiting) == 50


def test_an_error_at_one_message_that_starts_leaves_the_others_alone() -> None:
    batch: Any = [Message(), Message(fails="on_accepted"), Message()]
    batching._accept(batch, 1, 0.0)
    assert [each.called for each in batch] == [["on_accepted"]] * 3


def test_an_error_at_one_message_of_a_dead_process_leaves_the_others_alone(
    consumer: BatchingConsumer,
) -> None:
    batch: Any = [Message(), Message(fails="on_failure"), Message()]
    consumer._running = [batch]
    consumer._fail(batch, SimpleNamespace(type=WorkerLostError))
    assert [each.called for each in batch] == [["on_failure"]] * 3
    assert consumer._running == []
