"""A simulation of rebuilds: the index is rebuilt again and again, to the end, cancelled on its way, or rolled back.

Vectors of two lengths, chunks of two sizes and two languages take turns. The thread that rebuilds waits where a rule of
the protocol keeps others away: between the reading and the writing of a text, before a transaction that fills a build
commits, and between the comparison of two builds and the switch. Other threads change and delete documents just then.
"""

import itertools
import random
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.simulation import HOLD_SECONDS, SETTLE_SECONDS, Crash, Simulation, Slow, UnreliableBackend, Weather
from worker.backends.budgets import Budget
from worker.configuration import IndexSettings
from worker.errors import InvalidQuery, TemporaryError
from worker.index import Embedder, Index
from worker.indexing import rebuilding, staging
from worker.indexing.draining.drainer import Drainer
from worker.store import builds, connection, filling, garbage, rebuilds, status, sweep, writing
from worker.store.rebuilds import Pair, RebuildRequest
from worker.store.statements import tables

WIDE = 24  # length of the vectors of the second model
PRODUCERS, EMBEDDERS = 2, 3  # threads
SLICE_DOCUMENTS = 4  # of a transaction that fills a build, so that others come between
CLOSING_REST_SECONDS = 0.3  # of a producer in the closing phase, at most: a switch needs a moment without lag
COLLECT_SECONDS = 0.4  # between two collections
READ_SECONDS = 0.01  # between two reads
RETIRED_READS = 0.3  # share of reads of a search that found its build before a switch
TEXTS_SECONDS = 0.1  # between the reading and the writing of texts, at most
TWINS_SHARE = 0.8  # of rebuilds
PARTING_SECONDS = 1.5  # of such a transaction, at most: until the others are deleted, or cannot be yet
LATE_SECONDS = 0.3  # between the comparison of both builds and the switch
LATE_SHARE = 0.5  # of the attempts to switch with a late change
SPOILT, LATE = (101, 103), 105  # documents of one thread each; odd numbers have no version
SPOILT_SECONDS = 3.0  # between two changes of the spoilt ones, at most
FAILED_LOOKS = (
    4  # in a row, that find a document failed which searches find today: its older revision can be filled
)
TWINS = [f"twin-b-{number}" for number in range(SLICE_DOCUMENTS)]  # each has the text of another document
PARTED = [f"twin-a-{number}" for number in range(SLICE_DOCUMENTS)]  # these: filled before, and then deleted


def document(id: int | str, text: str) -> dict[str, Any]:
    return {"id": id, "text": text, "metadata": {"mark": zlib.crc32(text.encode())}}


FAILED = """
SELECT id FROM {live_served} l JOIN {served} n USING (doc) JOIN vector_index.documents USING (doc)
WHERE l.state = 'failed' AND n.state = 'failed' AND coalesce(n.live_rev, 0) < l.live_rev AND NOT deleted
"""
KEYS = "SELECT doc FROM vector_index.documents WHERE id = ANY(%s)"


