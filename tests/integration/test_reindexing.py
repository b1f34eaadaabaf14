"""Reindex: sync an index with its source, on real Postgres."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.application import Application
from tests.fixtures.shelf import DyingSource, Shelf, WorkerKilled, ids, reindex, run
from tests.fixtures.system import eventually
from worker.errors import SettingsError, SourceFailed, TemporaryError
from worker.indexing import reindexing as product
from worker.indexing import staging
from worker.sources.files import FolderSource
from worker.store import builds, connection, deletion, jobs, reindexing, writing
from worker.store.reindexing import ReindexRequest
from worker.store.writing import StalePreparation


def test_a_run_indexes_and_counts_everything_and_a_second_run_sends_no_request(
    shop: Application, shelf: Shelf
) -> None:
    first = run(shop, shelf)
    assert first.pop("seconds") > 0
    assert first.pop("tokens") > 0
    assert first == {
        "index": "default", "indexed": 250, "unchanged": 0, "stale": 0, "failed": [],
        "chunks": 250, "embedded": 250, "deleted": 0,
    }  # fmt: skip
    requests = len(shop.backend.requests)
    second = run(shop, shelf)
    assert (second["indexed"], second["unchanged"], second["embedded"]) == (0, 250, 0)
    assert len(shop.backend.requests) == requests


def test_changed_documents_are_embedded_and_missing_ones_deleted(shop: Application, shelf: Shelf) -> None:
    run(shop, shelf)
    shelf.texts["7"] = "A new edition."
    for id in ("8", "9"):
        del shelf.texts[id]
    result = run(shop, shelf)
    assert (result["indexed"], result["unchanged"], result["embedded"]) == (1, 247, 1)
    assert (result["deleted"], "warning" in result) == (2, False)
    assert ids(shop) == set(shelf.texts)


def test_result_says_how_many_characters_were_left_out(shop: Application, tmp_path: Path) -> None:
    """Hidden text of files, told by the source, and inline images of any text, which the index removes."""
    image = "data:image/png;base64," + "A" * 978
    (tmp_path / "a.html").write_text("<p hidden>Words of 18 chars.</p><p>The library opens on Sundays.</p>")
    (tmp_path / "b.md").write_text(f"Text.\n\n![plan]({image})\n")
    assert run(shop, FolderSource(paths=[str(tmp_path)], max_bytes=10_000))["left_out"] == 1_018
    assert run(shop, Shelf({"c": f"Text. ![plan]({image})"}), allow_shrink=True)["left_out"] == 1_000
    assert "left_out" not in run(shop, Shelf({"c": "Text."}))
    assert shop.put({"id": "d", "text": f"Text. ![plan]({image})"})["left_out"] == 1_000


def test_documents_that_applications_send_go_before_reindexing(shop: Application) -> None:
    assert reindex(shop, Shelf({"a": "One book."}), "run") is None
    assert shop.rows("SELECT priority FROM vector_index.pending_1") == [(1,)]


def test_a_source_that_fails_half_way_deletes_nothing_and_says_so(shop: Application, shelf: Shelf) -> None:
    run(shop, shelf)
    fewer = Shelf(dict(list(shelf.texts.items())[50:]), breaks_after=150)
    sentence = r"source 'shelf' failed after 150 documents \(ConnectionError: the shelf fell down\)"
    with pytest.raises(SourceFailed, match=sentence):
        run(shop, fewer)
    assert ids(shop) == set(shelf.texts)
    assert run(shop, shelf)["unchanged"] == 250, "the failed run does not stand in the way of the next"


def test_a_source_that_shrinks_below_half_deletes_nothing_without_allow_shrink(
    shop: Application, shelf: Shelf
) -> None:
    run(shop, shelf)
    fewer = Shelf(dict(list(shelf.texts.items())[:124]))
    result = run(shop, fewer)
    assert result["deleted"] == 0
    assert "returned 124 documents and 250 in the last complete run: nothing was deleted" in result["warning"]
    assert ids(shop) == set(shelf.texts)
    meant = run(shop, fewer, allow_shrink=True)
    assert (meant["deleted"], "warning" in meant) == (126, False)
    assert ids(shop) == set(fewer.texts)


def test_a_source_that_is_suddenly_empty_deletes_nothing(shop: Application, shelf: Shelf) -> None:
    run(shop, shelf)
    assert run(shop, Shelf())["deleted"] == 0
    assert len(ids(shop)) == 250


def test_documents_sent_during_a_run_are_kept(shop: Application, shelf: Shelf) -> None:
    run(shop, shelf)

    class Busy(Shelf):
        def documents(self) -> Iterator[dict[str, Any]]:
            yield from super().documents()
            shop.put({"id": "newcomer", "text": "Sent while the source was read."})

    assert run(shop, Busy(shelf.texts))["deleted"] == 0
    assert "newcomer" in ids(shop)


# Rows that were read before a change


@dataclass
class InHand(Shelf):
    """A source that has all its rows in hand when the application does something; the first row comes before."""

    meanwhile: Callable[[], object] = lambda: None

    def documents(self) -> Iterator[dict[str, Any]]:
        rows = [{"id": id, "text": text, "metadata": {"shelf": 1}} for id, text in self.texts.items()]
        yield from rows[:1]
        self.meanwhile()
        yield from rows[1:]


@pytest.fixture(params=[1, 1000], ids=["pages of one", "one page"])
def page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "DOCUMENTS_AT_ONCE", request.param)


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("id", ["0", "1"], ids=["staged by the run", "still in hand"])
def test_a_run_does_not_put_an_old_text_over_a_newer_one(shop: Application, id: str, is_known: bool) -> None:
    texts = {str(n): f"Old text {n}." for n in range(4)}
    if is_known:
        shop.put({"id": id, "text": "An even older text."})
    sent = {"id": id, "text": "Sent while the run had its row in hand."}
    result = run(shop, InHand(texts, meanwhile=lambda: shop.put(sent)))
    assert text_of(shop, id) == sent["text"]
    assert (result["indexed"] + result["stale"], result["failed"]) == (4, [])


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize("version", [None, 7])
@pytest.mark.parametrize("way", ["by id", "by filter"])
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
def test_a_run_does_not_bring_back_a_deleted_document(
    shop: Application, way: str, is_known: bool, version: int | None
) -> None:
    if is_known:
        shop.put({"id": "1", "text": "Known.", "metadata": {"shelf": 1}})

    def delete() -> None:
        if way == "by id":
            shop.delete("0", "1", version=version)
        else:
            staging.delete_matching(shop.target, "delete", {"shelf": 1}, version)

    result = run(shop, InHand({"0": "Old text.", "1": "Another old text."}, meanwhile=delete))
    assert ids(shop) == set()
    assert (result["indexed"], result["stale"]) == (0, 2)


def test_a_deletion_by_filter_before_a_run_holds_nothing_back(shop: Application) -> None:
    source = InHand({"0": "A text.", "1": "Another text."})
    run(shop, source)
    staging.delete_matching(shop.target, "delete", {"shelf": 1}, None)
    assert run(shop, source)["indexed"] == 2


@pytest.mark.usefixtures("page")
def test_of_a_document_that_a_source_returns_twice_the_last_text_counts(shop: Application) -> None:
    class Changing(Shelf):
        def documents(self) -> Iterator[dict[str, Any]]:
            for text in ("Read first.", "Read first.", "Read later."):
                yield {"id": "a", "text": text}

    run(shop, Changing())
    assert text_of(shop, "a") == "Read later."


def test_a_document_that_is_sent_again_unchanged_during_a_run_is_kept(shop: Application) -> None:
    texts = {str(n): f"Text {n}." for n in range(4)}
    run(shop, Shelf(texts))
    again: list[dict[str, Any]] = []
    fewer = {id: text for id, text in texts.items() if id != "3"}
    source = InHand(fewer, meanwhile=lambda: again.append(shop.put({"id": "3", "text": "Text 3."})))
    assert run(shop, source)["deleted"] == 0
    assert again[0]["unchanged"] == 1
    assert ids(shop) == set(texts)


def test_a_document_that_is_sent_again_while_missing_ones_are_deleted_is_kept(
    shop: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {str(n): f"Text {n}." for n in range(4)}
    run(shop, Shelf(texts))
    delete = deletion.delete

    def overtaken(*args: Any, **options: Any) -> Mapping[str, int]:
        shop.put({"id": "3", "text": "Text 3."})
        return delete(*args, **options)

    monkeypatch.setattr(deletion, "delete", overtaken)
    assert run(shop, Shelf({id: texts[id] for id in ("0", "1")}))["deleted"] == 1
    assert ids(shop) == {"0", "1", "3"}


def text_of(shop: Application, id: str) -> str:
    [[text]] = shop.rows(
        f"SELECT text FROM vector_index.documents d JOIN vector_index.revisions ON rev = head_rev WHERE id = '{id}'"
    )
    return str(text)


@pytest.mark.parametrize("id", ["7", "7" * 512])
def test_a_rejected_document_of_the_source_stays_in_the_index(shop: Application, id: str) -> None:
    shelf = Shelf({id: "A text.", "8": "Another."})
    run(shop, shelf)
    shelf.texts[id] = "x" * 10_001
    result = run(shop, shelf)
    assert [failure["id"] for failure in result["failed"]] == [id]
    assert (result["deleted"], shop.state(id)["state"], shop.state(id)["searchable"]) == (0, "refused", True)


def test_a_redelivered_run_completes_a_run_that_died(
    shop: Application, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pages are staged and one document changes before the crash: every document counts once."""
    monkeypatch.setattr(product, "DOCUMENTS_AT_ONCE", 100)

    with pytest.raises(WorkerKilled):
        reindex(shop, DyingSource(shelf.texts), "run")
    assert shop.result("run") is None
    shelf.texts["3"] = "Changed in between."
    del shelf.texts["249"]
    result = run(shop, shelf, "run")
    assert (result["indexed"], result["unchanged"], result["stale"], result["failed"]) == (249, 0, 0, [])
    assert ids(shop) == set(shelf.texts)


