"""The vector index follows the load: created afterwards, dropped for a large one, and `status` says so meanwhile."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from tests.fixtures.application import Application, HashBackend, vector
from tests.fixtures.system import eventually
from worker.configuration import HNSWSettings
from worker.indexing import rebuilding
from worker.indexing.rebuilding import Rebuilder
from worker.store import builds, connection, hnsw, search, statistics
from worker.store.builds import Build
from worker.store.filters import compile_filter
from worker.store.rebuilds import RebuildRequest

FEW = [{"id": f"few-{n}", "text": f"Owl number {n} sees mouse {n}."} for n in range(20)]
MANY = [{"id": f"many-{n}", "text": f"Fox number {n} hears hare {n}."} for n in range(40)]
DIMENSIONS = HashBackend.dimensions
DESIGN = HNSWSettings()


@pytest.fixture
def large(application: Application, monkeypatch: pytest.MonkeyPatch) -> Application:
    """An index of 20 documents, which is large here; any growth since the last look is a load."""
    monkeypatch.setattr(hnsw, "MIN_NUMBERS", len(FEW) * hnsw.MIN_WIDTH)
    monkeypatch.setattr(hnsw, "FAST_NUMBERS", 0)
    monkeypatch.setattr(hnsw, "LOOK_SECONDS", 0.0)
    application.put(*FEW)
    return application


def live(application: Application) -> Build:
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, application.index.name)
    assert build is not None
    return build


def look(application: Application, *, later: float = 0.0, design: HNSWSettings | None = DESIGN) -> str | None:
    """What the sweep finds to do, so many seconds later."""
    with connection.checkout(application.url) as conn:
        conn.execute(
            "UPDATE vector_index.builds SET loading_at = loading_at - %(s)s * interval '1 second', "
            "seen_at = seen_at - %(s)s * interval '1 second'",
            {"s": later},
        )
        return hnsw.look(conn, live(application), design)


def told(application: Application) -> str:
    with connection.checkout(application.url) as conn:
        return hnsw.describe(conn, live(application), DESIGN)["state"]


def create(application: Application) -> None:
    assert look(application) is None
    assert look(application, later=hnsw.CALM_SECONDS) == "create"
    assert hnsw.apply(application.url, live(application), DESIGN) == "create"


def test_it_is_created_once_the_load_is_over(large: Application) -> None:
    assert look(large) is None
    assert told(large) == "waiting"
    large.stage(*MANY)
    assert look(large, later=hnsw.CALM_SECONDS) is None  # much is pending
    large.drainer.drain()
    assert look(large) is None
    assert look(large, later=hnsw.CALM_SECONDS) == "create"
    assert hnsw.apply(large.url, live(large), DESIGN) == "create"
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
    assert hnsw.apply(large.url, live(large), DESIGN) == "drop"
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
    building = threading.Thread(target=lambda: done.append(hnsw.apply(large.url, build, DESIGN)))
    with psycopg.connect(large.url) as writer:  # Postgres waits for its transaction
        writer.execute("LOCK TABLE vector_index.embeddings_1 IN ROW EXCLUSIVE MODE")
        building.start()
        with connection.checkout(large.url) as conn:
            while hnsw.describe(conn, build, DESIGN) != {"state": "building", "progress": 0.0}:
                assert building.is_alive()
        assert look(large) is None
        assert hnsw.apply(large.url, build, DESIGN) is None
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
        hnsw.create(conn, live(application), DESIGN, vectors=len(FEW))
        row = conn.execute("SELECT reloptions FROM pg_class WHERE relname = 'embeddings_1'").fetchone()
    assert row is not None
    return [
        message for message in messages if message.startswith('building index "embeddings_1_hnsw_16_64"')
    ], row[0]


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


def names(application: Application) -> set[str]:
    """The vector indexes of the live build."""
    rows = application.rows("SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%USING hnsw%'")
    return {name for (name,) in rows}


def change(application: Application, design: HNSWSettings | None) -> str | None:
    """What the next sweep does after a change of the setting."""
    action = look(application, design=design)
    assert hnsw.apply(application.url, live(application), design) == action
    return action


def test_a_changed_setting_replaces_the_index_alone(large: Application) -> None:
    create(large)
    assert names(large) == {"embeddings_1_hnsw_16_64"}
    assert change(large, HNSWSettings(m=8)) == "create"
    assert names(large) == {"embeddings_1_hnsw_8_64"}
    assert change(large, HNSWSettings(m=8, ef_search=10)) is None
    assert change(large, None) == "drop"
    assert names(large) == set()
    with connection.checkout(large.url) as conn:
        assert hnsw.describe(conn, live(large), None)["state"] == "none"


def test_searches_go_on_while_the_index_is_replaced(large: Application) -> None:
    """Postgres waits for a writer between both indexes, so that searches meet the state in between."""
    create(large)
    other = HNSWSettings(m=8)
    with psycopg.connect(large.url) as writer:
        writer.execute("LOCK TABLE vector_index.embeddings_1 IN ROW EXCLUSIVE MODE")
        building = threading.Thread(target=lambda: hnsw.apply(large.url, live(large), other))
        building.start()
        while names(large) != {"embeddings_1_hnsw_16_64", "embeddings_1_hnsw_8_64"}:
            assert building.is_alive()
        assert large.search("owl number 7")[0] == "few-7"
        assert told(large) == "ready"
    building.join(60)
    assert names(large) == {"embeddings_1_hnsw_8_64"}


def test_ef_search_applies_to_the_next_search(large: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    nearest = search.nearest

    def noting(conn: connection.Connection, *arguments: Any, **options: Any) -> Any:
        used.append(conn.execute("SHOW hnsw.ef_search").fetchone())
        return nearest(conn, *arguments, **options)

    monkeypatch.setattr(search, "nearest", noting)
    large.search("owl number 7")
    large.index = replace(large.index, hnsw=HNSWSettings(ef_search=200))
    large.search("owl number 7")
    assert (used[0], used[-1]) == (("100",), ("200",))


@pytest.mark.parametrize("vector_type", ["vector", "halfvec"])
def test_an_index_of_bits_finds_what_comparing_all_vectors_finds(
    application: Application, monkeypatch: pytest.MonkeyPatch, vector_type: Literal["vector", "halfvec"]
) -> None:
    """All 60 vectors are compared again."""
    application.index = replace(application.index, vector_type=vector_type)
    application.put(*FEW, *MANY)
    build = live(application)
    question = vector("owl number 7", DIMENSIONS).astype(np.float32)

    def nearest() -> list[tuple[bytes, float | None]]:
        with connection.checkout(application.url) as conn, search.snapshot(conn):
            found = search.nearest(
                conn, live(application), question, candidates=9, where=compile_filter(None)
            )
        return [(hit.hash, hit.distance) for hit in found.hits]

    exact = nearest()
    design = HNSWSettings(quantisation="binary")
    with connection.connect(application.url) as conn:
        hnsw.create(conn, build, design, vectors=60)
    assert live(application).quantised
    assert nearest() == exact
    with connection.checkout(application.url) as conn:
        monkeypatch.setattr(hnsw, "MIN_NUMBERS", 1)
        conn.execute("UPDATE vector_index.builds SET loading_at = 'epoch'")
        assert hnsw.look(conn, build, None) == "drop"
    assert hnsw.apply(application.url, build, None) == "drop"
    assert not live(application).quantised
    assert nearest() == exact


def test_another_vector_type_is_a_rebuild_without_a_request(application: Application) -> None:
    application.put(*FEW)
    before = application.search("owl number 7")
    sent = len(application.backend.requests)
    application.index = replace(application.index, vector_type="halfvec")
    new = rebuilding.begin(application.target, RebuildRequest(task_id="rebuild"))
    assert new is not None
    assert Rebuilder(index=application.target, build=new.build).advance(seconds=30).state == "live"
    assert len(application.backend.requests) == sent
    assert application.search("owl number 7") == before
    [(column,)] = application.rows(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = 'vector_index.embeddings_2'::regclass AND attname = 'embedding'"
    )
    assert column == f"halfvec({DIMENSIONS})"


def test_a_number_that_halfvec_cannot_hold_fails_its_document_alone(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.indexing.draining.backoff.BACKOFF_SECONDS", 0.002)
    application.index = replace(application.index, vector_type="halfvec")
    embed = application.backend.embed

    def embed_huge(texts: Sequence[str]) -> NDArray[np.float32]:
        factors = [[1e6 if "huge" in text else 1.0] for text in texts]
        return embed(texts) * np.array(factors, dtype=np.float32)

    application.backend.embed = embed_huge  # type: ignore[method-assign]
    application.stage({"id": "a", "text": "A huge one."}, {"id": "b", "text": "A small one."})
    eventually(lambda: [application.drainer.drain(), application.state("a")["state"] == "failed"][1])
    assert "beyond 65,504, the most that halfvec holds: set VECTOR_TYPE" in application.state("a")["error"]
    assert application.state("b")["state"] == "live"
