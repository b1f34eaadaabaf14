"""The transactional outbox with real workers: the application sends no message."""

import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import errors as pg
from psycopg import sql

from tests.fixtures.proxy import Proxy
from tests.fixtures.rig import FAST_TIMES
from tests.fixtures.system import CHAT, EMBED, PROCESSES, STAGING, System, eventually
from worker.store.statements import tables

pytestmark = pytest.mark.slow

RECIPE = (Path(__file__).parents[2] / "examples/triggers.sql").read_text()
CHANGES = int(os.environ.get("OUTBOX_CHANGES", "2000"))
CONNECTIONS = 4
ENQUEUE = "SELECT vector_index.enqueue_document(%s, %s, %s)"


def connect(system: System) -> "psycopg.Connection[Any]":
    return psycopg.connect(system.environment["DATABASE_URL"], autocommit=True)


def of_build(conn: "psycopg.Connection[Any]", index: str, query: Any) -> list[tuple[Any, ...]]:
    """Query the tables of the index's live build; return nothing before the index has one."""
    found = conn.execute("SELECT live_build FROM vector_index.indexes WHERE name = %s", [index]).fetchone()
    if found is None or found[0] is None:
        return []
    return conn.execute(sql.SQL(query).format(**tables(found[0]))).fetchall()


def live(conn: "psycopg.Connection[Any]", index: str) -> dict[str, tuple[str, str, Any]]:
    """The served title, text and metadata by id."""
    query = (
        "SELECT d.id, r.title, r.text, r.metadata FROM {served} s JOIN vector_index.documents d USING (doc) "
        "JOIN vector_index.revisions r ON r.rev = s.live_rev"
    )
    return {id: (title, text, metadata) for id, title, text, metadata in of_build(conn, index, query)}


def test_enqueued_document_is_searchable_only_after_commit(system: System, index: str) -> None:
    with connect(system) as conn:
        with conn.transaction(force_rollback=True):
            conn.execute(ENQUEUE, [index, "never", "Ships cross the sea."])
        with conn.transaction():
            conn.execute(ENQUEUE, [index, 1, "Cats chase mice."])
        eventually(lambda: live(conn, index))
    rows = system.call("tasks.search", CHAT, query="cats", index=index)
    assert [row["document_id"] for row in rows] == ["1"]
    outbox = system.call("tasks.status", index=index)["outbox"]
    assert outbox == {"waiting": 0, "oldest_seconds": 0.0, "rejected": 0, "unknown_indexes": {}}


def test_document_that_cannot_be_staged_is_listed_as_failed(system: System, index: str) -> None:
    with connect(system) as conn:
        conn.execute(ENQUEUE, [index, "large", "x" * 10_000_001])
        listed = eventually(lambda: system.call("tasks.failures", index=index)["failures"])
        assert [(row["id"], row["searchable"]) for row in listed] == [("large", False)]
        assert "text has 10,000,001 bytes, over MAX_DOCUMENT_BYTES" in listed[0]["error"]
        assert system.call("tasks.status", index=index)["outbox"]["rejected"] == 1
        assert system.call("tasks.retry", index=index)["retried"] == 1
        eventually(lambda: system.call("tasks.failures", index=index)["failures"])
        system.call("tasks.delete_documents", ids=["large"], index=index)
        assert system.call("tasks.failures", index=index)["failures"] == []
        assert conn.execute("SELECT FROM vector_index.outbox WHERE index_name = %s", [index]).fetchall() == []


def test_doctor_reports_outbox_rows_of_an_unknown_index(system: System) -> None:
    with connect(system) as conn:
        conn.execute(ENQUEUE, ["pagse", "a", "Words."])
        try:
            done = system.command("doctor", "--offline")
            state = system.command("status")
        finally:
            conn.execute("DELETE FROM vector_index.outbox WHERE index_name = 'pagse'")
    assert done.returncode == 2
    assert "FAIL  outbox            the outbox has 1 row for 'pagse'" in done.stdout
    assert "outbox: 1 row for the index 'pagse', which is not in INDEXES" in state.stdout
    assert "0 rows pending" in system.command("doctor", "--offline").stdout


def test_document_is_searchable_within_seconds_of_its_commit(system: System, index: str) -> None:
    """Commits one document at a time, each at a random moment between two polls."""
    seconds = []
    with connect(system) as conn:
        for n in range(101):
            time.sleep(random.uniform(0, 0.5))
            conn.execute(ENQUEUE, [index, n, f"Number {n} comes before number {n + 1}."])
            began = time.monotonic()
            eventually(lambda n=n: len(live(conn, index)) == n + 1)
            seconds.append(time.monotonic() - began)
    seconds = seconds[1:]  # the first makes the index
    centiles = statistics.quantiles(seconds, n=20)
    print(
        f"\n{len(seconds)} documents, from commit to searchable: median {statistics.median(seconds):.2f} s, "
        f"95% {centiles[-1]:.2f} s, at most {max(seconds):.2f} s"
    )
    assert statistics.median(seconds) < 2


