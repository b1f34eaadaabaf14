"""Tasks during an outage of the broker."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery
from celery.events import EventDispatcher

from tests.fixtures.proxy import Proxy
from worker.celery.task import BaseTask


@pytest.fixture
def proxy(broker_url: str) -> Iterator[Proxy]:
    with Proxy(urlsplit(broker_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
def task(broker_url: str, proxy: Proxy) -> Iterator[Any]:
    """A task in this process; its result goes to the broker directly, its events through the proxy."""
    through = broker_url.replace(f":{urlsplit(broker_url).port}/", f":{proxy.port}/")
    app = Celery("away", task_cls=BaseTask, broker=through, backend=broker_url, set_as_current=False)
    app.conf.update(worker_send_task_events=True, result_expires=None)

    @app.task(name="tasks.tell", shared=False)  # type: ignore[untyped-decorator]
    def tell() -> None: ...

    task: Any = app.tasks["tasks.tell"]
    task.push_request(id="7", argsrepr="1 document", headers=None, shadow=None)
    yield task
    app.close()


def test_task_continues_when_its_progress_event_cannot_be_sent(task: Any, proxy: Proxy) -> None:
    """A connection that breaks while the event is sent raises redis' own error, not kombu's."""
    raised = []

    class CutOff(EventDispatcher):  # type: ignore[misc]
        def send(self, *args: Any, **kwargs: Any) -> None:
            proxy.cut()
            try:
                super().send(*args, **kwargs)
            except redis.ConnectionError as error:
                raised.append(error)
                raise

    task.app.events.dispatcher_cls = CutOff
    task.update_state(state="PROGRESS", meta={"done": 2})
    found = task.AsyncResult("7")
    assert raised
    assert (found.state, found.info) == ("PROGRESS", {"done": 2})
