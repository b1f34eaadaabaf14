"""Verify finds and repairs each damage, without false alarms under load; garbage is collected."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.application import Application, faulty
from tests.fixtures.verification import found, verify
from worker.errors import Refused
from worker.indexing import staging, verification
from worker.indexing.draining.drainer import Drainer
from worker.store import builds, connection, garbage, status, sweep
from worker.store.verify import CHECKS

SHORT = "Ships cross the sea."
LONG = "\n\n".join(
    f"Paragraph {n} says that number {n} follows number {n - 1} in the list." for n in range(9)
)


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "RECHECK_SECONDS", (0.01,))


def execute(application: Application, *statements: str) -> None:
    with connection.checkout(application.url) as conn:
        for statement in statements:
            conn.execute(statement.encode())


# name: (check, statements). Documents 1 (LONG) and 2 (SHORT) are live at revisions 1 and 2, document 3 waits.
SOME_HASH = "SELECT hash FROM vector_index.chunks_1 WHERE rev = 1 AND ordinal = 3"
DAMAGES = {
    "its row in served is gone": ("missing_documents", ["DELETE FROM vector_index.served_1 WHERE doc = 1"]),
    "an older revision is served": (
        "missing_documents",
        ["UPDATE vector_index.documents SET head_rev = 99 WHERE doc = 1",
         "INSERT INTO vector_index.revisions SELECT 99, doc, title, metadata, text FROM vector_index.revisions "
         "WHERE rev = 1"],
    ),
    "a deleted document is served": (
        "deleted_but_served", ["UPDATE vector_index.documents SET deleted = true, head_rev = NULL WHERE doc = 1"]
    ),
    "a document that is gone is served": ("deleted_but_served", ["DELETE FROM vector_index.documents WHERE doc = 1"]),
    "the text is gone": ("missing_text", ["DELETE FROM vector_index.revisions WHERE rev = 1"]),
    "the text that waits is gone": ("missing_text", ["DELETE FROM vector_index.revisions WHERE rev = 3"]),
    "there are no chunks": ("wrong_chunks", ["DELETE FROM vector_index.chunks_1 WHERE rev = 1"]),
    "the first chunk is gone": ("wrong_chunks", ["DELETE FROM vector_index.chunks_1 WHERE rev = 1 AND ordinal = 0"]),
    "the last chunk is gone": (
        "wrong_chunks",
        ["DELETE FROM vector_index.chunks_1 WHERE rev = 1 AND ordinal = "
         "(SELECT max(ordinal) FROM vector_index.chunks_1 WHERE rev = 1)"],
    ),
    "a chunk says something else": ("wrong_chunks", ["UPDATE vector_index.chunks_1 SET text = 'x' WHERE rev = 2"]),
    "a span is moved": (
        "wrong_chunks", ['UPDATE vector_index.chunks_1 SET start = start + 1, "end" = "end" + 1 WHERE rev = 2']
    ),
    "a heading is another": ("wrong_chunks", ["UPDATE vector_index.chunks_1 SET heading = 'x' WHERE rev = 2"]),
    "an ordinal is left out": ("wrong_chunks", ["UPDATE vector_index.chunks_1 SET ordinal = 99 WHERE rev = 2"]),
    "a chunk that waits is another's": (
        "wrong_chunks", [f"UPDATE vector_index.chunks_1 SET hash = ({SOME_HASH}) WHERE rev = 3"]
    ),
    "chunks belong to nothing": (
        "orphan_chunks",
        ['INSERT INTO vector_index.chunks_1 SELECT 99, ordinal, hash, start, "end", tokens, heading, text, lexemes '
         "FROM vector_index.chunks_1 WHERE rev = 1"],
    ),
    "a vector is of zeros": (
        "bad_vectors",
        ["UPDATE vector_index.embeddings_1 SET embedding = array_fill(0, ARRAY[16])::vector "
         f"WHERE hash = ({SOME_HASH})"],
    ),
    "a vector is of another length": (
        "bad_vectors",
        ["ALTER TABLE vector_index.embeddings_1 ALTER embedding TYPE vector",
         f"UPDATE vector_index.embeddings_1 SET embedding = '[1, 2]' WHERE hash = ({SOME_HASH})"],
    ),
    "a live chunk has no vector": (
        "missing_vectors", [f"DELETE FROM vector_index.embeddings_1 WHERE hash = ({SOME_HASH})"]
    ),
    "nothing is queued": ("missing_queue_entries", ["DELETE FROM vector_index.pending_1"]),
    "every attempt is spent": (
        "exhausted_attempts", ["UPDATE vector_index.pending_1 SET attempts = 6, visible_at = now() - interval '1 hour'"]
    ),
    "it is complete and not published": (
        "unpublished_documents",
        ["INSERT INTO vector_index.embeddings_1 SELECT hash, (SELECT embedding FROM vector_index.embeddings_1 LIMIT 1) "
         "FROM vector_index.pending_1",
         "DELETE FROM vector_index.pending_1"],
    ),
    "an index is invalid": (
        "invalid_indexes",
        ["UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'vector_index.chunks_1_hash_idx'::regclass"],
    ),
    "an interrupted REINDEX left an index": (
        "invalid_indexes",
        ["CREATE INDEX chunks_1_hash_idx_ccnew ON vector_index.chunks_1 (hash)",
         "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'vector_index.chunks_1_hash_idx_ccnew'::regclass"],
    ),
    "a job is done and quiet": (
        "unreported_jobs",
        ["UPDATE vector_index.jobs SET touched_at = now() - interval '1 hour', finished_at = NULL "
         "WHERE task_id = 'job-1'"],
    ),
    "a vector is left": (
        "unreferenced_vectors",
        ["INSERT INTO vector_index.embeddings_1 SELECT '\\x00', embedding FROM vector_index.embeddings_1 LIMIT 1"],
    ),
    "a queued content is left": (
        "unreferenced_queue_entries",
        ["INSERT INTO vector_index.pending_1 (hash, tokens, visible_at) VALUES ('\\xff', 1, now())"],
    ),
    "an old revision is left": (
        "unreferenced_revisions",
        ["INSERT INTO vector_index.revisions (doc, title, metadata, text) "
         "VALUES (1, '', '{}', 'old'), (77, '', '{}', '')"],
    ),
}  # fmt: skip
GARBAGE = {check.name for check in CHECKS if not check.fault}


def test_every_check_has_a_damage_to_find() -> None:
    assert {check for check, _ in DAMAGES.values()} == {check.name for check in CHECKS}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_found_and_repaired(application: Application, damage: str) -> None:
    check, statements = DAMAGES[damage]
    application.put({"id": "a", "text": LONG}, {"id": "b", "text": SHORT, "title": "Travel"})
    application.stage({"id": "c", "text": "A text that waits."})
    before = verify(application)
    assert (before["healthy"], found(before)) == (True, {})

    execute(application, *statements)
    damaged = verify(application)
    assert check in found(damaged)
    assert damaged["healthy"] == (check in GARBAGE)
    [row] = [row for row in damaged["checks"] if row["check"] == check]
    assert row["examples"]
    assert found(verify(application)) == found(damaged), "looking changes nothing"

    repaired = verify(application, repair=True)
    assert repaired["healthy"]
    assert all(row["repaired"] == row["found"] for row in repaired["checks"] if row["fault"])
    application.drainer.drain()
    after = verify(application, repair=True)
    assert found(after, garbage=False) == {}
    assert after["documents"]["pending"] == 0
    assert found(verify(application)) == {}
    states = {"a": "live", "b": "live", "c": "live"}
    states |= {"a": "absent"} if check == "deleted_but_served" else {}
    states |= {"c" if "waits" in damage else "a": "failed"} if check == "missing_text" else {}
    assert {id: application.state(id)["state"] for id in "abc"} == states


def test_a_document_with_a_missing_text_is_repaired_by_sending_it_again(application: Application) -> None:
    application.put({"id": "a", "text": SHORT})
    execute(application, "DELETE FROM vector_index.revisions")
    verify(application, repair=True)
    assert application.state("a")["error"] == "the stored text is missing: send the document again"
    assert application.put({"id": "a", "text": SHORT})["indexed"] == 1
    assert application.search("ships") == ["a"]


def test_readers_see_the_old_chunks_until_the_repair_is_complete(application: Application) -> None:
    application.put({"id": "a", "text": SHORT, "version": 7})
    execute(application, "UPDATE vector_index.chunks_1 SET text = 'Ships!'")
    verify(application, repair=True)
    assert application.search("ships") == ["a"]
    application.drainer.drain()
    assert application.search("ships") == ["a"]
    assert application.rows("SELECT text FROM vector_index.chunks_1") == [(SHORT,)]
    assert application.state("a")["version"] == 7
    assert application.put({"id": "a", "text": SHORT, "version": 8})["unchanged"] == 1


def test_a_repair_never_overwrites_a_newer_text(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application.put({"id": "a", "text": SHORT})
    execute(application, "DELETE FROM vector_index.chunks_1")
    split = staging.split

    def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(staging, "split", split)
        application.put({"id": "a", "text": "Newer words."})
        return split(*args)

    monkeypatch.setattr(staging, "split", overtaken)
    verify(application, repair=True)
    application.drainer.drain()
    assert application.rows("SELECT text FROM vector_index.chunks_1") == [("Newer words.",)]


def test_vectors_of_half_precision_are_compared_too(application: Application) -> None:
    application.backend.dimensions = 2_001
    application.put({"id": "a", "text": SHORT})
    assert found(verify(application)) == {}
    execute(
        application, "UPDATE vector_index.embeddings_1 SET embedding = array_fill(0, ARRAY[2001])::halfvec"
    )
    assert found(verify(application, repair=True)) == {"bad_vectors": 1}
    application.drainer.drain()
    assert found(verify(application)) == {}


def test_a_live_chunk_that_was_queued_again_is_a_fault_until_it_is_embedded(
    application: Application,
) -> None:
    application.put({"id": "a", "text": SHORT})
    execute(application, "DELETE FROM vector_index.embeddings_1")
    assert verify(application, repair=True)["healthy"]
    assert found(verify(application)) == {"missing_vectors": 1}


def test_a_failed_document_is_no_fault(application: Application) -> None:
    faulty(application.backend, lambda _: Refused("no"))
    application.put({"id": "a", "text": SHORT}, {"id": "b", "text": " \n"})
    result = verify(application)
    assert (result["healthy"], found(result), result["documents"]["failed"]) == (True, {}, 1)


def test_a_backlog_is_no_fault_however_old(application: Application) -> None:
    application.stage({"id": "a", "text": SHORT}, {"id": "b", "text": "Other words."})
    execute(
        application,
        "UPDATE vector_index.pending_1 SET visible_at = now() - interval '9 hours'",
        "UPDATE vector_index.pending_1 SET attempts = 6, visible_at = now() - interval '1 hour' "
        "WHERE hash = (SELECT min(hash) FROM vector_index.pending_1)",
    )
    assert found(verify(application)) == {}


@pytest.mark.slow
def test_load_raises_no_alarm(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four threads stage, delete and drain the same documents: each look of verify finds no fault."""
    monkeypatch.setattr(verification, "RECHECK_SECONDS", (0.2, 0.5, 1.5, 3.0))
    over = threading.Event()
    errors: list[BaseException] = []

    def produce(producer: int) -> None:
        for n in range(10**6):
            ids = random.sample(range(12), 3)
            texts = ["\n\n".join(random.choices(LONG.split("\n\n"), k=random.randint(0, 5))) for _ in ids]
            documents = [{"id": id, "text": text} for id, text in zip(ids, texts, strict=True)]
            staging.stage(application.target, f"{producer}-{n}", documents, max_bytes=10**6)
            if n % 5 == 0:
                staging.delete(application.target, f"d{producer}-{n}", [str(ids[0])], None)
            if over.is_set():
                return

    def embed() -> None:
        drainer = Drainer(application.url, application.index.embedding_backend, application.backend)
        while not over.is_set():
            drainer.drain()

    def collect() -> None:
        while not over.is_set():
            with connection.checkout(application.url) as conn:
                for build in builds.all_writable(conn):
                    garbage.collect(conn, build, kept_share=0.0)

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test fails of it
            errors.append(error)
            over.set()

    application.put({"id": 0, "text": SHORT})
    work = [lambda: produce(1), lambda: produce(2), embed, embed, collect]
    threads = [threading.Thread(target=run, args=(item,)) for item in work]
    for thread in threads:
        thread.start()
    looks = 0
    deadline = time.monotonic() + 4
    alarms = []
    while (looks < 3 or time.monotonic() < deadline) and not over.is_set():
        result = verify(application)
        looks += 1
        alarms += [check for check in result["checks"] if check["fault"] and check["found"]]
    over.set()
    for thread in threads:
        thread.join(30)
    assert not errors
    assert not alarms
    application.drainer.drain()
    verify(application, repair=True)
    assert found(verify(application)) == {}
    assert application.rows(
        "SELECT count(*) FROM vector_index.revisions r WHERE rev NOT IN (SELECT live_rev FROM vector_index.served_1)"
    ) == [(0,)]