def test_a_redelivered_message_of_a_complete_run_reads_nothing(shop: Application, shelf: Shelf) -> None:
    result = run(shop, shelf, "run")
    again = run(shop, Shelf(breaks_after=0), "run")
    assert again.pop("seconds") == pytest.approx(result.pop("seconds"), abs=0.1)
    assert again == result


def test_two_runs_of_one_index_do_not_overlap(shop: Application, shelf: Shelf) -> None:
    """The second run is skipped; a second delivery of the same task is retried later."""
    others: list[object] = []

    class Slow(Shelf):
        def documents(self) -> Iterator[dict[str, Any]]:
            others.append(reindex(shop, Shelf(), "other"))
            with pytest.raises(TemporaryError, match="may still be reindexing"):
                reindex(shop, Shelf(), "run")
            yield from super().documents()

    assert run(shop, Slow(shelf.texts), "run")["indexed"] == 250
    assert others == ["another run of reindex is reading the source of index 'default': this run did nothing"]
    assert run(shop, shelf, "other")["unchanged"] == 250


def test_a_run_that_lost_its_lease_stops_writing(shop: Application, shelf: Shelf) -> None:
    run(shop, shelf)

    class Asleep(Shelf):
        def documents(self) -> Iterator[dict[str, Any]]:
            yield {"id": "0", "text": "Read long ago."}
            take_over(shop)

    with pytest.raises(TemporaryError, match="another run"):
        run(shop, Asleep(), allow_shrink=True)
    assert len(ids(shop)) == 250


