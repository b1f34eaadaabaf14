"""What metrics and events cost: documents a second and CPU a document, with and without, in turn in one run.

Two sets of real worker processes, on one Postgres and one Valkey, with a database of its own each: one serves metrics,
which somebody scrapes every 15 s. Celery's events are switched on, with somebody who listens, and off while they run.
Each round goes through all four in an order of its own, so that what else the machine does meets all alike. The CPU is
that of the worker processes: a busy machine inflates it less than time.
"""

import random
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import psycopg
from celery import Celery

from benchmarks.texts import documents
from tests.fixtures.system import (
    CHAT,
    EMBED,
    PROCESSES,
    STAGING,
    System,
    eventually,
    process_tree,
    user_environment,
)
from worker import services
from worker.services import Addresses
from worker.services.home import PORTS, is_free

ROUNDS = 8
DOCUMENTS, MESSAGE = 200, 10
SCRAPE_SECONDS = 15.0  # a minute is the default of Prometheus

editions = count(1)


@dataclass(kw_only=True)
class Way:
    """One of the four, with what was measured."""

    metrics: bool
    events: bool
    seconds: list[float] = field(default_factory=list)  # a document
    cpu: list[float] = field(default_factory=list)  # seconds a document

    @property
    def name(self) -> str:
        named = {"metrics": self.metrics, "events": self.events}
        return " and ".join(name for name, on in named.items() if on) or "neither"


def main(rounds: int = ROUNDS) -> None:
    ways = [Way(metrics=metrics, events=events) for metrics in (False, True) for events in (False, True)]
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        own = stack.enter_context(services.running(home))
        ports = random.sample([port for port in random.sample(PORTS, 100) if is_free(port)], 3)
        systems = {
            False: stack.enter_context(workers(home / "without", own.addresses, "1", {})),
            True: stack.enter_context(
                workers(home / "with", own.addresses, "2", dict(zip(PROCESSES, ports, strict=False)))
            ),
        }
        stack.enter_context(scraping(ports))
        for system in systems.values():
            measure(system, Way(metrics=False, events=True))  # what is made once
        for _ in range(rounds):
            for way in random.sample(ways, len(ways)):
                measure(systems[way.metrics], way)
    report(ways)


def report(ways: Sequence[Way]) -> None:
    """Medians of each way, and of its ratios to the first in the same round."""
    for way in ways:
        seconds, cpu = (
            median(mine / least for mine, least in zip(these, those, strict=True))
            for these, those in ((way.seconds, ways[0].seconds), (way.cpu, ways[0].cpu))
        )
        print(
            f"monitoring  {way.name}: {1 / median(way.seconds):.0f} documents/s, {1000 * median(way.cpu):.2f} ms of "
            f"CPU a document; {1 / seconds:.2f} times the documents/s of neither, {cpu:.2f} times the CPU"
        )


def measure(system: System, way: Way) -> None:
    """Index documents that nobody has seen."""
    texts = documents(DOCUMENTS, edition=next(editions))
    with listening(system) if way.events else nullcontext():
        before, began = cpu_seconds(system), time.perf_counter()
        sent = [
            system.send("tasks.index_documents", documents=texts[at : at + MESSAGE])
            for at in range(0, DOCUMENTS, MESSAGE)
        ]
        for (
            task
        ) in sent:  # asked for, not waited for: `get` may miss what Redis tells it, and take two minutes
            eventually(task.ready, 300)
        assert sum(task.result["indexed"] for task in sent) == DOCUMENTS
        way.seconds.append((time.perf_counter() - began) / DOCUMENTS)
        way.cpu.append((cpu_seconds(system) - before) / DOCUMENTS)


def cpu_seconds(system: System) -> float:
    """Of all its processes so far."""
    family = [member for process in system.processes.values() for member in process_tree(process.pid)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


@contextmanager
def listening(system: System) -> Iterator[None]:
    """Workers send events, and somebody takes them, as Flower does."""
    broker = system.environment["BROKER_URL"]
    app = Celery(
        "monitor", broker=broker, set_as_current=False
    )  # of its own, as the other one waits for results
    app.control.enable_events()
    over = threading.Event()
    received = count()

    def listen() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": lambda event: next(received)})
            while not over.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.5, wakeup=False)
                except TimeoutError:
                    continue

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield
    finally:
        app.control.disable_events()
        over.set()
        thread.join()
    assert next(received) > DOCUMENTS / MESSAGE


@contextmanager
def scraping(ports: list[int]) -> Iterator[None]:
    over = threading.Event()

    def scrape() -> None:
        while True:
            for port in ports:
                with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                    assert b"vector_index_up" in answer.read()
            if over.wait(SCRAPE_SECONDS):
                return

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def workers(folder: Path, addresses: Addresses, name: str, ports: Mapping[str, int]) -> Iterator[System]:
    """The worker processes of `up`, with a database of that name in Postgres and Valkey, and no events yet."""
    with psycopg.connect(addresses.database_url, autocommit=True) as administrator:
        administrator.execute(f"CREATE DATABASE benchmark_{name}".encode())
    folder.mkdir()
    environment = user_environment(
        folder,
        DATABASE_URL=f"{addresses.database_url.rpartition('/')[0]}/benchmark_{name}",
        BROKER_URL=addresses.broker_url.removesuffix("0") + name,
    )
    system = System(folder=folder, environment=environment)
    try:
        for queue in ("staging", "embed", "chat"):
            port = ["--metrics-port", str(ports[queue])] if ports else []
            system.start(queue, [*PROCESSES[queue], "--loglevel", "WARNING", *port])
        system.await_queues(STAGING, EMBED, CHAT)
        system.app.control.disable_events()
        yield system
    finally:
        system.stop()


if __name__ == "__main__":
    main()