def test_outbox_is_indexed_during_a_broker_outage(start_system: Callable[..., Any], tmp_path: Path) -> None:
    with (
        start_system(tmp_path, {}) as servers,
        Proxy(urlsplit(servers.environment["BROKER_URL"]).port) as proxy,
    ):
        address = urlsplit(servers.environment["BROKER_URL"])
        broker = servers.environment["BROKER_URL"].replace(f":{address.port}", f":{proxy.port}")
        system = System(folder=tmp_path, environment={**servers.environment, "BROKER_URL": broker})
        try:
            for name, arguments in PROCESSES.items():
                system.start(name, arguments)
            system.await_queues(STAGING, EMBED, CHAT)
            with connect(system) as conn:
                proxy.cut()
                for n in range(250):
                    conn.execute(ENQUEUE, ["default", n, f"Number {n}."])
                began = time.monotonic()
                eventually(lambda: len(live(conn, "default")) == 250)
                print(f"\n250 documents without a broker: {time.monotonic() - began:.1f} s")
        finally:
            proxy.restore()
            system.stop()


class Author(threading.Thread):
    """A thread that changes random pages in transactions of one to three changes; some roll back."""

    def __init__(self, system: System, seed: int, changes: int) -> None:
        super().__init__(name=f"author-{seed}")
        self.system, self.random, self.left, self.committed = system, random.Random(seed), changes, 0

    def run(self) -> None:
        with connect(self.system) as conn:
            while self.left > 0:
                # authors may conflict with each other, as in any application
                with suppress(pg.DeadlockDetected, pg.UniqueViolation):
                    self.transact(conn)

    def transact(self, conn: "psycopg.Connection[Any]") -> None:
        changes = self.random.randint(1, 3)
        self.left -= changes
        rolls_back = self.random.random() < 0.1
        with conn.transaction(force_rollback=rolls_back):
            for _ in range(changes):
                self.change(conn)
        self.committed += 0 if rolls_back else changes

    def change(self, conn: "psycopg.Connection[Any]") -> None:
        id, other = self.random.randrange(300), self.random.randrange(300)
        values = {"id": id, "other": other, "body": f"Page {id}, draft {self.random.random()}."}
        statements = {
            "INSERT INTO pages (id, title, body) VALUES (%(id)s, 'Page', %(body)s) "
            "ON CONFLICT (id) DO UPDATE SET body = excluded.body": 30,
            "UPDATE pages SET body = %(body)s, author = 'Ann' WHERE id = %(id)s": 30,
            "UPDATE pages SET views = views + 1 WHERE id = %(id)s": 10,
            "UPDATE pages SET id = %(other)s WHERE id = %(id)s": 8,
            "DELETE FROM pages WHERE id = %(id)s": 20,
            "INSERT INTO pages (id, body) SELECT n, %(body)s FROM generate_series(%(id)s, %(id)s + 9) n "
            "ON CONFLICT DO NOTHING": 1.7,
            "TRUNCATE pages": 0.3,
        }
        [chosen] = self.random.choices(list(statements), list(statements.values()))
        conn.execute(chosen.encode(), values)


@pytest.mark.timeout(600)
def test_index_equals_its_table_after_concurrent_random_changes(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    """Four connections and the trigger recipe; half-way the embedding worker is killed."""
    (tmp_path / "ours.py").write_text(FAST_TIMES)
    with (
        start_system(tmp_path, VECTOR_INDEX_SETTINGS=str(tmp_path / "ours.py")) as system,
        connect(system) as conn,
    ):
        conn.execute(
            "CREATE TABLE pages (id bigint PRIMARY KEY, title text, body text, author text, views int DEFAULT 0)"
        )
        conn.execute(
            "INSERT INTO pages SELECT n, 'Page', 'Page ' || n || ', as it was.' FROM generate_series(1, 300) n"
        )
        eventually(lambda: conn.execute("SELECT to_regclass('vector_index.outbox')").fetchone() != (None,))
        conn.execute(RECIPE.encode())
        began = time.monotonic()
        authors = [Author(system, seed, CHANGES // CONNECTIONS) for seed in range(CONNECTIONS)]
        for author in authors:
            author.start()
        eventually(lambda: sum(author.left for author in authors) < CHANGES / 2, 300)
        system.kill("embed")
        system.start("embed", PROCESSES["embed"])
        for author in authors:
            author.join()
        changed = time.monotonic() - began

        def at_rest() -> bool:
            state = system.call("tasks.status")
            return not (state["outbox"]["waiting"] or state["documents"]["pending"])

        eventually(at_rest, 240)
        rested = time.monotonic() - began
        found = system.call("tasks.verify")
        assert found["healthy"], found
        expected = {
            str(id): (title or "", body, {"author": author})
            for id, title, body, author in conn.execute("SELECT id, title, body, author FROM pages")
        }
        assert live(conn, "default") == expected
        assert expected
        print(
            f"\n{sum(author.committed for author in authors):,} of {CHANGES:,} changes committed in {changed:.1f} s, "
            f"at rest after {rested:.1f} s; {len(expected)} pages, index and table equal, verify healthy"
        )