def test_a_run_that_loses_its_lease_before_a_write_does_not_write(
    shop: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = staging.split

    def suspended(*args: Any) -> Any:
        take_over(shop)
        return split(*args)

    monkeypatch.setattr(staging, "split", suspended)
    with pytest.raises(TemporaryError, match="another run"):
        run(shop, Shelf({"a": "Read long ago."}))
    assert ids(shop) == set()


def test_a_run_that_lost_its_lease_is_not_recorded_as_done(shop: Application, shelf: Shelf) -> None:
    run(shop, shelf)

    class Overtaken(Shelf):
        def documents(self) -> Iterator[dict[str, Any]]:
            take_over(shop)
            yield from super().documents()

    with pytest.raises(TemporaryError, match="another run"):
        run(shop, Overtaken(), "late")
    assert shop.rows("SELECT outcome FROM vector_index.runs WHERE task_id = 'late'") == [("failed",)]


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindexing, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(product, "RENEW_SECONDS", 0.1)


@pytest.mark.usefixtures("short_lease")
def test_the_lease_is_renewed_while_a_source_is_slow(shop: Application, shelf: Shelf) -> None:
    """The next run is skipped although the first lease would have ended long ago."""
    others: list[object] = []

    class Slow(Shelf):
        def documents(self) -> Iterator[dict[str, Any]]:
            [[until]] = shop.rows("SELECT until FROM vector_index.reindexing")
            eventually(
                lambda: shop.rows(f"SELECT 1 WHERE now() > timestamptz '{until}' + interval '1 second'")
            )
            others.append(reindex(shop, Shelf(), "other"))
            yield from super().documents()

    assert run(shop, Slow(shelf.texts))["indexed"] == 250
    assert "another run of reindex is reading" in str(others)


@pytest.mark.usefixtures("short_lease")
def test_a_finished_run_releases_its_lease(shop: Application, shelf: Shelf) -> None:
    """However it ended; its renewal thread ends with it."""
    with pytest.raises(SourceFailed):
        reindex(shop, Shelf(shelf.texts, breaks_after=3), "run")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reindexing")]
    assert shop.rows("SELECT 1 FROM vector_index.reindexing") == []


def take_over(shop: Application) -> None:
    """As the next run does, once the lease is over."""
    with connection.checkout(shop.url) as conn:
        conn.execute("UPDATE vector_index.reindexing SET until = now() - interval '1 second'")
        assert reindexing.begin(conn, 1, ReindexRequest(index="default", task_id="other"))


def test_a_page_that_changes_during_each_attempt_is_retried_later(
    shop: Application, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(*_: Any, **__: Any) -> list[int]:
        raise StalePreparation

    with monkeypatch.context() as patch:
        patch.setattr(writing, "stage", overtaken)
        with pytest.raises(TemporaryError, match="changed 5 times while"):
            run(shop, shelf, "run")
    assert run(shop, shelf, "run")["indexed"] == 250


def test_a_waiting_task_that_was_lost_is_sent_again(shop: Application, shelf: Shelf) -> None:
    assert reindex(shop, shelf, "run") is None
    with connection.checkout(shop.url) as conn:
        conn.execute("UPDATE vector_index.jobs SET touched_at = now() - interval '5 minutes'")
        assert jobs.quiet(conn, seconds=60) == [("run", "default")]


def test_the_index_follows_a_folder(shop: Application, tmp_path: Path) -> None:
    for name in ("one.md", "two.txt", "sub/three.rst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"The text of {name}.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    folder = FolderSource(paths=[str(tmp_path)], max_bytes=10_000)
    result = run(shop, folder)
    assert (result["indexed"], result["failed"]) == (3, [])
    (tmp_path / "two.txt").unlink()
    assert run(shop, folder)["deleted"] == 1
    assert ids(shop) == {"one.md", "sub/three.rst"}


def test_a_file_that_cannot_be_read_fails_and_stays_in_the_index(shop: Application, tmp_path: Path) -> None:
    for name in ("one.md", "two.md", "three.md"):
        (tmp_path / name).write_text(f"The text of {name}.")
    folder = FolderSource(paths=[str(tmp_path)], max_bytes=100)
    run(shop, folder)
    (tmp_path / "one.md").write_text("long " * 100)
    (tmp_path / "two.md").unlink()
    (tmp_path / "two.md").symlink_to("nowhere")
    (tmp_path / "three.md").unlink()
    result = run(shop, folder)
    assert [failure["id"] for failure in result["failed"]] == ["one.md", "two.md"]
    assert result["deleted"] == 1
    assert ids(shop) == {"one.md", "two.md"}


def test_an_unreadable_file_with_unknown_ids_prevents_deletions(shop: Application, tmp_path: Path) -> None:
    lines = [f'{{"id": "{n}", "text": "Line {n}."}}' for n in range(4)]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    folder = FolderSource(paths=[str(tmp_path)], max_bytes=10_000)
    run(shop, folder)
    (tmp_path / "all.jsonl").write_text("\n".join([*lines[:2], "{broken"]))
    result = run(shop, folder)
    assert result["deleted"] == 0
    assert "nothing was deleted" in result["warning"]
    assert result["failed"][0]["id"].endswith("all.jsonl:3")
    assert ids(shop) == {"0", "1", "2", "3"}


@pytest.mark.parametrize("id", [None, "", 42.0])
def test_a_rejected_document_with_an_unknown_id_prevents_deletions(shop: Application, id: object) -> None:
    """An application's ids have become floats: all of its documents are rejected, and none is deleted."""

    class Numbered(Shelf):
        def documents(self) -> Iterator[dict[str, Any]]:
            for document in super().documents():
                yield document if document["id"] == "1" else {**document, "id": id}

    texts = {"1": "The first.", "42": "The other."}
    run(shop, Shelf(texts))
    result = run(shop, Numbered(texts))
    assert result["deleted"] == 0
    assert "nothing was deleted" in result["warning"]
    assert ids(shop) == {"1", "42"}


def test_an_empty_folder_of_several_prevents_deletions(shop: Application, tmp_path: Path) -> None:
    """A disk that is not mounted looks like that, and half of the documents remain."""
    for name in ("one/a.md", "one/b.md", "one/c.md", "disk/d.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"The text of {name}.")
    folder = FolderSource(paths=[str(tmp_path / "one"), str(tmp_path / "disk")], max_bytes=10_000)
    run(shop, folder)
    (tmp_path / "disk/d.md").unlink()
    result = run(shop, folder)
    assert "nothing was deleted" in result["warning"]
    assert "as if its disk were not mounted" in result["failed"][0]["error"]
    assert ids(shop) == {"a.md", "b.md", "c.md", "d.md"}


def test_a_missing_folder_fails_the_run(shop: Application, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/one.md").write_text("The text.")
    folder = FolderSource(paths=[str(tmp_path / "docs")], max_bytes=10_000)
    run(shop, folder)
    (tmp_path / "docs").rename(tmp_path / "moved")
    with pytest.raises(SourceFailed, match="docs does not exist"):
        run(shop, folder)
    assert ids(shop) == {"one.md"}


@pytest.mark.parametrize("paths", [[], "/srv/docs", ["docs"], [3]])
def test_a_wrong_path_of_a_folder_source_is_named(paths: Any) -> None:
    with pytest.raises(SettingsError, match="PATHS of FolderSource"):
        FolderSource(paths=paths, max_bytes=10)


def test_the_index_is_made_by_its_first_run(shop: Application, shelf: Shelf) -> None:
    with connection.checkout(shop.url) as conn:
        assert builds.live(conn, "default") is None
    assert run(shop, Shelf())["indexed"] == 0
