"""A simulation of the indexing protocol under crashes, outages and races; it checks the invariants all the while.

Threads stage, enqueue, embed, delete, retry, reindex, sweep, collect garbage and read, all at once. Few documents and
few distinct contents exist at a time, so races are frequent. New contents keep coming, so races continue after
everything has a vector. A crash breaks a connection before or after any statement, commits included.
`docs/internals/tests.md` describes the invariants and how to add one.
"""

import json
import random
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from worker.errors import InvalidQuery, ProviderUnavailable, Refused, TemporaryError, TooLarge
from worker.index import Index
from worker.indexing import jobs, outbox, reindexing, staging
from worker.indexing.draining.drainer import Drainer
from worker.recipes import PROBE
from worker.store import builds, connection, garbage, indexes, status, sweep
from worker.store.reindexing import ReindexRequest
from worker.store.statements import tables

ROW_SECONDS = 0.01  # between two rows of a source
CHANGE_SECONDS = 0.3  # between two changes of a row, at most
PAGE_DOCUMENTS = 16  # of a run of reindexing
GROUPS = 5  # a delete by filter matches one group
PHRASES = 12  # replaced by new ones in each round
ROUND_SECONDS = 0.3
REDELIVERIES = 0.15  # share of the messages
REUSES = 0.1  # share of the messages after which a task id is used for other documents
DROP_SECONDS = 0.15  # between two drops
SLICES_DOCUMENTS = 250  # of a message of several slices
PRODUCERS, CONSUMERS, EMBEDDERS = 5, 2, 4  # threads; consumers read the outbox
SETTLE_SECONDS = 60
EXTRA_SECONDS = 120  # a busy machine gets this much longer to reach `at_least`
PROVIDER_CRASH_SECONDS = 0.02
HOLD_SECONDS = 2.0  # of answers that are held back, at most
FATAL_ROUNDS = 10  # in every tenth round, poison crashes the provider; in the others the provider refuses it
OUTAGE_PERIOD_SECONDS = 5.0  # from the start of one outage to the start of the next


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How often things go wrong in one run."""

    crashes: float = 0.01  # share of statements that crash, before or after; one staging has about a dozen
    slow: float = 0.01  # share of requests that take longer than their lease
    lease_seconds: float = 0.8
    pauses: float = 0.03  # share of statements followed by 20 ms without a CPU
    batch_size: int = 6
    row_seconds: float = 0.0  # delay for each queued row, so that statements overlap
    sweeps: bool = True
    collects: bool = True
    poison: float = 0.1  # share of documents with a content that the provider always refuses
    away: float = 0.3  # share of the time with an outage; an outage lasts longer than six attempts
    fatal: bool = False  # in some rounds poison crashes the provider
    reindexes: bool = False  # run after run reads the catalogue, and little else happens
    drops: bool = False  # the index is dropped and made anew again and again: see `Drops`
    round_seconds: float = 4.0  # of a round of the rule tests, each on a fresh database
    rebuilds: bool = False  # the index is rebuilt again and again: see tests/rebuilds.py
    documents: int = 25
    rows: int = 40  # of the application's own table
    reindexings: int = 3  # weight of runs of reindexing among the messages
    deletions: int = 8  # weight of deletions by id among the messages
    slow_pauses: float = 0.0  # share of statements of a `Slow` thread followed by 20 ms without a CPU
    late: bool = False  # refuse one content at a time, after its lease has expired


STORM = Weather(fatal=True)
# Nothing crashes and nothing is late: all work must finish without a sweep, and no content may be embedded twice.
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
LATE_REFUSALS = Weather(crashes=0, slow=0, batch_size=1, collects=False, late=True, away=0)
OUTAGES = replace(CALM, away=0.9)
REINDEXING = Weather(
    crashes=0.001, slow=0, poison=0, away=0, pauses=0.05, sweeps=False, collects=False, reindexes=True
)
PROVIDER_CRASHES = replace(CALM, poison=0.1, fatal=True)
DROPS = Weather(drops=True, away=0, poison=0)
REBUILDS = Weather(
    crashes=0.002,
    batch_size=20,
    lease_seconds=1.6,
    poison=0.05,
    away=0,
    documents=10,
    rows=10,
    reindexings=1,
    deletions=25,
    slow_pauses=0.25,
    rebuilds=True,
    round_seconds=20.0,
)

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

ROW = """
SELECT r.text, r.metadata FROM vector_index.documents d JOIN vector_index.revisions r ON r.rev = d.head_rev
WHERE d.id = %s AND NOT d.deleted
"""

# Triggers record each committed revision, each late failure and each deleted content.
WITNESS = """
CREATE TABLE public.witnessed (doc bigint, rev bigint, sent bigint);
CREATE TABLE public.failed_late (error text);
CREATE TABLE public.taken (hash bytea);
CREATE FUNCTION note_taken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.taken SELECT old.hash WHERE NOT EXISTS (SELECT FROM {embeddings} WHERE hash = old.hash);
    RETURN NULL; END $$;
