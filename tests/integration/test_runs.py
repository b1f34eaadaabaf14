"""Runs of reindexing: their history, unchanged documents, cursors."""

import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from psycopg import sql

from tests.fixtures.application import Application
from tests.fixtures.shelf import DyingSource, Shelf, WorkerKilled, ids, reindex, run
from worker.configuration import SourceSettings
from worker.errors import Refused, SettingsError, SourceFailed
from worker.indexing import reindexing as product
from worker.protocols import Skipped
from worker.sources.sql import SQLSource
from worker.store import connection, jobs
from worker.store.reindexing import ReindexRequest
from worker.store.statements import statement

COLUMNS = "task_id, outcome, read, staged, unchanged, deleted, rejected, message"


@pytest.fixture
def shelf() -> Shelf:
    return Shelf({str(number): f"Book number {number}." for number in range(30)})


def history(shop: Application, columns: str = COLUMNS) -> list[tuple[Any, ...]]:
    return shop.rows(f"SELECT {columns} FROM vector_index.runs ORDER BY run")


# The history


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("delete_old_runs", r"Index Cond: .*\(started_at < "),
        ("last_complete", "Index Scan Backward using runs_done"),
    ],
)
def test_a_long_history_is_not_read_as_a_whole(shop: Application, name: str, condition: str) -> None:
    """A schedule of two seconds makes four million runs in 90 days; each run executes these statements."""
    text = sql.SQL("EXPLAIN ") + statement("reindexing.sql", name)
    with connection.checkout(shop.url) as conn:
        conn.execute(
            "INSERT INTO vector_index.runs (index_name, task_id, outcome, started_at, finished_at) "
            "SELECT 'default', n, 'done', now() - n * interval '2 s', now() FROM generate_series(1, 5000) n"
        )
        plan = "\n".join(row[0] for row in conn.execute(text, {"index": "default", "days": 90}))
    assert "Seq Scan" not in plan
    assert re.search(condition, plan)


def test_the_history_records_a_run_with_its_figures(shop: Application, shelf: Shelf) -> None:
    run(shop, shelf, "one")
    shelf.texts |= {"1": "Changed.", "2": "x" * 10_001}
    del shelf.texts["3"]
    run(shop, shelf, "two")
    assert history(shop) == [
        ("one", "done", 30, 30, 0, 0, 0, None),
        ("two", "done", 29, 1, 27, 1, 1, None),
    ]
    assert history(shop, "finished_at >= started_at AND scheduled_for IS NULL") == [(True,), (True,)]


def test_the_history_records_why_a_source_failed(
    shop: Application,
    shelf: Shelf,
) -> None:
    with pytest.raises(SourceFailed) as caught:
        run(shop, Shelf(shelf.texts, breaks_after=20), "one")
    assert history(shop, "outcome, message, finished_at IS NULL") == [("failed", str(caught.value), False)]
    run(shop, shelf, "one")  # tried again
    assert history(shop) == [("one", "done", 30, 30, 0, 0, 0, None)]


def test_the_history_records_wrong_settings(shop: Application) -> None:
    def broken() -> Any:
        raise SettingsError("PATHS of FolderSource is []: give a list")

    request = ReindexRequest(index="default", task_id="one")
    with pytest.raises(SettingsError):
        product.reindex(shop.target, broken, request, max_bytes=99)
    assert history(shop, "outcome, message") == [("failed", "PATHS of FolderSource is []: give a list")]