# The collection


def collected(application: Application, **options: Any) -> garbage.Collected:
    with connection.checkout(application.url) as conn:
        [build] = builds.all_writable(conn)
        return garbage.collect(conn, build, **options)


def test_old_revisions_are_collected_and_live_wanted_and_newest_ones_stay(application: Application) -> None:
    application.put({"id": "a", "text": "First words."})
    application.put({"id": "a", "text": "Second words."})
    application.stage({"id": "a", "text": "Third words."})
    application.stage({"id": "a", "text": "Fourth words."})
    assert collected(application).revisions == 2
    assert application.rows("SELECT text FROM vector_index.revisions ORDER BY rev") == [
        ("Second words.",), ("Fourth words.",)
    ]  # fmt: skip
    application.drainer.drain()
    assert collected(application).revisions == 1
    assert application.search("words") == ["a"]


def test_the_newest_text_stays_even_if_no_build_serves_it(
    application: Application,
) -> None:
    application.put({"id": "a", "text": SHORT})
    execute(application, "DELETE FROM vector_index.served_1")
    assert collected(application).revisions == 0
    verify(application, repair=True)
    application.drainer.drain()
    assert application.search("ships") == ["a"]


def test_a_build_with_a_quantised_index_and_languages_is_checked_as_the_live_one(
    application: Application,
) -> None:
    application.put({"id": "a", "text": SHORT})
    execute(application, "UPDATE vector_index.builds SET quantised = true")
    execute(application, "INSERT INTO vector_index.languages VALUES (1, 'german')")
    execute(application, "DELETE FROM vector_index.served_1")
    assert found(verify(application))["missing_documents"] == 1


