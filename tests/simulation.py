"""The protocol under fire: producers, the outbox, embedders, deletes, retries, reindexing, sweeps, collectors, readers.

Few documents and few distinct contents at a time, so that every race is frequent, and new contents all the while,
so that races do not end once everything has its vector. A crash is a connection that breaks before or after any
statement, commits included. The laws are checked while it runs, and at the end.
"""

import json
import random
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, LiteralString

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg import sql
from psycopg_pool import ConnectionPool

from tests.fixtures.application import HashBackend
from worker.backends.budgets import Budget
from worker.configuration import IndexSettings
from worker.documents import digest
from worker.errors import ProviderUnavailable, Refused, TemporaryError, TooLarge
from worker.index import Index
from worker.indexing import jobs, outbox, reindexing, staging
from worker.indexing.draining.drainer import Drainer
from worker.recipes import PROBE
from worker.store import builds, connection, garbage, upkeep
from worker.store.reindexing import Request
from worker.store.statements import tables

DOCUMENTS = 25
GROUPS = 5  # deletes by filter take a group
PHRASES = 12  # new ones in each round
ROUND_SECONDS = 0.3
REDELIVERIES = 0.15
PRODUCERS, CONSUMERS, EMBEDDERS = 5, 2, 4  # consumers: of the outbox
SETTLE_SECONDS = 60
LATE_SECONDS = 120  # that a busy machine has beyond the time, for as much as is to be done
CRASH_SECONDS = 0.02
FATAL_ROUNDS = 10  # in each tenth round the provider does not survive what it refuses in others
OUTAGE_SECONDS = 5.0  # from the beginning of an outage to that of the next


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What befalls the system."""

    crashes: float = 0.01  # of all statements, before or after each; a staging has about a dozen
    slow: float = 0.01  # of all requests: they outlive their lease
    lease_seconds: float = 0.8
    pauses: float = 0.03  # of all statements: the process is not on a core for 20 ms behind them
    batch_size: int = 6
    row_seconds: float = 0.0  # for each content that is queued: statements meet in their middle
    sweeps: bool = True
    collects: bool = True
    poison: float = 0.1  # of all documents: with a content that is always refused
    away: float = 0.3  # of the time: nothing is embedded, for longer than six attempts take
    fatal: bool = False  # some of those contents take the provider down each time
    late: bool = False  # a content at a time is refused once its lease has ended, and taken from anybody else


STORM = Weather(fatal=True)
# nobody dies and nothing is late: nothing is left to a sweep, and nothing is embedded twice
CALM = Weather(
    crashes=0,
    slow=0,
    lease_seconds=6,
    pauses=0.1,
    batch_size=2,
    row_seconds=0.001,
    poison=0.5,
    sweeps=False,
    collects=False,
    away=0,
)
LATE = Weather(crashes=0, slow=0, batch_size=1, collects=False, late=True, away=0)
AWAY = replace(CALM, away=0.9)
FATAL = replace(CALM, poison=0.1, fatal=True)

LIVE = """
SELECT d.id, s.live_rev, r.title, r.metadata, r.text, d.deleted,
    array_agg(c.text ORDER BY c.ordinal) FILTER (WHERE c.rev IS NOT NULL),
    count(*) FILTER (WHERE c.rev IS NOT NULL AND e.hash IS NULL)
FROM {served} s JOIN vector_index.documents d USING (doc) LEFT JOIN vector_index.revisions r ON r.rev = s.live_rev
LEFT JOIN {chunks} c ON c.rev = s.live_rev LEFT JOIN {embeddings} e ON e.hash = c.hash
WHERE s.live_rev IS NOT NULL GROUP BY d.id, s.live_rev, r.title, r.metadata, r.text, d.deleted
"""

HEADS = """
SELECT d.id, d.version, d.deleted, d.head_rev, s.live_rev, s.state, r.text
FROM vector_index.documents d LEFT JOIN {served} s USING (doc) LEFT JOIN vector_index.revisions r ON r.rev = d.head_rev
"""

# every revision that commits, every failure and every content that goes is written down by the database itself
WITNESS = """
CREATE TABLE witnessed (doc bigint, rev bigint, sent bigint);
CREATE TABLE failed_late (error text);
CREATE TABLE taken (hash bytea);
CREATE FUNCTION note_taken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO taken SELECT old.hash WHERE NOT EXISTS (SELECT FROM {embeddings} WHERE hash = old.hash);
    RETURN NULL; END $$;
