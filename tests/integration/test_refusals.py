"""A refused document leaves a trace for operators of applications that read no results, on real Postgres."""

import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from tests.fixtures.application import Application, faulty
from tests.fixtures.shelf import Shelf, run
from worker.errors import Refused
from worker.indexing import outbox, staging
from worker.observability import metrics
from worker.protocols import Skipped
from worker.store import builds, connection, garbage, status

LARGE = "A large text. " * 1_000
TOO_LARGE = "text has 14,000 bytes, over MAX_DOCUMENT_BYTES (10,000): split the document or raise the setting"


def listed(application: Application) -> dict[str, tuple[str, str, bool]]:
    """State, error and searchable of each row of `failures`, by id."""
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, "default")
        assert build is not None
        rows = status.failed_documents(conn, build, after="", limit=100)
    return {row["id"]: (row["state"], row["error"], row["searchable"]) for row in rows}


def refused(application: Application) -> int:
    with connection.checkout(application.url) as conn:
        return int(status.index_status(conn, builds.live(conn, "default"))["refused"])


def enqueue(application: Application, id: str, text: str) -> None:
    with psycopg.connect(application.url, autocommit=True) as conn:
        conn.execute("SELECT vector_index.enqueue_document('default', %s::text, %s)", [id, text])
    while outbox.stage_page(application.target, max_bytes=10_000):
        pass
    application.drainer.drain()


def test_a_refused_document_is_listed_with_its_reason_and_without_its_text(application: Application) -> None:
    application.put({"id": "a", "text": LARGE}, {"id": "b", "text": "Words."})
    assert listed(application) == {"a": ("refused", TOO_LARGE, False)}
    assert application.state("a") == {
        "state": "refused",
        "version": None,
        "searchable": False,
        "error": TOO_LARGE,
    }
    assert refused(application) == 1
    assert "A large text" not in str(application.rows("SELECT r::text FROM vector_index.refusals r"))


def test_the_older_revision_of_a_refused_document_stays_searchable(application: Application) -> None:
    application.put({"id": "a", "text": "Words."})
    application.put({"id": "a", "text": LARGE})
    assert application.state("a")["state"] == "refused"
    assert listed(application)["a"][2]
    assert application.search("words") == ["a"]


@pytest.mark.parametrize("way", ["sent", "unchanged", "enqueued", "deleted", "read from the source"])
def test_a_refusal_ends_when_its_document_is_taken_or_deleted(shop: Application, way: str) -> None:
    shop.put({"id": "a", "text": "Words."})
    shop.put({"id": "a", "text": LARGE})
    if way == "sent":
        shop.put({"id": "a", "text": "Other words."})
    elif way == "unchanged":
        shop.put({"id": "a", "text": "Words."})
    elif way == "enqueued":
        enqueue(shop, "a", "Other words.")
    elif way == "deleted":
        shop.delete("a")
    else:
        run(shop, Shelf({"a": "Words."}))
    assert listed(shop) == {}
    assert shop.state("a")["error"] is None
    assert refused(shop) == 0


def test_a_refusal_of_a_document_that_was_never_stored_ends_with_its_deletion(
    application: Application,
) -> None:
    application.put({"id": "a", "text": LARGE})
    application.delete("a")
    assert listed(application) == {}


def test_versions_order_a_refusal_among_the_changes_of_its_document(application: Application) -> None:
    application.put({"id": "a", "text": "Words.", "version": 5})
    application.put({"id": "a", "text": LARGE, "version": 4})
    assert listed(application) == {}, "a stale document is stale, refused or not"
    application.put({"id": "a", "text": LARGE, "version": 7})
    application.put({"id": "a", "text": "Late words.", "version": 6})
    assert application.state("a")["state"] == "refused"
    application.put({"id": "a", "text": LARGE + LARGE, "version": 6})
    assert listed(application)["a"][1] == TOO_LARGE
    application.put({"id": "a", "text": "New words.", "version": 8})
    assert listed(application) == {}


def test_the_last_of_several_documents_with_one_id_counts(application: Application) -> None:
    application.put({"id": "a", "text": LARGE}, {"id": "a", "text": "Words."})
    assert listed(application) == {}
    application.put({"id": "a", "text": "Words."}, {"id": "a", "text": LARGE})
    assert listed(application)["a"][0] == "refused"
    many = [{"id": "b", "text": "Words."}, *({"id": n, "text": "Words."} for n in range(150))]
    application.put(*many, {"id": "b", "text": LARGE})
    assert application.state("b")["state"] == "refused"


