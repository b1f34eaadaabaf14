"""The protocol under fire: producers, embedders, deletes, sweeps and readers, dying at random steps.

Few documents and few distinct contents, so that every race is frequent. A crash is a connection that breaks
before or after any statement, commits included. The laws are checked while it runs, and at the end.
"""

import random
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg_pool import ConnectionPool

from tests.integration.conftest import HashBackend
from worker import monitoring, staging
from worker.configuration import IndexSettings
from worker.draining import Drainer
from worker.errors import ProviderUnavailable, Refused, TooLarge
from worker.store import builds, connection, upkeep

DOCUMENTS = 25
PHRASES = [f"phrase {n} tells the reader about subject {n} at length" for n in range(48)] + [
    "giant that the provider calls too large for one input",
    "poison that the provider always refuses to take in here",
]
CRASHES = 0.01  # of all statements, before or after each; a staging has about a dozen
REDELIVERIES = 0.15

LIVE = """
SELECT d.id, s.live_rev, r.title, r.metadata, r.text, d.deleted,
    array_agg(c.text ORDER BY c.ordinal) FILTER (WHERE c.rev IS NOT NULL),
    count(*) FILTER (WHERE c.rev IS NOT NULL AND e.hash IS NULL)
FROM {served} s JOIN vector_index.documents d USING (doc) LEFT JOIN vector_index.revisions r ON r.rev = s.live_rev
LEFT JOIN {chunks} c ON c.rev = s.live_rev LEFT JOIN {embeddings} e ON e.hash = c.hash
WHERE s.live_rev IS NOT NULL GROUP BY d.id, s.live_rev, r.title, r.metadata, r.text, d.deleted
"""


class Crash(Exception):
    """The process died here."""


class Mortal(psycopg.Connection[Any]):
    """A connection whose owner may die before or after each exchange with the server."""

    crashing = threading.Event()
    crashes = 0

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        self._perhaps_die()
        result = super().wait(*args, **kwargs)
        self._perhaps_die()
        return result

    def _perhaps_die(self) -> None:
        if self.crashing.is_set() and random.random() < CRASHES / 2:
            type(self).crashes += 1
            self.close()
            raise Crash


class Provider(HashBackend):
    """Refuses one content, takes another only in pieces, fails at times, and is at times slower than the lease."""

    troubled = True

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if any("poison" in text for text in texts):
            raise Refused("this is poison")
        if any("giant" in text and len(text.split()) > 9 for text in texts):
            raise TooLarge("this is giant")
        if self.troubled and random.random() < 0.02:
            raise ProviderUnavailable(
                "overloaded", rate_limited=random.random() < 0.5, retry_after_seconds=0.05
            )
        time.sleep(1.2 if self.troubled and random.random() < 0.01 else random.uniform(0.001, 0.004))
        return super().embed(texts)