CREATE TRIGGER note AFTER DELETE ON {pending} FOR EACH ROW EXECUTE FUNCTION note_taken();
CREATE TRIGGER note AFTER DELETE ON {embeddings} FOR EACH ROW EXECUTE FUNCTION note_taken();
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.witnessed VALUES (new.doc, new.rev, (new.metadata->>'sent')::bigint); RETURN NULL; END $$;
CREATE FUNCTION note_failure() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.failed_late VALUES (new.error); RETURN NULL; END $$;
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
    "redelivered message replaced a newer one": (
        "SELECT count(*) FROM (SELECT FROM public.witnessed WHERE sent IS NOT NULL "
        "GROUP BY doc, sent HAVING count(*) > 1) w"
    ),
    "row left in the outbox": "SELECT count(*) FROM vector_index.outbox",
    "document failed after its lease expired": "SELECT count(*) FROM public.failed_late",
    "deadlock": "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
}


class Crash(BaseException):
    """The simulated process crashes here. A BaseException, so that no handler of the worker catches it."""


class UnclosedCursor(psycopg.ServerCursor[Any]):
    """A server cursor without psycopg's warning: a crash during close leaves it open."""

    def __del__(self, *_: Any) -> None:
        pass


class Slow(threading.Thread):
    """A thread that pauses often, so that others act between two of its statements."""


class CrashingConnection(psycopg.Connection[Any]):
    """A connection whose owner may crash before or after each statement, or pause."""

    weather = Weather(crashes=0, pauses=0)
    crashes = 0
    may_crash = False  # false during set-up: after a crash there, the pool would wait for a second

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        self._maybe_crash()
        result = super().wait(*args, **kwargs)
        self._maybe_crash()
        is_slow = isinstance(threading.current_thread(), Slow)
        if random.random() < (self.weather.slow_pauses if is_slow else self.weather.pauses):
            time.sleep(0.02)
        return result

    def _maybe_crash(self) -> None:
        if self.may_crash and random.random() < self.weather.crashes / 2:
            type(self).crashes += 1
            self.close()
            raise Crash


class CrashingPool(ConnectionPool[Any]):
    """The store's connection pool with connections that may crash."""

    def __class_getitem__(cls, _: object) -> type["CrashingPool"]:
        return cls

    def __init__(self, *args: Any, configure: Callable[[Any], None], **kwargs: Any) -> None:
        def let_crash(conn: Any) -> None:
            configure(conn)
            conn.server_cursor_factory = UnclosedCursor
            conn.may_crash = True

        super().__init__(*args, connection_class=CrashingConnection, configure=let_crash, **kwargs)