def test_documents_without_an_id_are_named_by_their_place(application: Application) -> None:
    message = [{"text": "Words."}, "a string", {"id": ["a"], "text": "x"}]
    one, other = application.stage(*message), application.stage(*message)
    assert listed(application).keys() == {f"#{at} of task {task}" for task in (one, other) for at in range(3)}
    application.delete(f"#0 of task {one}")
    assert len(listed(application)) == 5


def test_a_redelivered_message_refuses_nothing_anew(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = application.stage({"id": "a", "text": LARGE})
    application.put({"id": "a", "text": "Words."})
    caplog.clear()
    application.stage({"id": "a", "text": LARGE}, task_id=task_id)
    assert listed(application) == {}
    assert "documents_refused" not in caplog.text


def test_the_list_is_read_in_pages(application: Application) -> None:
    faulty(application.backend, lambda texts: Refused("no") if "Poison." in texts else None)
    application.put(
        *({"id": f"r{n}", "text": LARGE} for n in range(3)),
        *({"id": f"f{n}", "text": "Poison."} for n in range(3)),
    )
    found: list[str] = []
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, "default")
        assert build is not None
        while page := status.failed_documents(conn, build, after=found[-1] if found else "", limit=2):
            found += [row["id"] for row in page]
    assert found == ["f0", "f1", "f2", "r0", "r1", "r2"]


def test_a_retry_leaves_refused_documents_out(application: Application) -> None:
    application.put({"id": "a", "text": LARGE})
    assert staging.retry(application.target, staging.failed_ids(application.target)).docs == []
    assert application.state("a")["state"] == "refused"


class Shop(Shelf):
    """A source that cannot read one of its files."""

    skipped: Any = None

    def documents(self) -> Iterator[Any]:
        yield from super().documents()
        if self.skipped:
            yield self.skipped


def test_a_source_refuses_and_takes_documents_like_a_message(shop: Application) -> None:
    shelf = Shop({"1": "Words.", "2": LARGE})
    shelf.skipped = Skipped(path="pages.jsonl, line 7", reason="it is not JSON", id=None)
    run(shop, shelf)
    assert {id: row[:2] for id, row in listed(shop).items()} == {
        "2": ("refused", TOO_LARGE),
        "pages.jsonl, line 7": ("refused", "it is not JSON"),
    }
    shelf.skipped = None
    shelf.texts = {"1": "Words."}
    run(shop, shelf)
    assert listed(shop) == {}, "a whole run refuses again what is still wrong"


def test_places_in_a_source_are_counted_over_its_pages(
    shop: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.indexing.reindexing.DOCUMENTS_AT_ONCE", 2)
    shelf = Shop({str(n): "Words." for n in range(3)})
    shelf.skipped = {"text": "no id"}
    assert [failure["id"] for failure in run(shop, shelf)["failed"]] == ["#3"]


def test_refusals_expire(application: Application) -> None:
    application.put({"id": "old", "text": LARGE}, {"id": "new", "text": LARGE})
    with connection.checkout(application.url) as conn:
        conn.execute(
            "UPDATE vector_index.refusals SET refused_at = now() - interval '31 days' WHERE id = 'old'"
        )
        garbage.collect_index(conn, 1)
    assert listed(application).keys() == {"new"}


@pytest.mark.parametrize("way", ["sent", "enqueued"])
def test_a_refusal_is_logged_and_counted(
    application: Application, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    registry = CollectorRegistry()
    monkeypatch.setattr(metrics, "_families", metrics.define_families(registry))
    with caplog.at_level(logging.WARNING):
        if way == "sent":
            application.put({"id": "a", "text": LARGE}, {"id": "b", "text": LARGE})
        else:
            enqueue(application, "a", LARGE)
            enqueue(application, "b", LARGE)
    fields = [vars(record)["fields"] for record in caplog.records if record.msg == "documents_refused"]
    assert [id for line in fields for id in line["ids"]] == ["a", "b"]
    assert all((line["index"], line["error"]) == ("default", TOO_LARGE) for line in fields)
    labels = {"index": "default", "reason": "refused"}
    assert registry.get_sample_value("vector_index_documents_failed_total", labels) == 2
