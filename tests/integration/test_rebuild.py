"""An index is rebuilt under other settings while it is searched and changed."""

import threading
from collections.abc import Sequence

import pytest
from psycopg import errors as pg

from tests.fixtures.application import LONG, Application, HashBackend, faulty
from tests.fixtures.rebuilding import ChangingApplication
from tests.fixtures.system import eventually
from worker.errors import InvalidQuery, Refused
from worker.indexing import rebuilding
from worker.store import connection, indexes, rebuilds, status, writing
from worker.store.builds import Build
from worker.store.rebuilds import RebuildRequest


@pytest.fixture
def shop(application: Application) -> ChangingApplication:
    shop = ChangingApplication(application)
    shop.put(*({"id": str(n), "text": f"Book number {n} tells of the year {1900 + n}."} for n in range(30)))
    return shop


def test_rebuild_takes_an_index_to_another_model(shop: ChangingApplication) -> None:
    shop.change(HashBackend(dimensions=24))
    assert shop.search("year 1907")[0] == "7"  # under the old model
    new = shop.rebuild()
    assert shop.live_build().build == new.build
    assert shop.live_build().dimensions == 24
    assert shop.search("year 1907")[0] == "7"
    assert shop.states() == [(1, "retired"), (2, "live")]


def test_rebuild_under_the_same_settings_does_nothing(shop: ChangingApplication) -> None:
    assert rebuilding.begin(shop.target, RebuildRequest(task_id="once")) is None


@pytest.mark.parametrize(
    "settings",
    [{"language": "german"}, {"distance": "l2"}, {"language": "simple", "distance": "inner_product"}],
)
def test_another_language_or_distance_costs_no_request(
    shop: ChangingApplication, settings: dict[str, str]
) -> None:
    before = shop.sent
    shop.change(**settings)
    new = shop.rebuild()
    assert shop.sent == before
    assert {**shop.live_build().recipe} == {**new.recipe}
    assert shop.search("year 1907", mode="text")[0] == "7"


def test_another_chunk_size_sends_only_chunks_that_are_new(shop: ChangingApplication) -> None:
    shop.put({"id": "long", "text": LONG})
    before = shop.sent
    shop.change(chunk_tokens=60)
    shop.rebuild()
    [(new,)] = shop.rows(
        "SELECT count(*) FROM (SELECT hash FROM vector_index.chunks_2 EXCEPT SELECT hash FROM vector_index.chunks_1) c"
    )
    assert 0 < shop.sent - before == new
    assert shop.search("number 33 follows")[0] == "long"


def test_documents_that_change_during_a_rebuild_reach_both_builds(shop: ChangingApplication) -> None:
    shop.change(HashBackend(dimensions=24))
    new = shop.begin()
    shop.advance(new, seconds=0.01)
    task_id = shop.stage(
        {"id": "3", "text": "Now it tells of whales."}, {"id": "fresh", "text": "All about squid."}
    )
    shop.delete("4")
    shop.drain()
    assert (shop.result(task_id) or {})["indexed"] == 2
    assert shop.search("whales")[0] == "3"
    assert shop.finish(new).state == "live"
    assert shop.search("whales")[0] == "3"
    assert shop.search("squid")[0] == "fresh"
    assert "4" not in shop.search("book number", limit=100)


def test_the_live_build_publishes_only_what_the_closing_build_has(shop: ChangingApplication) -> None:
    old = shop.drainers[0]
    shop.change(HashBackend(dimensions=24))
    new = shop.begin()
    shop.close(new)
    shop.stage({"id": "3", "text": "Now it tells of whales."})
    old.drain()
    assert shop.state("3")["state"] == "pending"  # the old build has its vectors, and waits for the new one
    shop.drain()
    assert shop.state("3")["state"] == "live"
    assert shop.finish(new).state == "live"