class Simulation:
    def __init__(self, url: str, index: IndexSettings) -> None:
        self.url, self.index = url, index
        self.backend = Provider(chunk_tokens=10, batch_size=6)
        self.settings = replace(index.embedding_backend, timeout_seconds=0.4)
        self.over = threading.Event()
        self.stagings = self.redeliveries = self.reads = self.queued = 0
        self.violations: Counter[str] = Counter()
        self.versions: dict[str, int] = {}
        self.jobs: list[str] = []
        self.lock = threading.Lock()

    def produce(self, producer: int) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            chosen = random.sample(range(DOCUMENTS), random.randint(1, 3))
            if random.random() < 0.1:
                ids = [str(n) for n in chosen]
                self.persist(
                    partial(staging.delete, self.url, "default", f"del-{producer}-{number}", ids, None)
                )
                continue
            documents = [self.document(n) for n in chosen]
            task_id = f"job-{producer}-{number}"
            self.stage(task_id, documents)
            if random.random() < REDELIVERIES:
                self.redeliveries += 1
                self.stage(task_id, documents)
            self.jobs.append(task_id)

    def document(self, n: int) -> dict[str, Any]:
        text = "\n\n".join(random.choices(PHRASES[:49], k=random.randint(0, 7)))
        if random.random() < 0.05:
            text += "\n\n" + PHRASES[49]
        mark = zlib.crc32(text.encode())
        document = {
            "id": n,
            "text": text,
            "title": str(mark) if n % 3 == 0 else "",
            "metadata": {"mark": mark},
        }
        if n % 2 == 0:  # half of the documents have versions, in random order of arrival
            with self.lock:
                newest = self.versions.get(str(n), 0)
                version = max(1, newest + random.randint(-2, 2))
                self.versions[str(n)] = max(newest, version)
            document["version"] = version
        return document

    def stage(self, task_id: str, documents: list[dict[str, Any]]) -> None:
        self.persist(
            lambda: staging.stage(self.url, self.index, self.backend, task_id, documents, max_bytes=10**6)
        )
        self.stagings += 1

    def persist(self, deliver: Callable[[], object]) -> None:
        """A message is delivered until it was acknowledged."""
        while True:
            try:
                deliver()
                return
            except Crash:
                continue

    def embed(self) -> None:
        drainer = Drainer(self.url, self.settings, self.backend)
        while not self.over.is_set():
            try:
                if drainer.drain() == 0:
                    time.sleep(0.005)
            except Crash:
                continue

    def sweep(self) -> None:
        while not self.over.is_set():
            time.sleep(0.2)
            self.sweep_once()

    def sweep_once(self, *, unchecked_seconds: float = 0.5) -> None:
        try:
            with connection.checkout(self.url) as conn:
                for build in upkeep.written_builds(conn):
                    self.queued += upkeep.sweep(conn, build, unchecked_seconds=unchecked_seconds).queued
        except Crash:
            pass

    def read(self, url: str) -> None:
        seen: dict[str, int] = {}
        with psycopg.connect(url, autocommit=True) as conn:
            while not self.over.is_set():
                self.reads += 1
                self.look(conn, seen)

    def look(self, conn: psycopg.Connection[Any], seen: dict[str, int]) -> None:
        build = builds.live(conn, "default")
        if build is None:
            return
        rows = conn.execute(psycopg.sql.SQL(LIVE).format(**builds.tables(build.build))).fetchall()
        for id, rev, title, metadata, text, deleted, chunks, holes in rows:
            if deleted:
                self.violations["deleted but served"] += 1
                continue
            if (
                text is None
                or zlib.crc32(text.encode()) != metadata["mark"]
                or title not in ("", str(metadata["mark"]))
            ):
                self.violations["half a revision"] += 1
            elif "".join("".join(chunks or []).split()) != "".join(text.split()):
                self.violations["chunks of another revision"] += 1
            if holes:
                self.violations["live without a vector"] += 1
            if rev < seen.get(id, 0):
                self.violations["a step back"] += 1
            seen[id] = rev

    def settle(self) -> None:
        """No more crashes: whatever the dead left behind must come to its end by the ordinary means."""
        self.backend.troubled = False
        drainer = Drainer(self.url, self.settings, self.backend)
        with connection.checkout(self.url) as conn:
            [build] = upkeep.written_builds(conn)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            drainer.drain()
            self.sweep_once(unchecked_seconds=0.0)
            with connection.checkout(self.url) as conn:
                figures = upkeep.figures(conn, build)
            if figures["documents"]["pending"] == figures["pending_chunks"] == 0:
                return
            time.sleep(0.1)

    def judge(self) -> None:
        """The laws that hold once all is quiet."""
        with connection.checkout(self.url) as conn:
            [build] = upkeep.written_builds(conn)
            self.look(conn, {})
            figures = upkeep.figures(conn, build)
            self.violations["stuck"] += figures["documents"]["pending"] + figures["pending_chunks"]
            rows = conn.execute(
                psycopg.sql.SQL(
                    "SELECT d.id, d.version, d.deleted, d.head_rev, s.live_rev, s.state, r.text "
                    "FROM vector_index.documents d LEFT JOIN {served} s USING (doc) "
                    "LEFT JOIN vector_index.revisions r ON r.rev = d.head_rev"
                ).format(**builds.tables(build.build))
            ).fetchall()
            for id, version, deleted, head, live, state, text in rows:
                if not deleted and not (live == head or (state == "failed" and "poison" in text)):
                    self.violations["lost"] += 1
                if state == "failed" and "poison" not in text:
                    self.violations["an innocent failed"] += 1
                if version != self.versions.get(id):
                    self.violations["a version lost"] += 1
            for task_id in self.jobs:
                if monitoring.report(conn, "default", task_id)[0] is None:
                    self.violations["a job without a result"] += 1
            [[deadlocks]] = conn.execute(
                "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            ).fetchall()
            self.violations["deadlock"] += deadlocks
        self.violations["repaired by the sweep"] += self.queued


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(180)])])
def test_no_law_is_broken_whoever_dies_when(
    url: str, index: IndexSettings, seconds: int, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    monkeypatch.setattr("worker.draining.LEASE_MARGIN_SECONDS", 0.4)
    monkeypatch.setattr("worker.draining.BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr("worker.draining.BUILDS_SECONDS", 0.2)
    monkeypatch.setattr(connection, "ConnectionPool", MortalPool)
    monkeypatch.setattr(Mortal, "crashes", 0)
    simulation = Simulation(url, index)
    work = [*[lambda n=n: simulation.produce(n) for n in range(5)], *[simulation.embed] * 4]
    threads = [
        threading.Thread(target=target) for target in [*work, simulation.sweep, lambda: simulation.read(url)]
    ]
    Mortal.crashing.set()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    simulation.over.set()
    for thread in threads:
        thread.join(30)
    Mortal.crashing.clear()
    assert not any(thread.is_alive() for thread in threads)
    simulation.settle()
    simulation.judge()
    figures = (
        f"{simulation.stagings} stagings, {simulation.redeliveries} redeliveries, {Mortal.crashes} crashes, "
    )
    figures += f"{simulation.reads} reads, violations: {dict(+simulation.violations)}"
    print(figures)
    record_property("simulation", figures)
    assert simulation.stagings > 5 * seconds
    assert Mortal.crashes > seconds
    assert not +simulation.violations, figures


class MortalPool(ConnectionPool[Any]):
    """The pool of the store, handing out connections that may break."""

    def __class_getitem__(cls, _: object) -> type["MortalPool"]:
        return cls

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, connection_class=Mortal, **kwargs)