class UnreliableBackend(HashBackend):
    """A backend that refuses some contents, calls others too large, has outages, and sometimes outlasts the lease."""

    def __init__(self, weather: Weather, dimensions: int = 16) -> None:
        super().__init__(chunk_tokens=10, batch_size=weather.batch_size, dimensions=dimensions)
        self.weather = weather
        self.sent: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.kept: str | None = None  # the content whose refusal is delayed
        self.open = threading.Event()  # unset: answers wait
        self.open.set()
        self.known: set[str] = set()  # contents refused late before: accepted from now on
        self.claimed_again = threading.Event()  # another worker holds the delayed content
        self.began = time.monotonic()
        self.up_at = 0.0  # monotonic seconds

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        now = time.monotonic()
        if any("fatal" in text for text in texts) and now >= self.up_at:
            self.up_at = now + PROVIDER_CRASH_SECONDS
        if (now - self.began) / OUTAGE_PERIOD_SECONDS % 1 < self.weather.away or now < self.up_at:
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
        self.open.wait(HOLD_SECONDS)
        if not all(
            text.startswith(PROBE) for text in texts
        ):  # probes: of a word, a length or a number of inputs
            with self.lock:
                self.sent.update(texts)
        return super().embed(texts)

    @property
    def is_held(self) -> bool:
        return not self.open.is_set()

    def hold(self) -> None:
        """Let answers wait for `release`, for HOLD_SECONDS at most."""
        self.open.clear()

    def release(self) -> None:
        self.open.set()

    def refuse_late(self, text: str) -> None:
        """Refuse a content after its lease expired and another worker claimed it; without one in 5 s, accept it."""
        with self.lock:
            first = self.kept is None and text not in self.known
            if first:
                self.kept = text
                self.known.add(text)
                self.claimed_again.clear()
        if first:
            is_claimed = self.claimed_again.wait(5)
            self.kept = None
            if is_claimed:
                raise Refused("late: the lease has expired")
        elif self.kept == text:
            self.claimed_again.set()
            time.sleep(0.5)