def test_a_closing_phase_that_takes_too_long_ends(
    shop: ChangingApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a provider that is slow would hold up changes of documents in the live build, too."""
    old = shop.drainers[0]
    shop.change(HashBackend(dimensions=24))
    new = shop.begin()
    while shop.states() != [(1, "live"), (2, "closing")]:
        shop.advance(new, seconds=0)
    shop.stage({"id": "3", "text": "Now it tells of whales."})
    old.drain()
    assert shop.state("3")["state"] == "pending"
    monkeypatch.setattr("worker.indexing.rebuilding.CLOSING_SECONDS", 0.0)
    shop.rows("UPDATE vector_index.builds SET error = 'away' WHERE build = 2 RETURNING 1")
    shop.advance(new, seconds=0.2)
    assert shop.states() == [(1, "live"), (2, "filling")]
    assert shop.state("3")["state"] == "live"


def test_a_document_whose_newest_revision_failed_keeps_the_older_one(shop: ChangingApplication) -> None:
    def refuse(texts: list[str]) -> Exception | None:
        return Refused("no") if any("forbidden" in text for text in texts) else None

    faulty(shop.backend, refuse)
    shop.stage({"id": "3", "text": "A forbidden text."})
    shop.drain()
    assert shop.state("3") == {"state": "failed", "version": None, "searchable": True, "error": "no"}
    wider = HashBackend(dimensions=24)
    faulty(wider, refuse)
    shop.change(wider)
    shop.rebuild()
    shop.drain()
    assert shop.state("3") == {"state": "failed", "version": None, "searchable": True, "error": "no"}
    assert shop.search("book number 3 year 1903")[0] == "3"


def test_a_document_that_only_the_new_model_refuses_keeps_the_old_build(shop: ChangingApplication) -> None:
    wider = HashBackend(dimensions=24)
    faulty(wider, lambda texts: Refused("too odd") if any("1903" in text for text in texts) else None)
    shop.change(wider)
    new = shop.begin()
    step = shop.finish(new)
    assert step.state == "blocked"
    assert step.lag is not None
    assert (step.lag.failed, step.lag.ids, step.lag.errors) == (
        1,
        ["3"],
        ["too odd"],
    )
    assert shop.search("year 1907")[0] == "7"
    shop.delete("3")
    assert shop.finish(new).state == "live"


def test_a_document_that_fails_first_in_the_new_build_does_not_end_the_rebuild(
    shop: ChangingApplication,
) -> None:
    """The live build still waits for its answer: it may fail there, too, and readers keep the older revision."""

    def refuse(texts: list[str]) -> Exception | None:
        return Refused("no") if any("forbidden" in text for text in texts) else None

    old, wider = shop.drainers[0], HashBackend(dimensions=24)
    faulty(shop.backend, refuse)
    faulty(wider, refuse)
    shop.change(wider)
    new = shop.begin()
    shop.stage({"id": "3", "text": "A forbidden text."})
    states = "SELECT state, count(*) FROM vector_index.served_2 GROUP BY state ORDER BY state"
    while shop.rows(states) != [("failed", 1), ("live", 29)]:
        shop.advance(new, seconds=0.1)
        shop.drainer.drain()
    assert shop.advance(new, seconds=0.2).state == "filling"
    old.drain()
    assert shop.finish(new).state == "live"
    assert shop.search("book number 3 year 1903")[0] == "3"


def test_a_deletion_waits_for_a_transaction_that_fills_documents_with_the_same_contents(
    shop: ChangingApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the deletion takes the vector on which the uncommitted chunk of the other document relies."""
    shop.put({"id": "twin-a", "text": "Both say this."}, {"id": "twin-b", "text": "Both say this."})
    shop.change(HashBackend(dimensions=24))
    new = shop.begin()
    monkeypatch.setattr("worker.indexing.rebuilding.DOCUMENTS_PER_TRANSACTION", 1)
    queue, deletion = writing.queue_contents, threading.Thread(target=shop.delete, args=("twin-a",))
    [(other,)] = shop.rows("SELECT doc FROM vector_index.documents WHERE id = 'twin-b'")

    def delete_before_the_commit(
        conn: connection.Connection, build: Build, docs: Sequence[int], *rest: int
    ) -> object:
        queued = queue(conn, build, docs, *rest)
        if build.build == new.build and list(docs) == [other]:
            deletion.start()
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            eventually(lambda: not deletion.is_alive() or shop.rows(waiting) != [(0,)])
        return queued

    monkeypatch.setattr(writing, "queue_contents", delete_before_the_commit)
    while shop.rows("SELECT count(*) FROM vector_index.served_2") == [(0,)] or not deletion.ident:
        shop.advance(new, seconds=0.1)
    deletion.join()
    without = (
        "SELECT count(*) FROM vector_index.chunks_2 c WHERE NOT EXISTS (SELECT FROM vector_index.embeddings_2 e WHERE "
        "e.hash = c.hash) AND NOT EXISTS (SELECT FROM vector_index.pending_2 p WHERE p.hash = c.hash)"
    )
    assert shop.rows(without) == [(0,)]
    assert shop.finish(new).state == "live"


def test_cancel_drops_the_new_build(shop: ChangingApplication) -> None:
    shop.change(HashBackend(dimensions=24))
    new = shop.begin()
    shop.advance(new, seconds=0.01)
    with connection.checkout(shop.url) as conn:
        assert rebuilds.cancel(conn, shop.live_build(), "stop") == new.build
        assert rebuilds.cancel(conn, shop.live_build(), "stop") is None
    assert shop.states() == [(1, "live")]
    assert shop.advance(new).state == "cancelled"
    shop.put({"id": "after", "text": "Squid."})
    assert shop.search("squid")[0] == "after"


def test_roll_back_brings_neither_old_texts_nor_deleted_documents_back(shop: ChangingApplication) -> None:
    shop.change(HashBackend(dimensions=24))
    shop.rebuild(keep_old=True)
    shop.put({"id": "3", "text": "Now it tells of whales."}, {"id": "fresh", "text": "All about squid."})
    shop.delete("4")
    old = shop.roll_back()
    assert shop.finish(old).state == "live"
    assert shop.live_build().build == 1
    assert shop.search("whales")[0] == "3"
    assert shop.search("squid")[0] == "fresh"
    assert "4" not in shop.search("book number", limit=100)


def test_the_vectors_of_a_build_that_is_filled_again_count_as_kept(shop: ChangingApplication) -> None:
    shop.change(HashBackend(dimensions=24))
    shop.rebuild(keep_old=True)
    shop.put({"id": "fresh", "text": "All about squid."})
    old = shop.roll_back()
    assert shop.finish(old).state == "live"
    with connection.checkout(shop.url) as conn:
        figures = status.rebuild_progress(conn, shop.target.name, old.build)
        [(vectors,)] = conn.execute("SELECT count(*) FROM vector_index.embeddings_1")
    assert figures is not None
    assert figures["embedded"] == 1
    assert figures["copied"] == vectors - 1


def test_roll_back_can_be_cancelled(shop: ChangingApplication) -> None:
    shop.change(HashBackend(dimensions=24))
    shop.rebuild(keep_old=True)
    old = shop.roll_back()
    with connection.checkout(shop.url) as conn:
        assert rebuilds.cancel(conn, shop.live_build(), "stop") == old.build
    assert shop.states() == [(1, "retired"), (2, "live")]


def test_settings_that_go_back_find_the_kept_build(shop: ChangingApplication) -> None:
    first = shop.backend
    shop.change(HashBackend(dimensions=24))
    shop.rebuild(keep_old=True)
    before = shop.sent
    shop.change(first)
    assert shop.rebuild().build == 1
    assert shop.sent == before


def test_a_retired_build_goes_after_its_grace_period(
    shop: ChangingApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.change(language="german")
    shop.rebuild()
    with connection.checkout(shop.url) as conn:
        assert rebuilds.drop_expired(conn) == 0
        monkeypatch.setattr(rebuilds, "GRACE_SECONDS", 0.0)
        with connection.connect(shop.url) as reader, reader.transaction():
            reader.execute("SELECT FROM vector_index.chunks_1")
            assert rebuilds.drop_expired(conn) == 0  # a search reads it
        assert rebuilds.drop_expired(conn) == 1
    assert shop.states() == [(2, "live")]
    with pytest.raises(InvalidQuery, match="has no earlier build"):
        shop.roll_back()


def test_a_kept_build_stays_until_it_is_dropped(
    shop: ChangingApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilds, "GRACE_SECONDS", 0.0)
    shop.change(language="german")
    shop.rebuild(keep_old=True)
    with connection.checkout(shop.url) as conn:
        assert rebuilds.drop_expired(conn) == 0
        assert rebuilds.drop_old(conn, shop.live_build(), "now") == [1]
    assert shop.states() == [(2, "live")]


def test_a_second_rebuild_under_other_settings_is_refused(shop: ChangingApplication) -> None:
    shop.change(HashBackend(dimensions=24))
    shop.begin()
    shop.change(HashBackend(dimensions=32))
    with pytest.raises(InvalidQuery, match="is being rebuilt as build 2 under other settings"):
        shop.begin()


def test_a_deletion_reaches_a_build_that_is_being_filled_and_a_retired_one(shop: ChangingApplication) -> None:
    shop.change(language="german")
    shop.rebuild(keep_old=True)
    shop.change(HashBackend(dimensions=24))
    shop.advance(shop.begin(), seconds=0.1)
    shop.drain()
    shop.delete("3")
    for build in (1, 2, 3):
        for table in ("chunks", "embeddings"):
            [(rows,)] = shop.rows(f"SELECT count(*) FROM vector_index.{table}_{build}")
            assert rows == 29, f"{table}_{build}"


def test_a_lock_that_others_hold_delays_the_switch(shop: ChangingApplication) -> None:
    """The switch waits a second at most, so that everything behind it goes on."""
    shop.change(language="german")
    new = shop.begin()
    shop.close(new)
    with connection.connect(shop.url) as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", [0x76697700, new.index_id])
        with connection.checkout(shop.url) as conn:
            pair = rebuilds.pair(conn, new.index_id, new.build)
            assert pair is not None
            with pytest.raises(pg.LockNotAvailable):
                rebuilds.switch(conn, pair)
    assert shop.finish(new).state == "live"


def test_dropping_an_index_ends_its_rebuild(shop: ChangingApplication) -> None:
    shop.change(HashBackend(dimensions=24))
    new = shop.begin()
    shop.advance(new, seconds=0.0)
    with connection.checkout(shop.url) as conn:
        indexes.drop(conn, "default", "drop", configured=True)
    assert shop.advance(new).state == "cancelled"
    shop.put({"id": "after", "text": "All about squid."})
    assert shop.search("squid") == ["after"]


def test_settings_that_change_in_the_middle_are_applied_by_the_next_rebuild(
    shop: ChangingApplication,
) -> None:
    shop.change(HashBackend(dimensions=24))
    new = shop.begin()
    shop.advance(new, seconds=0.0)
    shop.change(HashBackend(dimensions=32))
    assert shop.finish(new).state == "live"
    assert shop.live_build().dimensions == 24
    shop.rebuild()
    assert shop.live_build().dimensions == 32
    assert shop.search("year 1907")[0] == "7"
