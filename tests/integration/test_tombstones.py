"""Tombstones reject late messages for 30 days after a deletion."""

from uuid import uuid4

import psycopg
import pytest

from tests.fixtures.application import Application
from worker.indexing import staging
from worker.store import builds, connection, garbage, indexes
from worker.store.garbage import TOMBSTONE_DAYS

DOCUMENTS = "SELECT id FROM vector_index.documents ORDER BY id"


def age(application: Application, days: float) -> None:
    """Move the last change of all documents into the past."""
    application.rows(
        f"UPDATE vector_index.documents SET changed_at = now() - {days} * interval '1 day' RETURNING 1"
    )


def deleted_tombstones(application: Application) -> int:
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, "default")
        assert build is not None
        return garbage.collect_index(conn, build.index_id).tombstones


def test_only_tombstones_are_deleted_after_thirty_days(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More tombstones than a slice holds, and one for a document that never arrived."""
    monkeypatch.setattr(garbage, "SLICE", 2)
    application.put(*[{"id": n, "text": f"Words of {n}.", "version": 1} for n in range(5)])
    application.delete("0", "1", "3", "4", "unknown", version=2)
    age(application, TOMBSTONE_DAYS - 1)
    assert deleted_tombstones(application) == 0
    assert application.put({"id": "0", "text": "Late words.", "version": 1})["stale"] == 1
    age(application, TOMBSTONE_DAYS + 1)
    assert deleted_tombstones(application) == 5
    assert application.rows(DOCUMENTS) == [("2",)]
    assert application.search("words") == ["2"]
    assert application.put({"id": "0", "text": "New words.", "version": 1})["indexed"] == 1


@pytest.mark.parametrize("deleted_again", [False, True])
def test_a_document_that_returns_during_the_deletion_of_its_tombstone_stays(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
    deleted_again: bool,
) -> None:
    """The collection has found the tombstone, and checks it again under the lock."""
    application.put({"id": "a", "text": "Words.", "version": 1})
    application.delete("a", version=2)
    age(application, TOMBSTONE_DAYS + 1)
    delete = garbage._delete

    def overtaken(*args: object) -> int:
        monkeypatch.setattr(garbage, "_delete", delete)
        application.put({"id": "a", "text": "Words again.", "version": 3})
        if deleted_again:
            application.delete("a", version=4)
        return delete(*args)  # type: ignore[arg-type]

    with connection.checkout(application.url) as conn:
        build = builds.live(conn, "default")
        assert build is not None
        monkeypatch.setattr(garbage, "_delete", overtaken)
        assert garbage.delete_tombstones(conn, build) == 0
    assert application.rows(DOCUMENTS) == [("a",)]
    assert application.put({"id": "a", "text": "Late words.", "version": 2})["stale"] == 1


LATE = {"id": "a", "text": "Late words.", "version": 6}


def enqueue(application: Application, id: str, version: int) -> None:
    with psycopg.connect(application.url, autocommit=True) as conn:
        conn.execute(
            "SELECT vector_index.enqueue_document('default', %s, 'Words.', '', '{\"user\": 1}', %s)",
            [id, version],
        )


@pytest.mark.parametrize("way", ["by id", "of an enqueued text, by id", "of an enqueued text, by a filter"])
def test_a_deletion_before_the_index_exists_leaves_a_tombstone(
    application: Application,
    way: str,
) -> None:
    """The deletion needs no provider, because only a document creates the tables."""
    if way == "by id":
        application.delete("a", version=7)
    else:
        enqueue(application, "a", 7)
        if way == "of an enqueued text, by id":
            application.delete("a")
        else:
            staging.delete_matching(application.target, str(uuid4()), {"user": 1}, None)
    with connection.checkout(application.url) as conn:
        assert builds.live(conn, "default") is None
    assert application.delete("a", version=6) == staging.Deleted(stale=1)
    assert application.put(LATE)["stale"] == 1
    assert application.put(LATE | {"version": 7})["indexed"] == 1
    assert application.search("words") == ["a"]


def test_a_redelivered_deletion_before_the_index_exists_is_ignored(application: Application) -> None:
    """The redelivery arrives after the document returned, and must keep it."""
    first = staging.delete(application.target, "task", ["a"], None)
    application.put(LATE)
    assert staging.delete(application.target, "task", ["a"], None) == first
    assert application.state("a")["state"] == "live"


def test_drop_deletes_the_tombstones_of_an_index_without_documents(application: Application) -> None:
    application.delete("a", version=7)
    with connection.checkout(application.url) as conn:
        report = indexes.drop(conn, "default", "task", configured=True)
    assert report == {"documents": 0, "builds": 0, "enqueued": 0}
    assert application.rows("SELECT count(*) FROM vector_index.documents") == [(0,)]
    assert application.put(LATE)["indexed"] == 1
