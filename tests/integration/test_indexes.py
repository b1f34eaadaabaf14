"""Pausing, resuming and dropping an index."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.fixtures.application import Application, during_request, faulty
from tests.fixtures.system import eventually
from tests.fixtures.verification import found, verify
from worker.errors import BuildDropped, InvalidQuery, Refused, ServiceUnreachable
from worker.indexing import staging
from worker.indexing.draining.drainer import Drainer
from worker.store import builds, connection, deletion, garbage, indexes, sweep, writing

# number of rows of the index "default" by table, without the tables of its builds
LEFT = """
SELECT 'documents', count(*) FROM vector_index.documents
UNION ALL SELECT 'revisions', count(*) FROM vector_index.revisions
UNION ALL SELECT 'jobs', count(*) FROM vector_index.jobs
UNION ALL SELECT 'job_documents', count(*) FROM vector_index.job_documents
UNION ALL SELECT 'builds', count(*) FROM vector_index.builds
UNION ALL SELECT 'reindexing', count(*) FROM vector_index.reindexing
UNION ALL SELECT 'runs', count(*) FROM vector_index.runs
UNION ALL SELECT 'schedules', count(*) FROM vector_index.schedules
UNION ALL SELECT 'outbox', count(*) FROM vector_index.outbox
UNION ALL SELECT 'refusals', count(*) FROM vector_index.refusals
"""
TABLES = "SELECT count(*) FROM pg_class WHERE relnamespace = 'vector_index'::regnamespace AND relname ~ '_{build}(_|$)'"
PETS = [{"id": "cats", "text": "Cats sleep."}, {"id": "dogs", "text": "Dogs bark."}]


def change(application: Application, what: str, task_id: str = "", name: str = "default") -> Any:
    with connection.checkout(application.url) as conn:
        return getattr(indexes, what)(conn, name, task_id or str(uuid4()))


def drop(application: Application, task_id: str = "", name: str = "default", **options: Any) -> Any:
    with connection.checkout(application.url) as conn:
        return indexes.drop(conn, name, task_id or str(uuid4()), **{"configured": False, **options})


def remaining(application: Application) -> dict[str, int]:
    return {table: rows for table, rows in application.rows(LEFT) if rows}


def execute(application: Application, *statements: str) -> None:
    with connection.checkout(application.url) as conn:
        for statement in statements:
            conn.execute(statement.encode())


# Pausing


def test_documents_for_a_paused_index_are_accepted_and_wait(application: Application) -> None:
    """Search and delete still work, no job counts as stuck, and all documents become live after resume."""
    application.put(*PETS)
    since = change(application, "pause")
    assert since is not None
    requests = list(application.backend.requests)
    task_id = application.stage({"id": "ships", "text": "Ships cross the sea."})
    fresh = Drainer(application.url, application.index.embedding_backend, application.backend)
    assert fresh.drain() == 0
    assert application.backend.requests == requests
    assert application.result(task_id) is None
    assert application.search("dogs bark")[0] == "dogs"
    assert application.delete("cats") == staging.Deleted(deleted=1)
    execute(application, "UPDATE vector_index.served_1 SET checked_at = '-infinity'")
    with connection.checkout(application.url) as conn:
        [build] = builds.all_writable(conn)
        assert sweep.sweep_build(conn, build, unchecked_seconds=0) == sweep.Repairs()
        assert indexes.paused_at(conn, "default") is not None
    assert not [row for row in verify(application)["checks"] if row["fault"] and row["found"]]
    assert change(application, "resume") is None
    assert Drainer(application.url, application.index.embedding_backend, application.backend).drain() == 1
    assert (application.result(task_id) or {})["indexed"] == 1


def test_a_running_drainer_notices_a_pause_within_its_refresh_time(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application.put(*PETS)
    application.stage({"id": "ships", "text": "Ships cross the sea."})
    change(application, "pause")
    monkeypatch.setattr("worker.indexing.draining.claiming.BUILDS_SECONDS", 0.0)
    assert application.drainer.drain() == 0
    change(application, "resume")
    assert application.drainer.drain() == 1


def test_a_pause_does_not_affect_other_indexes_of_the_backend(application: Application) -> None:
    application.put(*PETS)
    change(application, "pause")
    application.index = replace(application.index, name="other")
    application.stage({"id": "ships", "text": "Ships cross the sea."})
    drainer = Drainer(application.url, application.index.embedding_backend, application.backend)
    assert drainer.drain() == 1
    assert application.state("ships")["state"] == "live"


def test_a_late_pause_message_does_not_undo_a_newer_one(application: Application) -> None:
    application.put(*PETS)
    since = change(application, "pause", "first")
    assert change(application, "pause", "again") == since
    assert change(application, "resume", "second") is None
    assert change(application, "pause", "first") is None
    assert change(application, "pause", "third") is not None
    assert change(application, "resume", "second") is not None


@pytest.mark.parametrize("what", ["pause", "resume"])
def test_an_unknown_index_cannot_be_paused_or_resumed(application: Application, what: str) -> None:
    with pytest.raises(
        InvalidQuery, match="index 'default' does not exist: it is created with its first document"
    ):
        change(application, what)


# Dropping


def fill(application: Application) -> None:
    """Create rows of an index in every table."""
    application.put(*PETS)
    application.put(PETS[0] | {"text": "Cats purr."})
    application.stage({"id": "ships", "text": "Ships cross the sea."}, {"id": "bad"})
    faulty(application.backend, lambda _: Refused("no"))
    application.put({"id": "refused", "text": "Nobody takes this."})
    execute(
        application,
        "INSERT INTO vector_index.reindexing VALUES (1, 'task', gen_random_uuid(), now())",
        "INSERT INTO vector_index.runs (index_name, task_id, outcome) VALUES ('default', 'task', 'done')",
        "INSERT INTO vector_index.schedules (index_name, schedule, timezone, due_at) "
        "VALUES ('default', '60', 'UTC', now())",
        "SELECT vector_index.enqueue_document('default', 'enqueued'::text, 'Words.')",
    )


def test_drop_deletes_all_rows_of_the_index_and_none_of_another(application: Application) -> None:
    fill(application)
    assert len(remaining(application)) == 10
    assert drop(application) == {"documents": 4, "builds": 1, "enqueued": 1}
    assert remaining(application) == {}
    assert application.rows(TABLES.format(build=1)) == [(0,)]
    assert application.search("cats") == []

    default, application.index = application.index, replace(application.index, name="other")
    application.stage({"id": "ships", "text": "Ships cross the sea."})
    application.index = default
    application.stage(*PETS)
    assert drop(application, name="other") == {"documents": 1, "builds": 1, "enqueued": 0}
    assert remaining(application)["documents"] == 2


def test_drop_keeps_the_schedule_of_a_configured_index(application: Application) -> None:
    fill(application)
    drop(application, configured=True)
    assert remaining(application) == {"schedules": 1}


def test_a_redelivered_drop_does_not_drop_a_new_index_of_the_same_name(
    application: Application,
) -> None:
    application.put(*PETS)
    assert drop(application, "first") == {"documents": 2, "builds": 1, "enqueued": 0}
    assert application.put(*PETS)["indexed"] == 2
    assert drop(application, "first") == {"documents": 2, "builds": 1, "enqueued": 0}
    assert application.search("dogs bark")[0] == "dogs"
    # the same holds for a drop that found no index
    drop(application, "second")
    assert drop(application, "third") == {"documents": 0, "builds": 0, "enqueued": 0}
    application.put(*PETS)
    assert drop(application, "third") == {"documents": 0, "builds": 0, "enqueued": 0}
    assert application.search("dogs bark")[0] == "dogs"


def test_the_next_drop_or_collection_completes_an_interrupted_drop(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first transaction hides the index; a later drop or collection deletes the remaining rows."""
    application.put(*[{"id": n, "text": f"Words number {n}."} for n in range(7)])
    monkeypatch.setattr(indexes, "SLICE", 2)

    def die(_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(indexes, "purge", die)
        with pytest.raises(SystemExit):
            drop(application, "died")
    assert application.search("words") == []
    assert remaining(application)["documents"] == 7
    application.stage(*PETS)
    assert drop(application, "died") == {"documents": 7, "builds": 1, "enqueued": 0}
    assert remaining(application)["documents"] == 2
    with connection.checkout(application.url) as conn:
        assert garbage.collections_due(conn, seconds=0, erased_seconds=0) == ["default"]
        conn.execute(
            "UPDATE vector_index.indexes SET dropped_at = now() - interval '8 days' WHERE dropped_at < now()"
        )
        indexes.purge(conn)
        assert conn.execute("SELECT name FROM vector_index.indexes").fetchall() == [("default",)]


def test_drop_waits_for_readers_and_is_never_partial(
    application: Application,
) -> None:
    application.put(*PETS)
    for held in ("SELECT pg_advisory_xact_lock_shared(1986623232, 1)", "SELECT FROM vector_index.chunks_1"):
        with psycopg.connect(application.url) as reader:
            reader.execute(held.encode())
            with pytest.raises(ServiceUnreachable, match="lock timeout"):
                drop(application, "patient")
        assert application.search("dogs bark")[0] == "dogs"
    assert drop(application, "patient") == {"documents": 2, "builds": 1, "enqueued": 0}


def test_drop_deletes_outbox_rows_that_a_worker_has_locked(application: Application) -> None:
    """A remaining row would create the index again."""
    execute(application, "SELECT vector_index.enqueue_document('default', 'a', 'Words.')")
    with psycopg.connect(application.url) as looking:
        looking.execute("SELECT FROM vector_index.outbox FOR UPDATE")
        over = threading.Timer(0.3, looking.rollback)
        over.start()
        assert drop(application)["enqueued"] == 1
        over.join()
    assert remaining(application) == {}


def test_a_request_in_flight_for_a_dropped_index_ends_without_an_error(
    application: Application,
    caplog: pytest.LogCaptureFixture,
) -> None:
    default = application.index
    application.stage(*PETS)
    began = time.monotonic()

    def drop_and_stage() -> None:
        drop(application)
        application.index = replace(default, name="other")
        application.stage({"id": "ships", "text": "Ships cross the sea."})

    during_request(application.backend, drop_and_stage)
    assert application.drainer.step()
    assert application.drainer.drain() == 1
    assert application.state("ships")["state"] == "live"
    assert time.monotonic() - began < 10
    assert not caplog.records


def test_a_search_during_a_drop_raises_build_dropped(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application.put(*PETS)
    embed = application.backend.embed

    def dropped_meanwhile(texts: Sequence[str]) -> Any:
        drop(application)
        return embed(texts)

    monkeypatch.setattr(application.backend, "embed", dropped_meanwhile)
    with pytest.raises(BuildDropped, match="was dropped while it was being used: try again"):
        application.search("dogs")
    assert application.search("dogs") == []


@pytest.mark.parametrize("what", ["stage", "delete", "delete matching"])
def test_a_write_during_a_drop_raises_build_dropped_and_succeeds_when_retried(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    application.put(*PETS)
    module = writing if what == "stage" else deletion  # patch the last step before the transaction
    write = getattr(module, "stage" if what == "stage" else "delete")

    def late(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        drop(application)
        return write(*args, **options)

    monkeypatch.setattr(module, write.__name__, late)
    steps: dict[str, Any] = {
        "stage": lambda: application.stage({"id": "ships", "text": "Ships cross the sea."}, task_id="late"),
        "delete": lambda: application.delete("cats"),
        "delete matching": lambda: staging.delete_matching(
            application.target, "late", {}, None, everything=True
        ),
    }
    with pytest.raises(BuildDropped):
        steps[what]()
    done = steps[what]()
    if what == "stage":
        application.drainer.drain()
        assert application.search("ships") == ["ships"]
    else:
        assert done == staging.Deleted()
    assert remaining(application).get("documents", 0) == (what != "delete matching")


def test_a_job_of_a_dropped_index_is_unknown(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task_id = application.stage(*PETS)
    monkeypatch.setattr(
        indexes, "purge", lambda _: None
    )  # the job is unknown at once, before its rows are deleted
    drop(application)
    with pytest.raises(InvalidQuery, match=f"job {task_id} is unknown"):
        application.result(task_id)


def test_a_drop_meets_no_deadlock_with_a_claim(application: Application) -> None:
    """A claim locks the queue and then reads vectors; a drop needs all tables at once."""
    application.put(*PETS)
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'vector_index.pending_1'::regclass"
    errors: list[Exception] = []

    def drop_build() -> None:
        try:
            with connection.checkout(application.url) as conn, conn.transaction():
                [build] = builds.every(conn, builds.index_key(conn, "default"))
                builds.drop_tables(conn, build, seconds=60)
        except Exception as error:  # noqa: BLE001 any error fails the test
            errors.append(error)

    dropping = threading.Thread(target=drop_build)
    with psycopg.connect(application.url) as claiming:
        claiming.execute("SELECT FROM vector_index.pending_1")
        dropping.start()
        eventually(lambda: application.rows(waits))
        claiming.execute("SELECT FROM vector_index.embeddings_1")
    dropping.join(60)
    assert not errors
    assert application.rows("SELECT to_regclass('vector_index.pending_1') IS NULL") == [(True,)]


def test_concurrent_writes_and_drops_leave_at_most_one_build(application: Application) -> None:
    """Threads stage, drain, search and drop; they meet temporary errors only."""
    over = time.monotonic() + 3
    errors: list[Exception] = []

    def repeat(step: Any) -> None:
        while time.monotonic() < over:
            try:
                step()
            except (BuildDropped, ServiceUnreachable):
                continue
            except Exception as error:  # noqa: BLE001 any other error fails the test
                errors.append(error)
                return

    def put() -> None:
        staging.stage(application.target, str(uuid4()), PETS, max_bytes=1000)

    def search() -> None:
        application.search("dogs bark")

    def end() -> None:
        time.sleep(0.1)
        drop(application)

    steps = [put, put, application.drainer.drain, search, end]
    threads = [threading.Thread(target=repeat, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    application.drainer = Drainer(application.url, application.index.embedding_backend, application.backend)
    application.put(*PETS)
    assert application.search("dogs bark")[0] == "dogs"
    assert application.rows("SELECT count(*) FROM vector_index.builds") == [(1,)]
    assert application.rows("SELECT count(*) FROM vector_index.indexes WHERE dropped_at IS NOT NULL") >= [
        (1,)
    ]
    assert found(verify(application)) == {}
    drop(application)
    assert remaining(application) == {}
    assert application.rows(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'vector_index'::regnamespace AND relname ~ '_[0-9]+$'"
    ) == [(0,)]
