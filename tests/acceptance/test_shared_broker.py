"""An application's own Celery workers and ours share a broker database and leave each other's messages alone."""

import time
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from tests.fixtures.system import CELERY, CHAT, PATIENCE_SECONDS, System, eventually

pytestmark = pytest.mark.slow

MESSAGES = 30
SHOP = """
import time
from celery import Celery

app = Celery("shop", broker={broker!r}, backend={broker!r})

@app.task(name="shop.add")
def add(a, b):
    return a + b

@app.task(name="shop.pack", acks_late=True)
def pack(path, seconds):
    with open(path, "a") as file:
        file.write("x")
    time.sleep(seconds)
"""


@pytest.fixture
def shop(system: System) -> Iterator[System]:
    """The application's own worker, with Celery's default queue and default settings."""
    (system.folder / "shop.py").write_text(SHOP.format(broker=system.environment["BROKER_URL"]))
    shop = System(folder=system.folder, environment=system.environment)
    shop.start("shop", ["-A", "shop", "worker", "--pool=threads", "--loglevel=INFO"], program=CELERY)
    try:
        shop.await_queues("celery")
        yield shop
    finally:
        shop.stop()


def test_workers_of_both_applications_run_their_own_tasks_only(
    shop: System, system: System, index: str
) -> None:
    app: Celery = shop.app
    added = [app.send_task("shop.add", (number, 1)) for number in range(MESSAGES)]
    indexed = [
        system.send("tasks.index_documents", documents=[{"id": n, "text": f"Number {n}."}], index=index)
        for n in range(MESSAGES)
    ]
    searched = [system.send("tasks.search", CHAT, query=str(n), index=index) for n in range(MESSAGES)]
    assert [result.get(timeout=PATIENCE_SECONDS) for result in added] == list(range(1, MESSAGES + 1))
    assert [result.get(timeout=PATIENCE_SECONDS)["indexed"] for result in indexed] == [1] * MESSAGES
    assert all(isinstance(result.get(timeout=PATIENCE_SECONDS), list) for result in searched)
    assert system.call("tasks.status", index=index)["documents"]["live"] == MESSAGES
    assert "ignored and discarded" not in shop.log("shop")
    for name in ("staging", "embed", "chat"):  # other tests write to these logs too
        assert "shop." not in system.log(name), name


def test_our_visibility_timeout_does_not_redeliver_tasks_of_the_application(
    shop: System, system: System
) -> None:
    """All workers of a broker keep what they hold under the same keys, unless they name their own.

    Ours take up after a minute what a dead worker held; the application's tasks may take an hour.
    """
    runs = system.folder / "runs"
    packed = shop.app.send_task("shop.pack", (str(runs), 16))
    eventually(runs.exists)
    with redis.Redis.from_url(system.environment["BROKER_URL"]) as broker:
        # as if the task had run for two minutes; our workers check every ten seconds
        held = broker.zrange("unacked_index", 0, -1)
        assert held
        broker.zadd("unacked_index", dict.fromkeys(held, time.time() - 120))
    packed.get(timeout=PATIENCE_SECONDS)
    assert runs.read_text() == "x"
