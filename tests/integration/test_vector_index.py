"""The vector index follows the load: created afterwards, dropped for a large one, and `status` says so meanwhile."""

import threading
from typing import Any

import psycopg
import pytest

from tests.fixtures.application import Application, HashBackend
from worker.store import builds, connection, hnsw, statistics
from worker.store.builds import Build

FEW = [{"id": f"few-{n}", "text": f"Owl number {n} sees mouse {n}."} for n in range(20)]
MANY = [{"id": f"many-{n}", "text": f"Fox number {n} hears hare {n}."} for n in range(40)]
DIMENSIONS = HashBackend.dimensions


@pytest.fixture
def large(application: Application, monkeypatch: pytest.MonkeyPatch) -> Application:
    """An index of 20 documents, which is large here; any growth since the last look is a load."""
    monkeypatch.setattr(hnsw, "MIN_NUMBERS", len(FEW) * DIMENSIONS)
    monkeypatch.setattr(hnsw, "FAST_NUMBERS", 0)
    monkeypatch.setattr(hnsw, "LOOK_SECONDS", 0.0)
    application.put(*FEW)
    return application


def live(application: Application) -> Build:
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, application.index.name)
    assert build is not None
    return build


def look(application: Application, *, later: float = 0.0) -> str | None:
    """What the sweep finds to do, so many seconds later."""
    with connection.checkout(application.url) as conn:
        conn.execute(
            "UPDATE vector_index.builds SET loading_at = loading_at - %(s)s * interval '1 second', "
            "seen_at = seen_at - %(s)s * interval '1 second'",
            {"s": later},
        )
        return hnsw.look(conn, live(application))


def told(application: Application) -> str:
    with connection.checkout(application.url) as conn:
        return hnsw.describe(conn, live(application))["state"]


def create(application: Application) -> None:
    assert look(application) is None
    assert look(application, later=hnsw.CALM_SECONDS) == "create"
    assert hnsw.apply(application.url, live(application)) == "create"


def test_it_is_created_once_the_load_is_over(large: Application) -> None:
    assert look(large) is None
    assert told(large) == "waiting"
    large.stage(*MANY)
    assert look(large, later=hnsw.CALM_SECONDS) is None  # much is pending
    large.drainer.drain()
    assert look(large) is None
    assert look(large, later=hnsw.CALM_SECONDS) == "create"
    assert hnsw.apply(large.url, live(large)) == "create"
    assert told(large) == "ready"
    assert look(large, later=hnsw.STALLED_SECONDS) is None


def test_a_large_load_drops_it_and_searches_go_on(large: Application) -> None:
    create(large)
    assert large.search("owl number 7")[0] == "few-7"
    large.stage(*MANY)
    assert look(large, later=1.0) is None  # nothing moves yet
    large.put({"id": "more", "text": "A bat."})
    large.stage(*({**document, "text": document["text"] + " At night."} for document in MANY))
    assert look(large, later=1.0) == "drop"
    assert hnsw.apply(large.url, live(large)) == "drop"
    assert told(large) == "waiting"
    assert large.search("owl number 7")[0] == "few-7"
    large.drainer.drain()
    look(large)
    assert look(large, later=hnsw.CALM_SECONDS) == "create"


def test_status_tells_how_much_is_built_and_nobody_else_begins(large: Application) -> None:
    build = live(large)
    look(large)
    assert look(large, later=hnsw.CALM_SECONDS) == "create"
    done: list[Any] = []
    building = threading.Thread(target=lambda: done.append(hnsw.apply(large.url, build)))
    with psycopg.connect(large.url) as writer:  # Postgres waits for its transaction
        writer.execute("LOCK TABLE vector_index.embeddings_1 IN ROW EXCLUSIVE MODE")
        building.start()
        with connection.checkout(large.url) as conn:
            while hnsw.describe(conn, build) != {"state": "building", "progress": 0.0}:
                assert building.is_alive()
        assert look(large) is None
        assert hnsw.apply(large.url, build) is None
    building.join(60)
    assert done == ["create"]
    assert told(large) == "ready"


def parallel(application: Application, **settings: str) -> tuple[list[str], Any]:
    """Create the index in a session with these settings; the server's messages, and the options of the table."""
    messages: list[str] = []
    with connection.connect(application.url) as conn:
        for name, value in settings.items():
            conn.execute("SELECT set_config(%s, %s, false)", [name, value])
        conn.execute("SET client_min_messages = debug1")
        conn.add_notice_handler(lambda diagnostic: messages.append(diagnostic.message_primary or ""))
        hnsw.create(conn, live(application), vectors=len(FEW))
        row = conn.execute("SELECT reloptions FROM pg_class WHERE relname = 'embeddings_1'").fetchone()
    assert row is not None
    return [message for message in messages if message.startswith('building index "embeddings_1_hnsw"')], row[
        0
    ]


def test_several_processes_build_it(large: Application) -> None:
    messages, options = parallel(large)
    [message] = messages
    assert message.endswith("with request for 2 parallel workers")
    assert not options
    assert told(large) == "ready"


def test_a_server_without_the_shared_memory_builds_it_in_one_process(large: Application) -> None:
    """The server has less than two terabytes."""
    messages, options = parallel(large, maintenance_work_mem="2147483647kB")
    failed, message = messages
    assert failed.endswith("with request for 2 parallel workers")
    assert message.endswith("serially")
    assert not options
    assert told(large) == "ready"


def test_tables_are_analyzed_after_a_load(large: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "FEW_ROWS", len(FEW))
    with connection.checkout(large.url) as conn:
        build = live(large)
        assert statistics.analyze_if_stale(conn, build)
        known = "SELECT count(*) FROM pg_stats WHERE tablename = 'served_1' AND attname = 'live_rev'"
        assert conn.execute(known).fetchone() == (1,)
        assert not statistics.analyze_if_stale(conn, build)
        large.put(*MANY)
        while not statistics.analyze_if_stale(conn, build):  # the server counts changes a little later
            conn.execute("SELECT pg_stat_clear_snapshot()")
        assert not statistics.analyze_if_stale(conn, build)