CREATE TRIGGER note AFTER DELETE ON {pending} FOR EACH ROW EXECUTE FUNCTION note_taken();
CREATE TRIGGER note AFTER DELETE ON {embeddings} FOR EACH ROW EXECUTE FUNCTION note_taken();
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO witnessed VALUES (new.doc, new.rev, (new.metadata->>'sent')::bigint); RETURN NULL; END $$;
CREATE FUNCTION note_failure() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO failed_late VALUES (new.error); RETURN NULL; END $$;
CREATE TRIGGER witness AFTER INSERT ON vector_index.revisions FOR EACH ROW EXECUTE FUNCTION witness();
CREATE TRIGGER note AFTER UPDATE ON {served} FOR EACH ROW
    WHEN (new.state = 'failed' AND new.error LIKE 'late%') EXECUTE FUNCTION note_failure();
"""
HESITATE = """
CREATE FUNCTION hesitate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_sleep({seconds}); RETURN new; END $$;
CREATE TRIGGER hesitate BEFORE INSERT ON {pending} FOR EACH ROW EXECUTE FUNCTION hesitate();
"""
ENQUEUE = "SELECT vector_index.enqueue_document('default', %s, %s, %s, %s)"
ENQUEUE_DELETE = "SELECT vector_index.enqueue_delete('default', %s)"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
COUNTS: dict[str, LiteralString] = {
    "a redelivered message over a newer one": (
        "SELECT count(*) FROM (SELECT FROM witnessed WHERE sent IS NOT NULL GROUP BY doc, sent HAVING count(*) > 1) w"
    ),
    "left in the outbox": "SELECT count(*) FROM vector_index.outbox",
    "failed by somebody whose lease had ended": "SELECT count(*) FROM failed_late",
    "deadlock": "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
}


class Crash(BaseException):
    """The process died here: nobody handles it."""


class Abandoned(psycopg.ServerCursor[Any]):
    """Its owner may die as he closes it: nobody is left whom psycopg could warn that it is open."""

    def __del__(self, *_: Any) -> None:
        pass


class Mortal(psycopg.Connection[Any]):
    """A connection whose owner may die before or after each exchange with the server, or hesitate."""

    weather = Weather(crashes=0, pauses=0)
    crashes = 0
    mortal = False  # while it is set up nobody dies: the pool would wait for a second before the next

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        self._perhaps_die()
        result = super().wait(*args, **kwargs)
        self._perhaps_die()
        if random.random() < self.weather.pauses:
            time.sleep(0.02)
        return result

    def _perhaps_die(self) -> None:
        if self.mortal and random.random() < self.weather.crashes / 2:
            type(self).crashes += 1
            self.close()
            raise Crash


class MortalPool(ConnectionPool[Any]):
    """The pool of the store, handing out connections that may break."""

    def __class_getitem__(cls, _: object) -> type["MortalPool"]:
        return cls

    def __init__(self, *args: Any, configure: Callable[[Any], None], **kwargs: Any) -> None:
        def make_mortal(conn: Any) -> None:
            configure(conn)
            conn.server_cursor_factory = Abandoned
            conn.mortal = True

        super().__init__(*args, connection_class=Mortal, configure=make_mortal, **kwargs)


class Provider(HashBackend):
    """Refuses some contents, takes others only in pieces, is slower than the lease at times, and away at others."""

    def __init__(self, weather: Weather) -> None:
        super().__init__(chunk_tokens=10, batch_size=weather.batch_size)
        self.weather = weather
        self.sent: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.kept: str | None = None  # the content that is being refused too late
        self.known: set[str] = set()  # contents that were, and are taken from now on
        self.taken = threading.Event()  # somebody else holds it
        self.began = time.monotonic()
        self.up_at = 0.0  # monotonic seconds

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        now = time.monotonic()
        if any("fatal" in text for text in texts) and now >= self.up_at:
            self.up_at = now + CRASH_SECONDS
        if (now - self.began) / OUTAGE_SECONDS % 1 < self.weather.away or now < self.up_at:
            raise ProviderUnavailable("away")
        if any("poison" in text for text in texts):
            raise Refused("this is poison")
        if any("giant" in text and len(text.split()) > 9 for text in texts):
            raise TooLarge("this is giant")
        if random.random() < 0.02:
            raise ProviderUnavailable(
                "overloaded", rate_limited=random.random() < 0.5, retry_after_seconds=0.05
            )
        time.sleep(1.5 if random.random() < self.weather.slow else random.uniform(0.001, 0.004))
        for text in texts:
            if self.weather.late and "late" in text:
                self.refuse_late(text)
        if texts != [PROBE]:
            with self.lock:
                self.sent.update(texts)
        return super().embed(texts)

    def refuse_late(self, text: str) -> None:
        """Refuse a content once its lease has ended and somebody else holds it; nobody comes: take it."""
        with self.lock:
            first = self.kept is None and text not in self.known
            if first:
                self.kept = text
                self.known.add(text)
                self.taken.clear()
        if first:
            is_taken = self.taken.wait(5)
            self.kept = None
            if is_taken:
                raise Refused("late: the lease has ended")
        elif self.kept == text:
            self.taken.set()
            time.sleep(0.5)


class Shelf:
    """A source that holds some of the documents, others at each reading."""

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation

    def documents(self) -> Iterator[dict[str, Any]]:
        for n in random.sample(range(DOCUMENTS), random.randint(DOCUMENTS // 2, DOCUMENTS)):
            yield self.simulation.document(n, versioned=False)


class Simulation:
    def __init__(self, url: str, settings: IndexSettings, weather: Weather) -> None:
        self.url, self.weather = url, weather
        self.backend = Provider(weather)
        self.index = Index(url=url, settings=settings, backend=self.backend, budget=Budget("", "default"))
        self.settings = replace(settings.embedding_backend, timeout_seconds=weather.lease_seconds / 2)
        self.over = threading.Event()
        self.began = time.monotonic()
        self.done: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self.versions: dict[str, int] = {}
        self.jobs: list[str] = []
        self.recent: deque[Callable[[], None]] = deque(maxlen=30)
        self.serial = 0
        self.lock = threading.Lock()

    def run(self, seconds: float, at_least: int = 0) -> None:
        """Let it go for a while, until so much was staged and so many have died; come to rest, and judge."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "worker.indexing.draining.settlement.LEASE_MARGIN_SECONDS", self.weather.lease_seconds / 2
            )
            patch.setattr("worker.indexing.draining.backoff.BACKOFF_SECONDS", 0.02)
            patch.setattr("worker.indexing.draining.claiming.BUILDS_SECONDS", 0.2)
            patch.setattr("worker.store.reindexing.LEASE_SECONDS", 1.0)
            patch.setattr(connection, "ConnectionPool", MortalPool)
            patch.setattr(Mortal, "crashes", 0)
            patch.setattr(threading, "excepthook", self.note)
            self.prepare()
            patch.setattr(Mortal, "weather", self.weather)
            self.work(seconds, at_least)
            self.done["crashes"] = Mortal.crashes
            patch.setattr(Mortal, "weather", Weather(crashes=0, pauses=0))
            self.settle()
            self.judge()
            connection.close_pools()
            self.count()

    def prepare(self) -> None:
        staging.ensure_index(self.index)
        with psycopg.connect(self.url, autocommit=True) as conn:
            build = builds.live(conn, "default")
            assert build is not None
            self.build = build
            conn.execute(self.query(WITNESS))
            if self.weather.row_seconds:
                conn.execute(self.query(HESITATE, seconds=sql.Literal(self.weather.row_seconds)))

    def query(self, text: Any, **values: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**tables(self.build.build), **values)

    def work(self, seconds: float, at_least: int) -> None:
        steps = [
            *[lambda n=n: self.produce(n) for n in range(PRODUCERS)],
            *[self.consume] * CONSUMERS,
            *[self.embed] * EMBEDDERS,
            *[self.sweep] * self.weather.sweeps,
            *[self.collect] * self.weather.collects,
        ]
        threads = [threading.Thread(target=self.repeat, args=(step,)) for step in steps]
        threads.append(threading.Thread(target=self.read))
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        late = time.monotonic() + LATE_SECONDS
        while time.monotonic() < late and not self.is_enough(at_least):
            time.sleep(0.1)
        self.over.set()
        for thread in threads:
            thread.join(60)
        self.violations["a thread that hangs"] += sum(thread.is_alive() for thread in threads)

    def is_enough(self, at_least: int) -> bool:
        return self.done["stagings"] >= at_least <= (Mortal.crashes if self.weather.crashes else at_least)

    def note(self, arguments: threading.ExceptHookArgs) -> None:
        """A thread that ended by an error."""
        self.violations[arguments.exc_type.__name__] += 1

    def repeat(self, step: Callable[[], None]) -> None:
        """One step after another; who dies is there again at once, as a supervisor sees to it."""
        while not self.over.is_set():
            try:
                step()
            except (Crash, TemporaryError):
                continue
            except psycopg.Error as error:  # a statement that the protocol does not lead to
                self.violations[type(error).__name__] += 1

    def produce(self, producer: int) -> None:
        self.done["messages"] += 1
        task_id = f"{producer}-{self.done['messages']}-{random.random()}"
        chosen = random.sample(range(DOCUMENTS), random.choice((1, 1, 2, 3, 8)))
        match random.choices(
            ("delete", "filter", "retry", "reindex", "enqueue", "stage"), (8, 2, 5, 1, 20, 64)
        )[0]:
            case "delete":
                ids = [str(n) for n in chosen]
                self.persist(lambda: staging.delete(self.index, task_id, ids, None))
            case "filter":
                group = {"group": random.randrange(GROUPS)}
                self.persist(lambda: staging.delete_matching(self.index, task_id, group, None))
            case "retry":
                self.persist(lambda: staging.retry(self.index, list(staging.failed_ids(self.index))))
            case "reindex":
                self.persist(lambda: self.reindex(task_id))
            case "enqueue":
                self.enqueue(chosen)
            case "stage":
                self.send(task_id, [self.document(n) for n in chosen])

    def enqueue(self, chosen: Sequence[int]) -> None:
        """In a transaction of the application, which nobody of ours can break."""
        with psycopg.connect(self.url) as conn:
            for n in chosen:
                if random.random() < 0.1:
                    conn.execute(ENQUEUE_DELETE, [n])
                    continue
                document = self.document(n, versioned=False)
                conn.execute(
                    ENQUEUE, [n, document["text"], document["title"], json.dumps(document["metadata"])]
                )
        self.done["enqueued"] += len(chosen)

    def consume(self) -> None:
        if not outbox.stage_page(self.index, max_bytes=10**6):
            time.sleep(0.01)

    def reindex(self, task_id: str) -> None:
        skipped = reindexing.reindex(
            self.index,
            lambda: Shelf(self),
            Request(index="default", task_id=task_id),
            max_bytes=10**6,
            allow_shrink=True,
        )
        if skipped is None:
            self.done["reindexings"] += 1

    def send(self, task_id: str, documents: list[dict[str, Any]]) -> None:
        def stage() -> None:
            staging.stage(self.index, task_id, documents, max_bytes=10**6)
            self.done["stagings"] += 1

        self.persist(stage)
        self.jobs.append(task_id)
        self.recent.append(stage)
        if random.random() < REDELIVERIES:  # of any message, behind newer ones
            self.done["redeliveries"] += 1
            self.persist(random.choice(self.recent))

    def persist(self, deliver: Callable[[], object]) -> None:
        """Deliver a message until it is acknowledged."""
        while True:
            try:
                deliver()
                return
            except Crash:
                continue
            except TemporaryError:
                time.sleep(0.05)

    def document(self, n: int, *, versioned: bool = True) -> dict[str, Any]:
        now = int((time.monotonic() - self.began) / ROUND_SECONDS)
        phrases = [f"phrase {k} tells the reader about round {now} at length" for k in range(PHRASES)]
        phrases.append(f"giant {now} that the provider calls too large for one")
        chosen = random.sample(phrases, k=random.randint(0, 7))
        if random.random() < self.weather.poison:
            fatal = "fatal " * (self.weather.fatal and now % FATAL_ROUNDS == 0)
            chosen.append(f"{fatal}poison {now} that the provider always refuses to take in")
        if random.random() < 0.1:
            chosen.append(f"late {now} as it is refused once and taken then")
        text = "\n\n".join(chosen)
        mark = zlib.crc32(text.encode())
        metadata = {"mark": mark, "group": n % GROUPS}
        document = {
            "id": n,
            "text": text,
            "title": str(mark) if n % 3 == 0 else "",
            "metadata": metadata,
        }
        with self.lock:
            if n % 2 == 0 and versioned:  # half of the documents have versions, in random order of arrival
                newest = self.versions.get(str(n), 0)
                document["version"] = version = max(1, newest + random.randint(-2, 2))
                self.versions[str(n)] = max(newest, version)
            elif n % 2:  # the others tell each sending apart
                self.serial += 1
                metadata["sent"] = self.serial
        return document

    def embed(self) -> None:
        drainer = Drainer(self.url, self.settings, self.backend)
        while not self.over.is_set():
            drainer.drain()
            time.sleep(0.005)

    def sweep(self) -> None:
        time.sleep(0.2)
        self.sweep_once(unchecked_seconds=0.5)

    def sweep_once(self, *, unchecked_seconds: float) -> None:
        with connection.checkout(self.url) as conn:
            repairs = upkeep.sweep(conn, self.build, unchecked_seconds=unchecked_seconds)
        self.violations["neither embedded nor pending"] += repairs.queued

    def collect(self) -> None:
        time.sleep(0.1)
        with connection.checkout(self.url) as conn:
            collected = garbage.collect(conn, self.build, kept_share=0.0)
        self.done["vectors collected"] += collected.embeddings

    def read(self) -> None:
        seen: dict[str, int] = {}
        with psycopg.connect(self.url, autocommit=True) as conn:
            while not self.over.is_set():
                self.done["reads"] += 1
                self.look(conn, seen)

    def look(self, conn: psycopg.Connection[Any], seen: dict[str, int]) -> None:
        """What a reader sees at any moment."""
        for id, rev, title, metadata, text, deleted, chunks, holes in conn.execute(self.query(LIVE)):
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
        drainer = Drainer(self.url, self.settings, self.backend)
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            self.consume()
            drainer.drain()
            if self.weather.sweeps:
                self.sweep_once(unchecked_seconds=0.0)
            if self.stuck() == 0:
                return
            time.sleep(0.1)

    def stuck(self) -> int:
        with connection.checkout(self.url) as conn:
            figures = upkeep.figures(conn, self.build)
        return int(figures["documents"]["pending"] + figures["pending_chunks"])

    def judge(self) -> None:
        """The laws that hold once all is quiet."""
        self.violations["stuck"] += self.stuck()
        with connection.checkout(self.url) as conn:
            self.look(conn, {})
            for id, version, deleted, head, live, state, text in conn.execute(self.query(HEADS)):
                if not deleted and not (live == head or (state == "failed" and "poison" in text)):
                    self.violations["lost"] += 1
                if state == "failed" and "poison" not in text:
                    self.violations["an innocent failed"] += 1
                if version != self.versions.get(id):
                    self.violations["a version lost"] += 1
            for task_id in random.sample(self.jobs, min(len(self.jobs), 1_000)):
                if jobs.job_result(conn, "default", task_id)[0] is None:
                    self.violations["a job without a result"] += 1
            taken = Counter(hash for (hash,) in conn.execute("SELECT hash FROM taken"))
        if (
            self.weather == CALM
        ):  # once, and once more each time that it went with the last document that had it
            sent = self.backend.sent.items()
            self.violations["embedded twice"] += sum(max(0, n - 1 - taken[digest(text)]) for text, n in sent)
            self.done["contents taken away"] = taken.total()

    def count(self) -> None:
        """What the database wrote down; a session hands in its statistics as it ends, or ten seconds later."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            deadline = time.monotonic() + 10
            while conn.execute(SESSIONS).fetchone() != (1,) and time.monotonic() < deadline:
                time.sleep(0.05)
            for law, query in COUNTS.items():
                row = conn.execute(query).fetchone()
                self.violations[law] += row[0] if row else 0

    def __str__(self) -> str:
        done = ", ".join(f"{number:,} {what}" for what, number in self.done.items())
        return f"{done}; violations: {dict(+self.violations) or 0}"