class Rebuilds(Simulation):
    """Rebuilds, with searches that found their build before the switch."""

    def __init__(self, url: str, settings: IndexSettings, weather: Weather) -> None:
        super().__init__(url, settings, weather)
        self.wide = UnreliableBackend(weather, dimensions=WIDE)
        self.recipes = itertools.cycle(
            [
                (self.wide, replace(settings, chunk_tokens=14)),
                (self.backend, replace(settings, language="german")),
                (self.backend, replace(settings, chunk_tokens=14)),
                (self.wide, settings),
            ]
        )
        self.index = replace(self.index, remembered=self.find_backend)
        self.is_closing = False
        self.twins: set[int] = set()  # keys of TWINS, while their texts are those of PARTED
        self.others: set[int] = set()  # keys of PARTED
        self.is_early = (
            False  # whether PARTED are deleted before their texts are written, or before the others' are
        )
        self.parting, self.parted = threading.Event(), threading.Event()

    def find_backend(self, index: Index, build: builds.Build) -> Embedder:
        backend = self.wide if build.dimensions == WIDE else self.backend
        return Embedder(settings=self.settings, backend=backend, budget=Budget("", "default"))

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        super().patch(patch)
        patch.setattr(rebuilds, "LEASE_SECONDS", 0.3)
        patch.setattr(rebuilds, "GRACE_SECONDS", 1.0)
        patch.setattr(rebuilding, "CLOSING_SECONDS", 2.0)
        patch.setattr(rebuilding, "PAUSE_SECONDS", 0.02)
        patch.setattr(rebuilding, "DOCUMENTS_PER_TRANSACTION", SLICE_DOCUMENTS)
        patch.setattr(filling, "texts", self.read_texts_early(filling.texts))
        patch.setattr(writing, "queue_contents", self.commit_late(writing.queue_contents))
        patch.setattr(rebuilds, "change_phase", self.hold_new(rebuilds.change_phase))
        patch.setattr(rebuilds, "switch", self.change_before(rebuilds.switch))
        patch.setattr(rebuilds, "lag", self.wait_after(rebuilds.lag))

    def read_texts_early(self, read: Callable[..., Any]) -> Callable[..., Any]:
        """Let documents change, or be deleted, between the reading and the writing of their texts."""

        def read_texts(*arguments: Any) -> Any:
            texts = read(*arguments)
            if self.is_early and self.others.intersection(text.doc for text in texts):
                self.parting.set()
                self.parted.wait(PARTING_SECONDS)
            else:
                time.sleep(random.uniform(0, TEXTS_SECONDS))
            return texts

        return read_texts

    def commit_late(self, queue: Callable[..., Any]) -> Callable[..., Any]:
        """Let other documents with the same contents be deleted before a transaction that fills twins commits."""

        def queue_contents(conn: Any, build: builds.Build, docs: Sequence[int], priority: int) -> Any:
            queued = queue(conn, build, docs, priority)
            is_between = (
                not self.is_early and self.twins.intersection(docs) and not self.others.intersection(docs)
            )
            if is_between and isinstance(threading.current_thread(), Slow):
                self.parting.set()
                self.parted.wait(PARTING_SECONDS)
            return queued

        return queue_contents

    def hold_new(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """Let the live build publish a change before the closing phase, while the new build waits for its vectors."""

        def change_phase(conn: Any, pair: Pair, state: str) -> Any:
            old, new = self.backends(pair)
            if state == "closing" and old is not new and random.random() < LATE_SHARE:
                new.hold()
                self.send_late_change()
                deadline = time.monotonic() + HOLD_SECONDS / 2
                while time.monotonic() < deadline and self.state(str(LATE)) == "pending":
                    time.sleep(0.02)
            return change(conn, pair, state)

        return change_phase

    def change_before(self, switch: Callable[..., Any]) -> Callable[..., Any]:
        """Change a document, and hold its vectors back until both builds were compared; then those of the new build.

        So the live build would publish the change before the switch, and the new one after it.
        """

        def change_and_switch(conn: Any, pair: Pair) -> Any:
            old, new = self.backends(pair)
            try:
                if old is not new and not new.is_held and random.random() < LATE_SHARE:
                    old.hold()
                    new.hold()
                    self.send_late_change()
                return switch(conn, pair)
            finally:
                old.release()
                new.release()

        return change_and_switch

    def backends(self, pair: Pair) -> tuple[UnreliableBackend, UnreliableBackend]:
        """The backends of the live build and of the new one."""
        old, new = (
            self.wide if build.dimensions == WIDE else self.backend for build in (pair.live, pair.new)
        )
        return old, new

    def send_late_change(self) -> None:
        self.send(f"late-{random.random()}", [document(LATE, f"change {random.random()} comes late")])

    def wait_after(self, compare: Callable[..., Any]) -> Callable[..., Any]:
        """Wait after the comparison of both builds, with the vectors of the live one."""

        def compare_and_wait(conn: Any, pair: Pair) -> Any:
            lag = compare(conn, pair)
            old, new = self.backends(pair)
            if pair.new.state == "closing" and old is not new and old.is_held:
                old.release()
                time.sleep(LATE_SECONDS)
            return lag

        return compare_and_wait

    def work(self, seconds: float, at_least: int) -> None:
        threads = [
            Slow(target=self.repeat, args=(self.rebuild,)),
            *(
                threading.Thread(target=self.repeat, args=(step,))
                for step in (
                    *[lambda n=n: self.produce(n) for n in range(PRODUCERS)],
                    *[self.embed] * EMBEDDERS,
                    self.consume,
                    self.sweep,
                    self.collect,
                    self.spoil,
                    self.part,
                )
            ),
            threading.Thread(target=self.read),
        ]
        self.run_threads(threads, seconds, at_least)

    def is_enough(self, at_least: int) -> bool:
        return super().is_enough(at_least) and (self.done["switches"] >= 2 or not at_least)

    def rebuild(self) -> None:
        """Begin a rebuild or a rollback, and go on with it until it has ended; sometimes cancel it."""
        task_id = f"rebuild-{random.random()}"
        request = RebuildRequest(task_id=task_id, keep_old=random.random() < 0.8)
        if random.random() < TWINS_SHARE:
            self.write_twins(task_id)
        if random.random() < 0.3:
            started = self.attempt(lambda: rebuilding.roll_back(self.index, request))
        else:
            backend, settings = next(self.recipes)
            self.index = replace(self.index, backend=backend, settings=settings)
            started = self.attempt(lambda: rebuilding.begin(self.index, request))
        if started is None:
            return
        self.done["rebuilds"] += 1
        is_cancelled = random.random() < 0.2
        failed: Counter[str] = Counter()
        while not self.over.is_set():
            self.is_closing = any(build.state == "closing" for build in self.attempt(self.every_build) or ())
            step = self.attempt(
                lambda: rebuilding.Rebuilder(index=self.index, build=started.build).advance(seconds=0.1)
            )
            if is_cancelled and random.random() < 0.1:
                if self.attempt(lambda: rebuilding.cancel(self.index, f"{task_id}-cancel")) is not None:
                    self.done["cancelled rebuilds"] += 1
                return
            now = self.attempt(lambda: self.failed_in(started)) or ()
            failed = Counter({id: failed[id] + 1 for id in now})
            if max(failed.values(), default=0) >= FAILED_LOOKS:
                self.violations["searchable document failed in the new build"] += 1
                return
            if step is not None and step.state == "live":
                self.done["switches"] += 1
                return
            if step is not None and step.state == "cancelled":
                return

    def produce(self, producer: int) -> None:
        if self.is_closing:
            time.sleep(random.uniform(0, CLOSING_REST_SECONDS))
        super().produce(producer)

    def spoil(self) -> None:
        """Let the newest revision of a document fail, so that searches find an older one for a while."""
        number, task_id = random.choice(SPOILT), f"spoil-{random.random()}"
        for revision, poison in enumerate((0.0, 1.0)):
            document = self.document(number, versioned=False, poison=poison)
            self.send(f"{task_id}-{revision}", [document])
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline and self.state(str(number)) == "pending":
                time.sleep(0.05)
        time.sleep(random.uniform(0, SPOILT_SECONDS))

    def failed_in(self, build: builds.Build) -> Sequence[str]:
        """Documents that failed in both builds, while the new one lacks the revision that searches find."""
        with connection.checkout(self.url) as conn:
            pair = rebuilds.pair(conn, build.index_id, build.build)
            if pair is None or filling.unfilled(conn, pair, after=0, limit=1):
                return []
            live = {f"live_{name}": table for name, table in tables(pair.live.build).items()}
            query = sql.SQL(FAILED).format(**live, **tables(build.build))
            return [row[0] for row in conn.execute(query)]

    def write_twins(self, task_id: str) -> None:
        """Write pairs of documents with the same text, before a rebuild."""
        self.send(
            f"{task_id}-twins",
            [
                document(id, f"twin {number} of {task_id} says this")
                for ids in (PARTED, TWINS)
                for number, id in enumerate(ids)
            ],
        )
        self.parted.clear()
        self.is_early = random.random() < 0.5
        self.others = self.attempt(lambda: self.find_keys(PARTED)) or set()
        self.twins = self.attempt(lambda: self.find_keys(TWINS)) or set()

    def part(self) -> None:
        """Delete one document of each pair while the other one is filled."""
        if self.parting.wait(0.1):
            self.deliver(lambda: staging.delete(self.index, f"part-{random.random()}", PARTED, None))
            self.twins = set()
            self.parting.clear()
            self.parted.set()

    def find_keys(self, ids: Sequence[str]) -> set[int]:
        with connection.checkout(self.url) as conn:
            return {row[0] for row in conn.execute(KEYS, [list(ids)])}

    def state(self, id: str) -> str:
        def read() -> str:
            with connection.checkout(self.url) as conn:
                return status.document_states(conn, builds.live(conn, "default"), [id])[id]["state"]

        return str(self.attempt(read))

    def attempt(self, step: Callable[[], Any]) -> Any:
        """Repeat a step until it has an end, as Celery does; `None` if there is nothing to do."""
        while not self.over.is_set():
            try:
                return step()
            except Crash:
                continue
            except InvalidQuery:
                return None
            except TemporaryError:
                time.sleep(0.02)
        return None

    def embed(self) -> None:
        drainers = self.drainers()
        random.shuffle(drainers)
        while not self.over.is_set():
            for drainer in drainers:
                self.drain(drainer, 1.0)
            time.sleep(0.02)

    def drainers(self) -> list[Drainer]:
        return [Drainer(self.url, self.settings, backend) for backend in (self.backend, self.wide)]

    def drain(self, drainer: Drainer, seconds: float) -> None:
        """Drain the queue for a limited time: where a rule is missing, it may never be empty."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and drainer.step() and drainer.provider.failure is None:
            pass

    def every_build(self) -> list[builds.Build]:
        with connection.checkout(self.url) as conn:
            return builds.every(conn, self.build.index_id)

    def sweep_once(self, *, unchecked_seconds: float) -> None:
        for build in self.every_build():
            if build.state != "retired":
                with connection.checkout(self.url) as conn:
                    repairs = sweep.sweep_build(conn, build, unchecked_seconds=unchecked_seconds)
                self.violations["chunk without a vector or a queue entry"] += repairs.queued
        with connection.checkout(self.url) as conn:
            self.done["dropped builds"] += rebuilds.drop_expired(conn)

    def collect(self) -> None:
        time.sleep(COLLECT_SECONDS)
        for build in self.every_build():
            with connection.checkout(self.url) as conn:
                self.done["vectors collected"] += garbage.collect(conn, build, kept_share=0.0).embeddings

    def read(self) -> None:
        """Read the live build, or one that a search found before the switch and goes on reading."""
        seen: dict[str, int] = {}
        with psycopg.connect(self.url, autocommit=True) as conn:
            while not self.over.is_set():
                live = builds.live(conn, "default")
                assert live is not None
                every = builds.every(conn, live.index_id)
                retired = [build for build in every if build.state == "retired"]
                is_late = bool(retired) and random.random() < RETIRED_READS
                self.build = random.choice(retired) if is_late else live
                self.done["reads"] += 1
                with suppress(psycopg.errors.UndefinedTable):  # dropped after its grace period
                    self.check_served(conn, {} if is_late else seen)
                time.sleep(READ_SECONDS)

    def check_final_state(self) -> None:
        super().check_final_state()
        ended = all(build.state not in rebuilds.FILLED for build in self.every_build())
        self.violations["rebuild without an end"] += not ended

    def settle(self) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        drainers = self.drainers()
        while time.monotonic() < deadline:
            for build in self.every_build():
                if build.state in rebuilds.FILLED:
                    rebuilding.Rebuilder(index=self.index, build=build.build).advance(seconds=0.2)
            self.consume()
            for drainer in drainers:
                self.drain(drainer, 5.0)
            self.sweep_once(unchecked_seconds=0.0)
            live = [build for build in self.every_build() if build.state == "live"]
            self.build = live[0]
            is_over = all(build.state not in rebuilds.FILLED for build in self.every_build())
            if is_over and self.unfinished() == 0:
                return
            time.sleep(0.1)