def test_vectors_are_kept_until_a_fifth_is_unreferenced(application: Application) -> None:
    application.put(*[{"id": n, "text": f"Words number {n}."} for n in range(10)])
    application.put(*[{"id": n, "text": "Words number 9."} for n in (0, 1)])
    assert collected(application) == garbage.Collected(kept=2, revisions=2)
    assert application.put({"id": "0", "text": "Words number 0."})["embedded"] == 0
    application.put(*[{"id": n, "text": "Words number 9."} for n in (0, 2)])
    assert collected(application).embeddings == 3
    assert application.rows("SELECT count(*) FROM vector_index.embeddings_1") == [(7,)]
    assert collected(application) == garbage.Collected()


def test_a_collection_goes_through_more_than_one_slice(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "SLICE", 3)
    application.put(*[{"id": n, "text": f"Words number {n}."} for n in range(10)])
    application.put(*[{"id": n, "text": f"Other words number {n}."} for n in range(10)])
    assert collected(application) == garbage.Collected(embeddings=10, revisions=10)
    assert found(verify(application)) == {}


def test_a_vector_that_a_staging_reuses_is_not_collected(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The race: the collection finds a candidate, a staging reuses its vector, the collection deletes."""
    application.put({"id": "a", "text": SHORT})
    application.put({"id": "a", "text": ""})
    delete = garbage._delete

    def overtaken(*args: Any) -> int:
        monkeypatch.setattr(garbage, "_delete", delete)
        application.stage({"id": "b", "text": SHORT})
        return delete(*args)

    monkeypatch.setattr(garbage, "_delete", overtaken)
    assert collected(application).embeddings == 0
    assert application.state("b")["state"] == "live"
    assert found(verify(application)) == {}


def test_a_collection_waits_for_a_staging_that_reuses_a_vector(application: Application) -> None:
    """An uncommitted staging holds the lock, so the vector stays and the collection gives up."""
    application.put({"id": "a", "text": SHORT})
    application.put({"id": "a", "text": ""})
    with connection.checkout(application.url) as other:
        build = builds.live(other, "default")
        assert build is not None
        with builds.locked(other, build.index_id, exclusive=False):
            assert collected(application).embeddings == 0
    assert collected(application).embeddings == 1


def test_a_collection_is_due_once_an_hour_for_one_sweep(application: Application) -> None:
    application.put({"id": "a", "text": SHORT})
    with connection.checkout(application.url) as conn:
        assert garbage.collections_due(conn, seconds=3600, erased_seconds=600) == []
        conn.execute("UPDATE vector_index.indexes SET collected_at = now() - interval '61 minutes'")
        assert garbage.collections_due(conn, seconds=3600, erased_seconds=600) == ["default"]
        assert garbage.collections_due(conn, seconds=3600, erased_seconds=600) == []


def test_a_failure_without_a_text_is_not_retried(application: Application) -> None:
    application.put({"id": "a", "text": SHORT})
    execute(application, "DELETE FROM vector_index.revisions")
    verify(application, repair=True)
    assert staging.retry(application.target, ["a"]).docs == []
    assert application.state("a")["state"] == "failed"


def test_repairs_of_the_sweep_are_counted(application: Application) -> None:
    application.stage({"id": "a", "text": SHORT})
    execute(application, "DELETE FROM vector_index.pending_1")
    with connection.checkout(application.url) as conn:
        [build] = builds.all_writable(conn)
        sweep.sweep_build(conn, build, unchecked_seconds=0.0)
        sweep.sweep_build(conn, build, unchecked_seconds=0.0)
        [listed] = status.index_status(conn, build)["builds"]
    assert listed["repairs"] == {"published": 0, "queued": 1}
    assert verify(application)["swept"] == {"1": {"published": 0, "queued": 1}}
