"""Callbacks of an application run once, on its own workers, whichever queue it names."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery, Signature, chain, chord, group

from tests.fixtures.system import CELERY, CHAT, PATIENCE_SECONDS, STAGING, System, eventually

pytestmark = pytest.mark.slow

OURS = (STAGING, f"{STAGING}.embed", CHAT)
DOCUMENTS = [{"id": 1, "text": "A callback tells the application."}]

SHOP = """
import redis
from celery import Celery

app = Celery("shop", broker={broker!r}, backend={broker!r})
ran = redis.Redis.from_url({broker!r})

@app.task(name="shop.note")
def note(given=None, name=""):
    ran.rpush("ran:" + name, "x")
    return name

@app.task(name="shop.make")
def make(given=None):
    return [{{"id": 2, "text": "Made by the application."}}]
"""

# `vector-index` with a task of its own: it retries twice, replaces itself, and then succeeds
FLAKY = """
import sys
from worker.celery.application import app

@app.task(name="tasks.flaky", bind=True, max_retries=None)
def flaky(self, attempts=2, fails=False):
    if attempts and self.request.retries < attempts:
        raise self.retry(countdown=0)
    if attempts:
        raise self.replace(flaky.si(attempts=0, fails=fails))
    if fails:
        raise ZeroDivisionError
    return "done"

from worker.cli import main
sys.exit(main())
"""


class Shop(System):
    """The application's own worker, and what its callbacks did."""

    @property
    def note(self) -> Callable[..., Signature]:
        return lambda name, **options: self.app.signature("shop.note", kwargs={"name": name}, options=options)

    def ran(self, name: str) -> int:
        with redis.Redis.from_url(self.environment["BROKER_URL"]) as client:
            return int(client.llen(f"ran:{name}"))


@pytest.fixture(scope="module")
def system(start_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with start_system(tmp_path_factory.mktemp("callbacks"), {}) as system:
        system.start("ours", ["-c", FLAKY, "worker"], sys.executable)
        system.await_queues(*OURS)
        yield system


@pytest.fixture(scope="module")
def shop(system: System) -> Iterator[Shop]:
    (system.folder / "shop.py").write_text(SHOP.format(broker=system.environment["BROKER_URL"]))
    shop = Shop(folder=system.folder, environment=system.environment)
    arguments = ["-A", "shop", "worker", "--pool=threads", "--queues=celery,counter", "--hostname=shop@%h"]
    shop.start("shop", arguments, program=CELERY)
    try:
        shop.await_queues("celery", "counter")
        yield shop
    finally:
        shop.stop()


@contextmanager
def watched(system: System) -> Iterator[list[str]]:
    """The names of all tasks that were put into a queue of ours meanwhile."""
    url = system.environment["BROKER_URL"]
    database = int(url.rpartition("/")[2])  # MONITOR also shows the others, which belong to other tests
    names: list[str] = []
    with redis.Redis.from_url(url) as client, client.monitor() as monitor:

        def read() -> None:
            for command in monitor.listen():
                words = command["command"].split(" ", 2)
                if words[0] == "ECHO" and words[1] == end:
                    return
                if command["db"] == database and words[0] in PUSHES and words[1].startswith(STAGING):
                    payload = words[2]
                    names.append(json.loads(payload.encode().decode("unicode_escape"))["headers"]["task"])

        end = uuid4().hex
        reader = Thread(target=read)
        reader.start()
        try:
            yield names
        finally:
            client.echo(end)
            reader.join(PATIENCE_SECONDS)


PUSHES = ("LPUSH", "RPUSH")
QUEUES = pytest.mark.parametrize(
    "options", [{}, {"queue": "counter"}], ids=["without a queue", "with a named queue"]
)


def indexing(system: System, **options: Any) -> Signature:
    kwargs = {"documents": DOCUMENTS}
    return system.app.signature(
        "tasks.index_documents", kwargs=kwargs, options={"queue": STAGING, **options}, immutable=True
    )


def settle(shop: Shop, names: Sequence[str]) -> None:
    eventually(lambda: all(shop.ran(name) for name in names))
    shop.app.send_task("shop.make").get(timeout=PATIENCE_SECONDS)
    shop.app.send_task("shop.make", queue="counter").get(timeout=PATIENCE_SECONDS)


@QUEUES
def test_callbacks_run_once_on_the_applications_worker(
    shop: Shop, system: System, options: dict[str, Any]
) -> None:
    app: Celery = system.app
    run = uuid4().hex
    unknown = app.signature("tasks.search", kwargs={"query": "x", "index": "unknown"}, queue=CHAT)

    def note(name: str, **more: Any) -> Signature:
        names.append(run + name)
        return shop.note(run + name, **options, **more)

    names: list[str] = []
    with watched(system) as ours:
        waits = [
            indexing(system).apply_async(link=note("link")),
            indexing(system).apply_async(link=[note("first link"), note("second link")]),
            indexing(system).apply_async(link=group([note("in group"), note("too")], app=app)),
            indexing(system).apply_async(link=chain(note("in chain"), note("after it"), app=app)),
            chain(indexing(system), note("next"), note("last"), app=app).apply_async(),
            chain(indexing(system), group([note("a"), note("b")], app=app), note("c"), app=app).apply_async(),
            chord([indexing(system)] * 2, note("body"), app=app).apply_async(),
            chord([indexing(system), note("header")], note("mixed body"), app=app).apply_async(),
            group([indexing(system, link=note("member"))], app=app).apply_async(),
            app.signature("tasks.flaky", queue=STAGING).apply_async(link=note("after retries")),
        ]
        fails = [
            unknown.apply_async(link_error=note("error")),
            chord([unknown], note("never").on_error(note("chord error")), app=app).apply_async(),
            chain(unknown, note("not reached"), app=app).apply_async(link_error=note("chain error")),
        ]
        names = [name for name in names if not name.endswith(("never", "not reached"))]
        for sent in waits:
            sent.get(timeout=PATIENCE_SECONDS)
        for sent in fails:
            with pytest.raises(Exception, match="unknown"):
                sent.get(timeout=PATIENCE_SECONDS)
        settle(shop, names)
    assert {name: shop.ran(name) for name in names} == dict.fromkeys(names, 1)
    assert shop.ran(run + "never") == shop.ran(run + "not reached") == 0
    assert {name.partition(".")[0] for name in ours} == {"tasks"}