def test_the_history_hides_the_message_of_a_foreign_error(
    shop: Application,
    shelf: Shelf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may quote a document."""

    def breaks(*_: Any) -> int:
        raise ValueError("the text of a document")

    monkeypatch.setattr(shop.backend, "count_tokens", breaks)
    with pytest.raises(ValueError, match="the text"):
        run(shop, shelf)
    assert history(shop, "outcome, message") == [("failed", "ValueError")]


def test_the_history_records_a_skipped_run(shop: Application, shelf: Shelf) -> None:
    class Slow(Shelf):
        def documents(self) -> Iterator[dict[str, Any]]:
            reindex(shop, Shelf(), "two")
            yield from super().documents()

    run(shop, Slow(shelf.texts), "one")
    assert history(shop, "task_id, outcome") == [("one", "done"), ("two", "skipped")]
    assert "another run of reindex is reading" in history(shop, "message")[1][0]


def test_a_paused_index_is_not_read(shop: Application, shelf: Shelf) -> None:
    run(shop, shelf, "one")
    with connection.checkout(shop.url) as conn:
        conn.execute("UPDATE vector_index.indexes SET paused_at = now()")
    assert "is paused" in str(reindex(shop, Shelf(breaks_after=0), "two"))
    assert history(shop, "task_id, outcome") == [("one", "done"), ("two", "skipped")]


def test_a_run_that_died_and_is_delivered_again_is_one_row(shop: Application, shelf: Shelf) -> None:
    large = Shelf({str(number): f"Book number {number}." for number in range(250)})
    with pytest.raises(WorkerKilled):
        reindex(shop, DyingSource(large.texts), "one")
    assert history(shop, "task_id, outcome") == [("one", "running")]
    run(shop, large, "one")
    assert history(shop) == [("one", "done", 250, 250, 0, 0, 0, None)]


def test_a_run_whose_worker_died_for_good_is_closed_by_the_next(shop: Application, shelf: Shelf) -> None:
    large = {str(number): f"Book number {number}." for number in range(250)}
    with pytest.raises(WorkerKilled):
        reindex(shop, DyingSource(large), "one")
    run(shop, shelf, "two")
    assert history(shop, "task_id, outcome") == [("one", "failed"), ("two", "done")]
    assert "its worker died or hung" in history(shop, "message")[0][0]


def test_runs_are_deleted_from_the_history_after_ninety_days(shop: Application, shelf: Shelf) -> None:
    for name in ("one", "two"):
        run(shop, shelf, name)
    with connection.checkout(shop.url) as conn:
        conn.execute(
            "UPDATE vector_index.runs SET started_at = now() - interval '91 days' WHERE task_id = 'one'"
        )
    run(shop, shelf, "three")
    assert history(shop, "task_id") == [("two",), ("three",)]


# A source that shrinks


def test_a_run_with_a_warning_is_no_measure_for_the_next(
    shop: Application,
    shelf: Shelf,
) -> None:
    """Otherwise a second run on the same small source would delete the rest."""
    run(shop, shelf)
    fewer = Shelf(dict(list(shelf.texts.items())[:5]))
    for _ in range(2):
        assert "returned 5 documents and 30 in the last complete run" in run(shop, fewer)["warning"]
    assert len(ids(shop)) == 30
    assert run(shop, fewer, allow_shrink=True)["deleted"] == 25
    assert "warning" not in run(shop, Shelf(dict(list(fewer.texts.items())[:3])))


def test_the_first_run_is_compared_with_the_size_of_the_index(shop: Application) -> None:
    shop.put(*({"id": str(number), "text": f"Sent {number}."} for number in range(9)))
    result = run(shop, Shelf({"0": "Sent 0."}))
    assert "returned 1 documents and the index holds 9: nothing was deleted" in result["warning"]
    assert len(ids(shop)) == 9


# Unchanged documents


def test_unchanged_documents_write_nothing(shop: Application, shelf: Shelf) -> None:
    run(shop, shelf, "one")
    written = "SELECT count(*), max(slice) FROM vector_index.job{} WHERE task_id = 'two'"
    assert run(shop, shelf, "two")["unchanged"] == 30
    assert shop.rows(written.format("_documents")) == [(0, None)]
    assert shop.rows(written.format("s")) == [(2, 1)], "one to begin with and one to end with"


def test_a_change_of_metadata_alone_sends_no_request(shop: Application, shelf: Shelf) -> None:
    """Except for `important`, which is embedded with every chunk."""

    class Labelled(Shelf):
        label: dict[str, Any]

        def documents(self) -> Iterator[dict[str, Any]]:
            yield from (document | {"metadata": self.label} for document in super().documents())

    labelled = Labelled(shelf.texts)
    labelled.label = {"colour": "red"}
    run(shop, labelled)
    requests = len(shop.backend.requests)
    labelled.label = {"colour": "blue"}
    result = run(shop, labelled)
    assert (result["indexed"], result["embedded"], len(shop.backend.requests)) == (30, 0, requests)
    assert len(shop.search("book", limit=30, filter={"colour": "blue"})) == 30
    labelled.label = {"colour": "blue", "important": "Gardening"}
    assert run(shop, labelled)["embedded"] == 30


def test_a_run_retries_failed_documents(shop: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = shop.backend.embed

    def refuse(texts: Sequence[str]) -> Any:
        if "A text." in texts:
            raise Refused("not this one")
        return embed(texts)

    shelf = Shelf({"a": "A text."})
    with monkeypatch.context() as patch:
        patch.setattr(shop.backend, "embed", refuse)
        assert [failure["id"] for failure in run(shop, shelf)["failed"]] == ["a"]
    result = run(shop, shelf)
    assert (result["indexed"], result["failed"], shop.state("a")["state"]) == (1, [], "live")


def test_a_higher_version_of_unchanged_content_is_stored(shop: Application) -> None:
    class Versioned(Shelf):
        version = 1

        def documents(self) -> Iterator[dict[str, Any]]:
            yield from (document | {"version": self.version} for document in super().documents())

    shelf = Versioned({"a": "A text."})
    run(shop, shelf)
    shelf.version = 7
    assert run(shop, shelf)["unchanged"] == 1
    assert shop.put({"id": "a", "text": "Older.", "version": 6})["stale"] == 1
    shelf.version = 5
    result = run(shop, shelf)
    assert (result["stale"], result["unchanged"], result["deleted"]) == (1, 0, 0)
    assert ids(shop) == {"a"}


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_every_document_that_a_source_returns_counts_once(
    shop: Application,
    page: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A document that the source returns again is stale, on any page, changed in between or not."""
    monkeypatch.setattr(product, "DOCUMENTS_AT_ONCE", page)

    class Repeating(Shelf):
        def documents(self) -> Iterator[dict[str, Any]]:
            for id, text in [("a", "1"), ("a", "1"), ("b", "2"), ("a", "other"), ("c", "3"), ("b", "2")]:
                yield {"id": id, "text": f"Text {text}."}

    shop.put({"id": "b", "text": "Text 2."}, {"id": "gone", "text": "Not in the source."})
    result = run(shop, Repeating())
    counts = [result[key] for key in ("indexed", "unchanged", "stale", "deleted")]
    assert counts == [2, 1, 3, 1]
    assert history(shop, "read") == [(3,)]


def test_an_id_that_postgres_cannot_store_fails_only_its_document(shop: Application) -> None:
    class Odd(Shelf):
        def documents(self) -> Iterator[Any]:
            yield {"id": "\x00\ud800", "text": "A text."}
            yield Skipped(path="document 2", reason="it is not JSON", id="\x00\ud800")
            yield {"id": "a", "text": "A text."}

    result = run(shop, Odd())
    assert (result["indexed"], [failure["id"] for failure in result["failed"]]) == (1, ["\ufffd", "\ufffd"])


# Cursors


@pytest.fixture
def table(shop: Application) -> Application:
    settings = SourceSettings(name="page", class_path="worker.sources.sql.SQLSource")
    shop.index = replace(shop.index, source=settings)
    with connection.checkout(shop.url) as conn:
        conn.execute("CREATE TABLE page (id bigint PRIMARY KEY, body text, changed bigint)")
        conn.execute("INSERT INTO page SELECT n, 'Page ' || n, n FROM generate_series(1, 20) AS n")
    return shop


def pages(shop: Application, where: str = "true") -> SQLSource:
    query = f"SELECT id, body AS text, changed FROM page WHERE {where}"
    return SQLSource(dsn=shop.url, query=query, cursor="changed", cursor_overlap=3)


def test_with_a_cursor_only_newer_rows_are_read_and_full_reads_all(table: Application) -> None:
    assert run(table, pages(table))["indexed"] == 20
    with connection.checkout(table.url) as conn:
        conn.execute("UPDATE page SET body = 'New', changed = 21 WHERE id = 3")
        conn.execute("DELETE FROM page WHERE id = 4")
    second = run(table, pages(table))
    assert (second["indexed"], second["unchanged"], second["deleted"]) == (1, 4, 0)
    assert "4" in ids(table)
    third = run(table, pages(table), full=True)
    assert (third["indexed"], third["unchanged"], third["deleted"]) == (0, 19, 1)
    assert history(table, "incremental, read, message, cursor ->> 'reached'") == [
        (False, 20, None, "17"),
        (True, 5, None, "18"),
        (False, 19, None, "18"),
    ]


def test_a_run_that_failed_does_not_move_the_cursor(table: Application) -> None:
    run(table, pages(table))
    with connection.checkout(table.url) as conn:
        conn.execute("UPDATE page SET body = 'New', changed = 100 WHERE id = 3")

    class Breaking(SQLSource):
        def documents_since(self, cursor: str | None) -> Generator[dict[str, Any], None, str | None]:
            yield from super().documents_since(cursor)
            raise ConnectionError

    broken = Breaking(
        dsn=table.url, query="SELECT id, body AS text, changed FROM page WHERE true", cursor="changed"
    )
    with pytest.raises(SourceFailed):
        run(table, broken)
    with connection.checkout(table.url) as conn:
        conn.execute("UPDATE page SET body = 'Newer', changed = 19 WHERE id = 5")
    assert run(table, pages(table))["indexed"] == 2


def test_a_changed_query_is_read_from_its_beginning(table: Application) -> None:
    run(table, pages(table, "id <= 10"))
    result = run(table, pages(table))
    assert (result["indexed"], result["unchanged"]) == (10, 10)
    assert history(table, "incremental") == [(False,), (False,)]


def test_a_run_with_a_cursor_that_finds_nothing_keeps_its_place(table: Application) -> None:
    run(table, pages(table))
    with connection.checkout(table.url) as conn:
        conn.execute("DELETE FROM page WHERE changed > 10")
    assert run(table, pages(table))["unchanged"] == 0
    assert history(table, "incremental, read, cursor ->> 'reached'")[1] == (True, 0, "17")


@pytest.mark.parametrize("first", [True, False], ids=["first run", "later run"])
def test_a_cursor_does_not_move_past_a_rejected_document(table: Application, first: bool) -> None:
    """It is read again once the cause is removed, here the limit of a text."""
    if not first:
        run(table, pages(table))
    large = "x" * 10_001
    with connection.checkout(table.url) as conn:
        conn.execute("UPDATE page SET body = %s, changed = 30 WHERE id = 3", [large])
        conn.execute("UPDATE page SET body = 'New', changed = 90 WHERE id = 4")
    assert [failure["id"] for failure in run(table, pages(table))["failed"]] == ["3"]
    request = ReindexRequest(index="default", task_id="raised")
    product.reindex(table.target, lambda: pages(table), request, max_bytes=20_000)
    table.drainer.drain()
    assert table.state("3")["state"] == "live"
    assert table.rows("SELECT length(text) FROM vector_index.revisions WHERE length(text) > 10000") == [
        (10_001,)
    ]
    assert history(table, "cursor ->> 'reached'")[-1] == ("87",)


def test_a_cursor_does_not_move_past_a_document_that_changed_during_the_run(table: Application) -> None:
    class Interrupted(SQLSource):
        meanwhile: Any = None

        def documents_since(self, cursor: str | None) -> Generator[dict[str, Any], None, str | None]:
            rows = super().documents_since(cursor)
            yield next(rows)
            if self.meanwhile is not None:
                self.meanwhile()
            return (yield from rows)

    query = "SELECT id, body AS text, changed FROM page"
    source = Interrupted(dsn=table.url, query=query, cursor="changed", cursor_overlap=3)
    run(table, source)
    with connection.checkout(table.url) as conn:
        conn.execute("UPDATE page SET body = 'In the table', changed = 40 WHERE id = 20")
        conn.execute("UPDATE page SET body = 'Later', changed = 90 WHERE id = 5")
    source.meanwhile = lambda: table.put({"id": "20", "text": "Sent during the run."})
    assert run(table, source)["stale"] == 1
    source.meanwhile = None
    assert run(table, source)["indexed"] == 1
    assert table.search("table", limit=1) == ["20"]


@pytest.mark.parametrize("type", ["timestamptz", "timestamp", "date"])
def test_a_row_in_the_future_hides_no_later_change(table: Application, type: str) -> None:
    with connection.checkout(table.url) as conn:
        conn.execute(f"CREATE TABLE note (id bigint PRIMARY KEY, body text, changed {type})".encode())
        conn.execute("INSERT INTO note VALUES (1, 'One', now()), (2, 'Two', now() + interval '2 years')")
    source = SQLSource(
        dsn=table.url, query="SELECT id, body AS text, changed FROM note", cursor="changed", cursor_overlap=60
    )
    assert run(table, source)["indexed"] == 2
    with connection.checkout(table.url) as conn:
        conn.execute("UPDATE note SET body = 'Changed', changed = now() WHERE id = 1")
    assert run(table, source)["indexed"] == 1
    assert history(table, "incremental") == [(False,), (True,)]


def test_a_waiting_task_of_a_run_is_not_sent_again_before_all_is_staged(
    shop: Application,
    shelf: Shelf,
) -> None:
    large = {str(number): f"Book number {number}." for number in range(250)}
    with pytest.raises(WorkerKilled):
        reindex(shop, DyingSource(large), "one")
    with connection.checkout(shop.url) as conn:
        conn.execute("UPDATE vector_index.jobs SET touched_at = now() - interval '5 minutes'")
        assert jobs.quiet(conn, seconds=60) == []
