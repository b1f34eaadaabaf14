"""What a task does when the broker goes away in the middle of it."""

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
    """One that runs here, whose result stands in the broker itself and whose events go through the proxy."""
    through = broker_url.replace(f":{urlsplit(broker_url).port}/", f":{proxy.port}/")
    app = Celery("away", task_cls=BaseTask, broker=through, backend=broker_url, set_as_current=False)
    app.conf.update(worker_send_task_events=True, result_expires=None)

    @app.task(name="tasks.tell", shared=False)  # type: ignore[untyped-decorator]
    def tell() -> None: ...

    task: Any = app.tasks["tasks.tell"]
    task.push_request(id="7", argsrepr="1 document", headers=None, shadow=None)
    yield task
    app.close()


def test_progress_that_no_monitor_can_be_told_is_no_failure(task: Any, proxy: Proxy) -> None:
    """Where the connection was there and is lost as the event goes out, redis' own error comes, not kombu's."""
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