class SampledSource:
    """A source that has all rows of the catalogue in hand, and yields them among a random sample of the documents."""

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation

    def documents(self) -> Iterator[dict[str, Any]]:
        number = self.simulation.weather.documents
        items: list[dict[str, Any] | int] = [*self.simulation.catalogue.visible_rows()]
        if not self.simulation.weather.reindexes:
            items += random.sample(range(number), random.randint(number // 2, number))
        random.shuffle(items)
        for item in items:
            time.sleep(ROW_SECONDS)
            yield self.simulation.document(item, versioned=False) if isinstance(item, int) else item


@dataclass
class CatalogueRow:
    """A row of the application's own table. Its lock is held from a change until the index has been told."""

    id: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    document: dict[str, Any] | None = None  # None: deleted
    is_visible: bool = True  # whether the source returns it
    is_told: bool = True  # whether the index must have exactly this row


class Catalogue:
    """A table of an application that tells the index of each change before it makes the next one.

    So the index must have the newest text of each row, whatever a run of reindexing has read before.
    """

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation
        self.rows = [CatalogueRow(id=f"row-{n}") for n in range(simulation.weather.rows)]

    def visible_rows(self) -> list[dict[str, Any]]:
        return [row.document for row in self.rows if row.document and row.is_visible]

    def change(self, task_id: str) -> None:
        """Change a random row two times, some time apart: a run may read it in between."""
        row = random.choice(self.rows)
        self.change_row(row, f"{task_id}-1")
        time.sleep(random.uniform(0, CHANGE_SECONDS))
        self.change_row(row, f"{task_id}-2")

    def change_row(self, row: CatalogueRow, task_id: str) -> None:
        """Change a row and tell the index, or change what the source returns without a word."""
        with row.lock:
            self.check(row)
            match random.choice(("write", "insert", "hide", "send again", "delete", "delete by filter")):
                case "write":
                    self.write(row)
                    self.send(row, task_id)
                case "insert" if not row.document:
                    row.id = f"{row.id.partition('/')[0]}/{task_id}"
                    self.write(row)
                case "hide":
                    row.is_visible = row.is_told = False
                case "send again" if row.document:
                    self.send(row, task_id)
                case "delete" | "delete by filter" as way if row.document:
                    self.delete(row, task_id, by_filter=way == "delete by filter")

    def write(self, row: CatalogueRow) -> None:
        row.is_told, row.is_visible = False, True
        document = self.simulation.document(0, versioned=False)
        metadata = {"mark": document["metadata"]["mark"], "row": row.id}
        row.document = document | {"id": row.id, "metadata": metadata}

    def send(self, row: CatalogueRow, task_id: str) -> None:
        index, documents = self.simulation.index, [row.document]
        row.is_visible = True
        self.simulation.deliver(lambda: staging.stage(index, task_id, documents, max_bytes=10**6))
        row.is_told = True

    def delete(self, row: CatalogueRow, task_id: str, *, by_filter: bool) -> None:
        index = self.simulation.index
        row.document = None
        if by_filter:
            where = {"row": row.id}
            self.simulation.deliver(lambda: staging.delete_matching(index, task_id, where, None))
        else:
            self.simulation.deliver(lambda: staging.delete(index, task_id, [row.id], None))
        row.is_told = True

    def check(self, row: CatalogueRow) -> None:
        """Compare the index with a row whose lock is held."""
        if not row.is_told:
            return
        self.simulation.done["rows checked"] += 1
        with psycopg.connect(self.simulation.url, autocommit=True) as conn:
            found = conn.execute(ROW, [row.id]).fetchone()
        text, metadata = found if found else (None, None)
        if row.document is None and text is not None:
            self.simulation.violations["deleted row brought back"] += 1
        elif row.document is not None and text is None:
            self.simulation.violations["row swept away"] += 1
        elif row.document is not None and (text, metadata) != (
            row.document["text"],
            row.document["metadata"],
        ):
            self.simulation.violations["old text over a newer one"] += 1


class Simulation:
    """One run: `done` counts the operations, `violations` the broken invariants by name."""

    def __init__(self, url: str, settings: IndexSettings, weather: Weather) -> None:
        self.url, self.weather = url, weather
        self.backend = UnreliableBackend(weather)
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
        self.catalogue = Catalogue(self)

    def run(self, seconds: float, at_least: int = 0) -> None:
        """Simulate for `seconds` and until `at_least` stagings and crashes happened; then settle and check.

        When `reindexes` is set, reindexings count instead of stagings.
        """
        with pytest.MonkeyPatch.context() as patch:
            self.patch(patch)
            self.prepare()
            patch.setattr(CrashingConnection, "weather", self.weather)
            self.work(seconds, at_least)
            self.done["crashes"] = CrashingConnection.crashes
            patch.setattr(CrashingConnection, "weather", Weather(crashes=0, pauses=0))
            if not +self.violations:
                self.settle()
                self.check_final_state()
            connection.close_pools()
            if not +self.violations:
                self.count_recorded()

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        """Shorten times, and let connections crash, until the end of the simulation."""
        patch.setattr(
            "worker.indexing.draining.settlement.LEASE_MARGIN_SECONDS", self.weather.lease_seconds / 2
        )
        patch.setattr("worker.indexing.draining.backoff.BACKOFF_SECONDS", 0.02)
        patch.setattr("worker.indexing.draining.claiming.BUILDS_SECONDS", 0.2)
        patch.setattr("worker.store.reindexing.LEASE_SECONDS", 1.0)
        patch.setattr("worker.indexing.reindexing.DOCUMENTS_AT_ONCE", PAGE_DOCUMENTS)
        patch.setattr(connection, "ConnectionPool", CrashingPool)
        patch.setattr(CrashingConnection, "crashes", 0)
        patch.setattr(threading, "excepthook", self.record_thread_error)

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
            *([self.keep_reindexing] if self.weather.reindexes else [self.consume] * CONSUMERS),
            *[self.embed] * (1 if self.weather.reindexes else EMBEDDERS),
            *[self.sweep] * self.weather.sweeps,
            *[self.collect] * self.weather.collects,
        ]
        threads = [threading.Thread(target=self.repeat, args=(step,)) for step in steps]
        if not self.weather.reindexes:
            threads.append(threading.Thread(target=self.read))
        self.run_threads(threads, seconds, at_least)

    def run_threads(self, threads: Sequence[threading.Thread], seconds: float, at_least: int) -> None:
        """Run them until enough has happened."""
        for thread in threads:
            thread.start()
        self.await_end(seconds, at_least)
        self.over.set()
        for thread in threads:
            thread.join(60)
        self.violations["thread hangs"] += sum(thread.is_alive() for thread in threads)

    def await_end(self, seconds: float, at_least: int) -> None:
        """Wait until enough has happened, or an invariant is violated."""
        began = time.monotonic()
        while not +self.violations:
            spent = time.monotonic() - began
            if spent > seconds and (self.is_enough(at_least) or spent > seconds + EXTRA_SECONDS):
                return
            time.sleep(0.05)

    def is_enough(self, at_least: int) -> bool:
        return (
            self.done["reindexings" if self.weather.reindexes else "stagings"]
            >= at_least
            <= (CrashingConnection.crashes if self.weather.crashes else at_least)
        )

    def record_thread_error(self, arguments: threading.ExceptHookArgs) -> None:
        """Count the error that ended a thread as a violation."""
        self.violations[arguments.exc_type.__name__] += 1

    def repeat(self, step: Callable[[], None]) -> None:
        """Repeat a step until the end. A crash restarts it at once, as a supervisor would."""
        while not self.over.is_set():
            try:
                step()
            except (Crash, TemporaryError):
                continue
            except psycopg.Error as error:  # the protocol must never cause an SQL error
                self.violations[type(error).__name__] += 1

    def produce(self, producer: int) -> None:
        self.done["messages"] += 1
        task_id = f"{producer}-{self.done['messages']}-{random.random()}"
        chosen = random.sample(range(self.weather.documents), random.choice((1, 1, 2, 3, 8)))
        match random.choices(
            ("delete", "filter", "retry", "reindex", "enqueue", "catalogue", "stage"),
            (0, 0, 0, 0, 0, 1, 0)
            if self.weather.reindexes
            else (self.weather.deletions, 2, 5, self.weather.reindexings, 20, 30, 64),
        )[0]:
            case "delete":
                ids = [str(n) for n in chosen]
                self.deliver(lambda: staging.delete(self.index, task_id, ids, None))
            case "filter":
                group = {"group": random.randrange(GROUPS)}
                self.deliver(lambda: staging.delete_matching(self.index, task_id, group, None))
            case "retry":
                self.deliver(lambda: staging.retry(self.index, list(staging.failed_ids(self.index))))
            case "reindex":
                self.deliver(lambda: self.reindex(task_id))
            case "enqueue":
                self.enqueue(chosen)
            case "catalogue":
                self.catalogue.change(task_id)
            case "stage":
                self.send(task_id, [self.document(n) for n in chosen])
                if self.jobs and random.random() < REUSES:
                    self.reuse(random.choice(self.jobs), chosen)

    def enqueue(self, chosen: Sequence[int]) -> None:
        """Enqueue in a transaction of the application, on a connection that never crashes."""
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
            lambda: SampledSource(self),
            ReindexRequest(index="default", task_id=task_id),
            max_bytes=10**6,
            allow_shrink=True,
        )
        if skipped is None:
            self.done["reindexings"] += 1

    def keep_reindexing(self) -> None:
        task_id = f"reindex-{random.random()}"
        self.deliver(lambda: self.reindex(task_id))

    def send(self, task_id: str, documents: list[dict[str, Any]]) -> None:
        def stage() -> None:
            staging.stage(self.index, task_id, documents, max_bytes=10**6)
            self.done["stagings"] += 1

        self.deliver(stage)
        self.jobs.append(task_id)
        self.recent.append(stage)
        if random.random() < REDELIVERIES:  # of any recent message, after newer ones
            self.done["redeliveries"] += 1
            self.deliver(random.choice(self.recent))

    def reuse(self, task_id: str, chosen: Sequence[int]) -> None:
        """Send other documents under a task id that was used: they must be refused, or they would be lost."""
        documents = [self.document(n, versioned=False) for n in chosen]

        def stage() -> None:
            try:
                staging.stage(self.index, task_id, documents, max_bytes=10**6)
            except InvalidQuery:
                self.done["refused task ids"] += 1
            else:
                self.violations["another message taken for a repetition"] += 1

        self.deliver(stage)

    def deliver(self, message: Callable[[], object]) -> None:
        """Deliver a message again and again until it is acknowledged."""
        while True:
            try:
                message()
                return
            except Crash:
                continue
            except TemporaryError:
                time.sleep(0.05)

    def document(self, n: int, *, versioned: bool = True, poison: float | None = None) -> dict[str, Any]:
        now = int((time.monotonic() - self.began) / ROUND_SECONDS)
        phrases = [f"phrase {k} tells the reader about round {now} at length" for k in range(PHRASES)]
        phrases.append(f"giant {now} that the provider calls too large for one")
        chosen = random.sample(phrases, k=random.randint(0, 7))
        if random.random() < (self.weather.poison if poison is None else poison):
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
            if n % 2 == 0 and versioned:  # half of the documents carry versions, which arrive in random order
                newest = self.versions.get(str(n), 0)
                document["version"] = version = max(1, newest + random.randint(-2, 2))
                self.versions[str(n)] = max(newest, version)
            elif n % 2:  # the others carry a serial number
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
            repairs = sweep.sweep_build(conn, self.build, unchecked_seconds=unchecked_seconds)
        self.violations["chunk without a vector or a queue entry"] += repairs.queued

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
                self.check_served(conn, seen)

    def check_served(self, conn: psycopg.Connection[Any], seen: dict[str, int]) -> None:
        """Check all served documents, as one reader sees them at this moment."""
        for id, rev, title, metadata, text, deleted, chunks, holes in conn.execute(self.query(LIVE)):
            if deleted:
                self.violations["deleted document served"] += 1
                continue
            if (
                text is None
                or zlib.crc32(text.encode()) != metadata["mark"]
                or title not in ("", str(metadata["mark"]))
            ):
                self.violations["mixed revision served"] += 1
            elif "".join("".join(chunks or []).split()) != "".join(text.split()):
                self.violations["chunks of another revision served"] += 1
            if holes:
                self.violations["served chunk without a vector"] += 1
            if rev < seen.get(id, 0):
                self.violations["older revision served after a newer one"] += 1
            seen[id] = rev

    def settle(self) -> None:
        """Without further crashes, finish all work that crashed threads left behind."""
        drainer = Drainer(self.url, self.settings, self.backend)
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            self.consume()
            drainer.drain()
            if self.weather.sweeps:
                self.sweep_once(unchecked_seconds=0.0)
            if self.unfinished() == 0:
                return
            time.sleep(0.1)

    def unfinished(self) -> int:
        with connection.checkout(self.url) as conn:
            figures = status.index_status(conn, self.build)
        return int(figures["documents"]["pending"] + figures["pending_chunks"])

    def check_final_state(self) -> None:
        """Check the invariants that hold after all work is done."""
        self.violations["unfinished work"] += self.unfinished()
        for row in self.catalogue.rows:
            self.catalogue.check(row)
        with connection.checkout(self.url) as conn:
            self.check_served(conn, {})
            for id, version, deleted, head, live, state, text in conn.execute(self.query(HEADS)):
                if not deleted and not (live == head or (state == "failed" and "poison" in text)):
                    self.violations["document lost"] += 1
                if state == "failed" and "poison" not in text:
                    self.violations["valid document failed"] += 1
                if version != self.versions.get(id):
                    self.violations["version lost"] += 1
            for task_id in random.sample(self.jobs, min(len(self.jobs), 1_000)):
                if jobs.job_result(conn, "default", task_id) is None:
                    self.violations["job without a result"] += 1
            taken = Counter(hash for (hash,) in conn.execute("SELECT hash FROM public.taken"))
        if self.weather == CALM:
            # a content is embedded again only after its vector was deleted with the last document that had it
            sent = self.backend.sent.items()
            self.violations["content embedded twice"] += sum(
                max(0, n - 1 - taken[digest(text)]) for text, n in sent
            )
            self.done["contents deleted"] = taken.total()

    def count_recorded(self) -> None:
        """Count violations that the database recorded. A session reports its statistics at its end, or within 10 s."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            deadline = time.monotonic() + 10
            while conn.execute(SESSIONS).fetchone() != (1,) and time.monotonic() < deadline:
                time.sleep(0.05)
            for invariant, query in COUNTS.items():
                row = conn.execute(query).fetchone()
                self.violations[invariant] += row[0] if row else 0

    def __str__(self) -> str:
        done = ", ".join(f"{number:,} {what}" for what, number in self.done.items())
        return f"{done}; violations: {dict(+self.violations) or 0}"


class Drops(Simulation):
    """Messages of one slice and of several are delivered again while the index is dropped and made anew.

    Whoever drops may die before the rows of the dropped index are deleted. In the end every message is delivered once
    more, as a broker does with what was not acknowledged: then each of its documents is in the index.
    """

    def __init__(self, url: str, settings: IndexSettings, weather: Weather) -> None:
        super().__init__(url, settings, weather)
        self.sent: dict[str, list[dict[str, Any]]] = {}

    def prepare(self) -> None:
        staging.ensure_index(self.index)

    def work(self, seconds: float, at_least: int) -> None:
        steps = [*[lambda n=n: self.produce(n) for n in range(PRODUCERS)], self.drop]
        threads = [threading.Thread(target=self.repeat, args=(step,)) for step in steps]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.over.set()
        for thread in threads:
            thread.join(60)
        self.violations["thread hangs"] += sum(thread.is_alive() for thread in threads)

    def produce(self, producer: int) -> None:
        self.done["messages"] += 1
        task_id = f"{producer}-{self.done['messages']}-{random.random()}"
        documents = [
            {"id": f"{task_id}/{n}", "text": f"Document {n}."}
            for n in range(random.choice((1, 3, SLICES_DOCUMENTS)))
        ]
        self.sent[task_id] = documents
        self.deliver_documents(task_id)
        if random.random() < 2 * REDELIVERIES:
            self.done["redeliveries"] += 1
            self.deliver_documents(random.choice(list(self.sent)))

    def deliver_documents(self, task_id: str) -> None:
        documents = self.sent[task_id]
        self.deliver(lambda: staging.stage(self.index, task_id, documents, max_bytes=10**6))
        self.done["stagings"] += 1

    def drop(self) -> None:
        time.sleep(DROP_SECONDS)
        task_id = str(random.random())

        def drop() -> None:
            with pytest.MonkeyPatch.context() as patch, connection.checkout(self.url) as conn:
                if random.random() < 0.5:
                    patch.setattr(indexes, "purge", lambda conn: None)
                indexes.drop(conn, "default", task_id, configured=True)

        self.deliver(drop)
        self.done["drops"] += 1

    def settle(self) -> None:
        self.sent = dict(random.sample(list(self.sent.items()), min(len(self.sent), 60)))
        for task_id in self.sent:
            self.deliver_documents(task_id)
        drainer = Drainer(self.url, self.settings, self.backend)
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline and any(self.result(task_id) is None for task_id in self.sent):
            drainer.drain()

    def result(self, task_id: str) -> Mapping[str, Any] | None:
        with connection.checkout(self.url) as conn:
            try:
                return jobs.job_result(conn, "default", task_id)
            except InvalidQuery:
                return {}

    def check_final_state(self) -> None:
        for task_id, documents in self.sent.items():
            result = self.result(task_id)
            if result is None:
                self.violations["job without a result"] += 1
            elif result.get("indexed", 0) + result.get("unchanged", 0) != len(documents):
                self.violations["documents left out of the new index"] += 1

    def count_recorded(self) -> None:
        """Nothing: the witnesses of the other weathers belong to one build."""
