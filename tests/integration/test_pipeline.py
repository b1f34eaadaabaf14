"""Stage, drain, publish and delete documents, on real Postgres."""

from typing import Any

import pytest

from tests.fixtures.application import LONG, Application, faulty
from worker.errors import ProviderUnavailable, Refused, ServiceUnreachable, SettingsError, TooLarge
from worker.indexing import staging
from worker.indexing.batches import stage_batch
from worker.indexing.jobs import Staged, job_progress
from worker.store import builds, connection, jobs, status, sweep, writing


def test_documents_are_searchable_when_the_job_is_done(application: Application) -> None:
    result = application.put(
        {"id": 42, "text": "Cats chase mice.", "title": "Animals", "metadata": {"kind": "pet"}},
        {"id": "b", "text": "Ships cross the sea."},
    )
    assert result == {
        "index": "default", "indexed": 2, "unchanged": 0, "stale": 0, "failed": [],
        "chunks": 2, "embedded": 2, "tokens": 9,
    }  # fmt: skip
    assert application.search("ships at sea", limit=1) == ["b"]
    assert application.state("42") == {"state": "live", "version": None, "searchable": True, "error": None}


def test_a_document_without_vectors_is_not_searchable_and_its_job_has_no_result(
    application: Application,
) -> None:
    task_id = application.stage({"id": "a", "text": "Cats chase mice."})
    assert application.result(task_id) is None
    assert application.search("cats") == []
    assert application.state("a")["state"] == "pending"


def test_readers_see_the_old_revision_until_the_new_one_is_complete(application: Application) -> None:
    application.put({"id": "a", "text": "Cats chase mice.", "title": "Old", "metadata": {"colour": "red"}})
    application.stage({"id": "a", "text": "Dogs chase cats.", "title": "New", "metadata": {"colour": "blue"}})
    [passage] = application.passages("chase")
    assert (passage.title, passage.metadata, passage.text) == ("Old", {"colour": "red"}, "Cats chase mice.")
    assert application.search("chase", filter={"colour": "blue"}) == []
    application.drainer.drain()
    [passage] = application.passages("chase")
    assert (passage.title, passage.metadata, passage.text) == ("New", {"colour": "blue"}, "Dogs chase cats.")


def test_an_unchanged_document_sends_no_request(application: Application) -> None:
    application.put({"id": "a", "text": LONG})
    before = len(application.backend.requests)
    result = application.put({"id": "a", "text": LONG})
    assert (result["indexed"], result["unchanged"], result["embedded"]) == (0, 1, 0)
    assert len(application.backend.requests) == before


def test_a_job_without_changes_has_its_result_when_it_is_staged(application: Application) -> None:
    def stage(text: str, task_id: str) -> Staged:
        documents: list[Any] = [{"id": "a", "text": text}, {"id": "a", "text": text}, {"id": "b"}]
        return staging.stage(application.target, task_id, documents, max_bytes=100)

    assert stage("Words.", "new") == Staged(has_changes=True, result=None)
    application.drainer.drain()
    result = stage("Words.", "unchanged").result
    assert result is not None
    assert (result["unchanged"], result["indexed"], result["stale"]) == (1, 0, 1)
    assert result == application.result("unchanged")
    assert stage("Words.", "unchanged") == Staged(has_changes=False, result=None)
    assert application.rows(
        "SELECT finished_at IS NULL FROM vector_index.jobs WHERE task_id = 'unchanged'"
    ) == [(False,)]
    assert stage("Other words.", "changed").has_changes


def test_a_job_waits_for_unchanged_documents_only_if_they_are_not_searchable_yet(
    application: Application,
) -> None:
    def waits(task_id: str) -> list[tuple[Any, ...]]:
        return application.rows(
            "SELECT d.id FROM vector_index.job_documents j JOIN vector_index.documents d USING (doc)"
            f" WHERE task_id = '{task_id}'"
        )

    application.put({"id": "a", "text": "Words."})
    application.stage({"id": "b", "text": "Other words."})
    both = [{"id": "a", "text": "Words."}, {"id": "b", "text": "Other words."}]
    application.stage(*both, task_id="again")
    assert waits("again") == [("b",)]
    assert application.result("again") is None
    application.drainer.drain()
    assert (application.result("again") or {})["unchanged"] == 2
    stage_batch(application.target, {"first": both, "second": [{"id": "c", "text": "New."}]}, max_bytes=100)
    assert (waits("first"), waits("second")) == ([], [("c",)])
    assert (application.result("first") or {})["unchanged"] == 2


def test_a_document_that_vanishes_while_it_is_found_unchanged_is_staged(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = writing.unchanged
    looks = iter([lambda *_: {"a"}, look])
    monkeypatch.setattr(writing, "unchanged", lambda *arguments: next(looks)(*arguments))
    assert application.put({"id": "a", "text": "Words."})["indexed"] == 1


def test_a_failed_document_that_is_sent_again_counts_as_a_change(application: Application) -> None:
    faulty(application.backend, lambda texts: Refused("no"))
    application.put({"id": "a", "text": "Words."})
    again = staging.stage(application.target, "again", [{"id": "a", "text": "Words."}], max_bytes=100)
    assert again == Staged(has_changes=True, result=None)


def test_an_unchanged_document_is_not_split(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.put({"id": "a", "text": LONG})
    with monkeypatch.context() as patch:
        patch.setattr(staging, "split", None)
        assert application.put({"id": "a", "text": LONG})["unchanged"] == 1


def test_a_document_that_changes_during_staging_is_split(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.put({"id": "a", "text": "Words."})
    look = writing.unchanged

    def look_then_change(*arguments: Any) -> set[str]:
        monkeypatch.setattr(writing, "unchanged", look)
        found = look(*arguments)
        application.put({"id": "a", "text": "Other words."})
        return found

    monkeypatch.setattr(writing, "unchanged", look_then_change)
    assert application.put({"id": "a", "text": "Words."})["indexed"] == 1
    assert application.search("words", limit=1) == ["a"]
    assert application.rows("SELECT text FROM vector_index.chunks_1") == [("Words.",)]


def test_one_edit_embeds_only_the_chunks_around_it(application: Application) -> None:
    first = application.put({"id": "a", "text": LONG})
    second = application.put({"id": "a", "text": LONG.replace("number 30 follows", "number 30 comes after")})
    assert first["embedded"] > 20
    assert 1 <= second["embedded"] <= 4


def test_a_chunk_in_many_documents_is_embedded_once(application: Application) -> None:
    result = application.put(*[{"id": n, "text": "The same words in every one of them."} for n in range(20)])
    assert (result["indexed"], result["chunks"], result["embedded"]) == (20, 20, 1)
    assert sum(map(len, application.backend.requests)) == 1


def test_the_title_is_embedded_with_the_chunk(application: Application) -> None:
    application.put({"id": "a", "text": "It chases mice.", "title": "Cats"})
    assert application.backend.requests == [["Cats\nIt chases mice."]]
    result = application.put({"id": "a", "text": "It chases mice.", "title": "Owls"})
    assert result["embedded"] == 1


def test_a_redelivered_message_overwrites_nothing(application: Application) -> None:
    first = application.stage({"id": "a", "text": "First words."})
    application.put({"id": "a", "text": "Second words."})
    application.stage({"id": "a", "text": "First words."}, task_id=first)
    application.drainer.drain()
    assert application.rows(
        "SELECT text FROM vector_index.revisions r JOIN vector_index.documents ON rev = head_rev"
    ) == [("Second words.",)]
    result = application.result(first)
    assert result is not None
    assert (result["indexed"], result["stale"]) == (0, 1)


def test_an_older_version_never_overwrites_a_newer_one(application: Application) -> None:
    application.put({"id": "a", "text": "Version seven.", "version": 7})
    result = application.put({"id": "a", "text": "Version six.", "version": 6})
    assert (result["stale"], result["indexed"]) == (1, 0)
    assert application.state("a")["version"] == 7
    assert application.put({"id": "a", "text": "Seven again.", "version": 7})["indexed"] == 1
    assert application.put({"id": "a", "text": "None is newest.", "version": None})["indexed"] == 1
    assert application.put({"id": "a", "text": "Still six.", "version": 6})["stale"] == 1


def test_unchanged_content_still_raises_the_version(application: Application) -> None:
    application.put({"id": "a", "text": "Words.", "version": 1})
    assert application.put({"id": "a", "text": "Words.", "version": 5})["unchanged"] == 1
    assert application.put({"id": "a", "text": "Other words.", "version": 4})["stale"] == 1


def test_an_update_older_than_a_delete_is_stale(application: Application) -> None:
    application.put({"id": "a", "text": "Words.", "version": 1})
    assert application.delete("a", version=5) == staging.Deleted(deleted=1)
    assert application.put({"id": "a", "text": "Late words.", "version": 4})["stale"] == 1
    assert application.state("a")["state"] == "absent"
    assert application.search("words") == []


def test_a_delete_that_overtakes_the_first_update_leaves_a_tombstone(application: Application) -> None:
    application.put({"id": "other", "text": "Words."})
    assert application.delete("a", version=5) == staging.Deleted()
    assert application.put({"id": "a", "text": "Late words.", "version": 4})["stale"] == 1
    assert application.put({"id": "a", "text": "New words.", "version": 6})["indexed"] == 1


def test_an_older_delete_is_stale(application: Application) -> None:
    application.put({"id": "a", "text": "Words.", "version": 5})
    assert application.delete("a", version=4) == staging.Deleted(stale=1)
    assert application.search("words") == ["a"]


def test_a_delete_leaves_neither_text_nor_chunks(application: Application) -> None:
    application.put({"id": "a", "text": LONG}, {"id": "b", "text": "Other words."})
    application.delete("a", "unknown")
    assert application.rows("SELECT count(*) FROM vector_index.revisions") == [(1,)]
    assert application.rows("SELECT count(*) FROM vector_index.chunks_1") == [(1,)]
    assert application.search("paragraph number list") == ["b"]


def test_a_delete_by_filter_deletes_the_matches_once(
    application: Application,
) -> None:
    application.put(*[{"id": n, "text": f"Words {n}.", "metadata": {"even": n % 2 == 0}} for n in range(250)])
    for _ in range(2):
        done = staging.delete_matching(application.target, "delete", {"even": True}, None)
        assert done == staging.Deleted(deleted=125)
    application.put({"id": 0, "text": "Words again.", "metadata": {"even": True}})
    staging.delete_matching(application.target, "delete", {"even": True}, None)
    assert application.state("0")["state"] == "live"


def test_deleting_a_pending_document_completes_its_job(application: Application) -> None:
    task_id = application.stage({"id": "a", "text": "Words."})
    application.delete("a")
    result = application.result(task_id)
    assert result is not None
    assert (result["indexed"], result["stale"]) == (0, 1)
    application.drainer.drain()
    assert application.backend.requests == []
    assert application.rows("SELECT count(*) FROM vector_index.pending_1") == [(0,)]


def test_an_overtaken_document_counts_as_stale_once_the_newer_one_is_live(application: Application) -> None:
    first = application.stage({"id": "a", "text": "Words."})
    second = application.stage({"id": "a", "text": "Newer words."})
    assert application.result(first) is None
    application.drainer.drain()
    assert (application.result(first) or {})["stale"] == 1
    assert (application.result(second) or {})["indexed"] == 1


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"text": "x"}, "id is missing"),
        ({"id": "", "text": "x"}, "id is missing"),
        ({"id": True, "text": "x"}, "id must be a string or an integer"),
        ({"id": 1.5, "text": "x"}, "id must be a string or an integer"),
        ({"id": "a\x00", "text": "x"}, "id contains a NUL"),
        ({"id": "a" * 600, "text": "x"}, "600 characters"),
        ({"id": "a"}, "text must be a string, not missing"),
        ({"id": "a", "text": 3}, "text must be a string"),
        ({"id": "a", "text": "x", "title": ["x"]}, "title must be a string"),
        ({"id": "a", "text": "x" * 10_001}, "MAX_DOCUMENT_BYTES (10,000)"),
        ({"id": "a", "text": "é" * 5_001}, "10,002 bytes"),
        ({"id": "a", "text": "x", "metadata": [1]}, "metadata must be an object"),
        ({"id": "a", "text": "x", "metadata": {"a": float("nan")}}, "metadata.a is nan"),
        ({"id": "a", "text": "x", "metadata": {"a": object()}}, "not a JSON value"),
        ({"id": "a", "text": "x", "version": "3"}, "version must be an integer"),
        ({"id": "a", "text": "x", "version": 2**63}, "64 bits"),
        ({"id": "a", "text": "x", "body": "y"}, "unknown field 'body'"),
        ("text", "a document is an object"),
        (None, "a document is an object"),
    ],
)
def test_a_bad_document_fails_alone_with_its_reason(
    application: Application, document: Any, reason: str
) -> None:
    result = application.put({"id": "good", "text": "Good words."}, document)
    assert result["indexed"] == 1
    [failure] = result["failed"]
    assert reason in failure["error"]
    assert application.search("good words") == ["good"]


def test_of_two_documents_with_one_id_the_highest_version_is_staged(application: Application) -> None:
    same = [{"id": 1, "text": "Two.", "version": 2}, {"id": "1", "text": "One.", "version": 1}]
    result = application.put(*same)
    assert (result["indexed"], result["stale"]) == (1, 1)
    assert application.rows("SELECT text, version FROM vector_index.chunks_1, vector_index.documents") == [
        ("Two.", 2)
    ]
    result = application.put({"id": 3, "text": "Earlier."}, {"id": 3, "text": "Later."})
    assert (result["indexed"], result["stale"]) == (1, 1)
    assert application.search("later", limit=1) == ["3"]


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00"])
def test_an_empty_text_is_published_at_once(application: Application, text: str) -> None:
    application.put({"id": "a", "text": "Words."})
    result = application.put({"id": "a", "text": text})
    assert (result["indexed"], result["chunks"], result["failed"]) == (1, 0, [])
    assert application.search("words") == []
    assert application.state("a")["state"] == "live"


def test_nul_and_lone_surrogates_are_cleaned_and_offsets_count_the_stored_text(
    application: Application,
) -> None:
    application.put({"id": "a", "text": "a\x00b \ud800 c\U0001f600d", "metadata": {"k\x00": "v\udfff"}})
    [passage] = application.passages("ab")
    assert passage.text == "ab \ufffd c\U0001f600d"
    assert (passage.start, passage.end) == (0, 8)
    assert passage.metadata == {"k": "v\ufffd"}


def test_an_empty_message_has_a_result_of_zeros(application: Application) -> None:
    result = application.put()
    assert (result["indexed"], result["failed"]) == (0, [])


def test_a_message_of_many_documents_is_staged_in_slices_and_reported_once(application: Application) -> None:
    result = application.put(*[{"id": n, "text": f"Words number {n}."} for n in range(250)])
    assert (result["indexed"], result["embedded"]) == (250, 250)
    assert application.rows("SELECT count(*), max(slices) FROM vector_index.jobs") == [(3, 3)]


def test_requests_are_within_the_limits_and_mix_documents(
    application: Application,
) -> None:
    backend = application.backend
    application.put(*[{"id": n, "text": LONG[n * 40 : n * 40 + 400]} for n in range(40)])
    sizes = [len(texts) for texts in backend.requests]
    assert max(sizes) == backend.batch_size
    assert sum(size == backend.batch_size for size in sizes) >= len(sizes) - 1
    for texts in backend.requests:
        assert sum(map(backend.count_tokens, texts)) <= backend.batch_token_limit
        assert max(map(backend.count_tokens, texts)) <= backend.chunk_tokens


def test_a_refused_input_fails_only_its_document_and_the_old_revision_is_served(
    application: Application,
) -> None:
    application.put({"id": "bad", "text": "Harmless words."})
    faulty(
        application.backend,
        lambda texts: Refused("not this one") if any("poison" in t for t in texts) else None,
    )
    documents = [{"id": n, "text": f"Words number {n}."} for n in range(20)]
    result = application.put({"id": "bad", "text": "A poison."}, *documents)
    assert result["indexed"] == 20
    assert result["failed"] == [{"id": "bad", "error": "not this one"}]
    assert application.search("harmless words", limit=1) == ["bad"]
    assert application.state("bad") == {
        "state": "failed",
        "version": None,
        "searchable": True,
        "error": "not this one",
    }


def test_a_failed_document_that_is_sent_again_is_retried(application: Application) -> None:
    refusing = [True]
    faulty(application.backend, lambda _: Refused("no") if refusing[0] else None)
    assert application.put({"id": "a", "text": "Words."})["failed"]
    refusing[0] = False
    result = application.put({"id": "a", "text": "Words."})
    assert (result["indexed"], result["unchanged"], result["failed"]) == (1, 0, [])


def test_a_request_that_is_too_large_is_halved(application: Application) -> None:
    faulty(application.backend, lambda texts: TooLarge("too much") if len(texts) > 3 else None)
    result = application.put(*[{"id": n, "text": f"Words number {n}."} for n in range(8)])
    assert (result["indexed"], result["failed"]) == (8, [])


def test_a_rate_limit_is_no_attempt_and_pauses_the_backend(application: Application) -> None:
    limited = ProviderUnavailable("slow down", retry_after_seconds=0.2, rate_limited=True)
    answers: list[Exception | None] = [limited, None]
    faulty(application.backend, lambda _: answers.pop(0))
    task_id = application.stage({"id": "a", "text": "Words."})
    application.drainer.drain()
    assert application.rows("SELECT attempts FROM vector_index.pending_1") == [(0,)]
    assert application.drainer.provider.budget.take(1) > 0
    while application.result(task_id) is None:
        application.drainer.drain()
    assert application.result(task_id)["indexed"] == 1  # type: ignore[index]


def test_a_rate_limit_without_a_time_pauses_the_drainer(application: Application) -> None:
    """`Retry-After: 0`, or a date in the past: an immediate retry would be refused again and again."""
    limited = ProviderUnavailable("slow down", retry_after_seconds=0.0, rate_limited=True)
    answers: list[Exception | None] = [limited, limited, None]
    faulty(application.backend, lambda _: answers.pop(0))
    application.stage({"id": "a", "text": "Words."})
    application.drainer.drain()
    assert len(answers) == 2
    assert application.rows("SELECT attempts FROM vector_index.pending_1") == [(0,)]


def test_after_six_failed_attempts_only_the_guilty_document_fails(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.indexing.draining.backoff.BACKOFF_SECONDS", 0.001)
    down = ProviderUnavailable("the provider answers with 500")
    faulty(application.backend, lambda texts: down if any("guilty" in t for t in texts) else None)
    task_id = application.stage({"id": "bad", "text": "A guilty one."}, {"id": "good", "text": "Words."})
    while (result := application.result(task_id)) is None:
        application.drainer.drain()
    assert result["indexed"] == 1
    assert result["failed"] == [{"id": "bad", "error": "the provider answers with 500"}]
    assert max(sum("guilty" in t for t in texts) for texts in application.backend.requests) == 0


def test_wrong_backend_settings_fail_no_document_and_are_shown(application: Application) -> None:
    wrong = [False]
    faulty(application.backend, lambda _: SettingsError("the key is wrong") if wrong[0] else None, words=True)
    application.stage({"id": "a", "text": "Words."})
    wrong[0] = True
    application.drainer.drain()
    assert application.state("a")["state"] == "pending"
    assert application.rows("SELECT attempts FROM vector_index.pending_1") == [(0,)]
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, "default")
        assert status.index_status(conn, build)["last_error"] == "the key is wrong"
        conn.execute("UPDATE vector_index.pending_1 SET visible_at = now()")
        wrong[0] = False
        application.drainer.drain()
        assert status.index_status(conn, build)["last_error"] is None
    assert application.state("a")["state"] == "live"


def test_a_backend_with_another_model_is_refused_before_anything_is_written(application: Application) -> None:
    application.put({"id": "a", "text": "Words."})
    application.backend.model_id = "other"
    with pytest.raises(
        SettingsError, match=r"holds vectors of hash .16 dimensions., but its embedding backend is other"
    ):
        application.stage({"id": "a", "text": "New words."})


def test_an_input_whose_worker_died_six_times_fails(application: Application) -> None:
    task_id = application.stage({"id": "a", "text": "Words."})
    application.rows("UPDATE vector_index.pending_1 SET attempts = 6 RETURNING 1")
    application.drainer.drain()
    result = application.result(task_id)
    assert result is not None
    assert "the worker process died each time" in result["failed"][0]["error"]


def test_the_sweep_publishes_documents_that_a_dead_worker_saved(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = application.stage({"id": "a", "text": "Words."})
    with monkeypatch.context() as dead:
        dead.setattr("worker.store.publishing.publish", lambda *_: 0)
        application.drainer.drain()
    assert application.result(task_id) is None
    with connection.checkout(application.url) as conn:
        [build] = builds.all_writable(conn)
        assert sweep.sweep_build(conn, build, unchecked_seconds=0.0) == sweep.Repairs(published=1)
    assert application.result(task_id) is not None


def test_the_sweep_queues_chunks_that_are_neither_embedded_nor_pending(application: Application) -> None:
    task_id = application.stage({"id": "a", "text": "Words."})
    application.rows("DELETE FROM vector_index.pending_1 RETURNING 1")
    with connection.checkout(application.url) as conn:
        [build] = builds.all_writable(conn)
        assert sweep.sweep_build(conn, build, unchecked_seconds=0.0) == sweep.Repairs(queued=1)
    application.drainer.drain()
    assert application.result(task_id) is not None


def test_jobs_gone_quiet_are_found_once(application: Application) -> None:
    task_id = application.stage({"id": "a", "text": "Words."})
    application.delete("unknown")
    with connection.checkout(application.url) as conn:
        assert jobs.quiet(conn, seconds=60) == []
        conn.execute("UPDATE vector_index.jobs SET touched_at = now() - interval '5 minutes'")
        assert jobs.quiet(conn, seconds=60) == [(task_id, "default")]
        assert jobs.quiet(conn, seconds=60) == []
        application.drainer.drain()
        application.result(task_id)
        conn.execute("UPDATE vector_index.jobs SET touched_at = now() - interval '5 minutes'")
        assert jobs.quiet(conn, seconds=60) == []


def test_a_job_whose_waiting_task_is_queued_gets_no_second_one(
    application: Application,
) -> None:
    """With thousands of jobs a round takes minutes: tasks that are sent again would make it ever longer."""
    ids = {application.stage({"id": n, "text": f"Words of {n}."}) for n in range(5)}
    with connection.checkout(application.url) as conn:
        conn.execute("UPDATE vector_index.jobs SET touched_at = now() - interval '5 minutes'")
        assert jobs.quiet(conn, seconds=60, waiting=5) == []
        some = {task_id for task_id, _ in jobs.quiet(conn, seconds=60, waiting=3)}
        assert len(some) == 2
        rest = {task_id for task_id, _ in jobs.quiet(conn, seconds=60, waiting=0)}
        assert rest == ids - some


def test_a_search_blocked_by_a_lock_times_out_with_a_sentence(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads have no time limit, and a caller waits: here another session has locked the table."""
    monkeypatch.setattr("worker.store.search.TIMEOUT_SECONDS", 1)
    application.put({"id": "a", "text": "Words."})
    with connection.connect(application.url) as conn, conn.transaction():
        conn.execute("LOCK TABLE vector_index.chunks_1 IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(
            ServiceUnreachable, match="cannot do this now: canceling statement due to statement timeout"
        ):
            application.search("words")
    assert application.search("words") == ["a"]


def progress(application: Application, task_id: str) -> dict[str, int]:
    with connection.checkout(application.url) as conn:
        return job_progress(conn, "default", task_id)


def test_progress_counts_the_chunks_that_have_a_vector(application: Application) -> None:
    """Two requests of eight chunks: nothing is embedded before the first, and half of it before the second."""
    task_id = application.stage(*[{"id": n, "text": f"Text number {n}."} for n in range(16)])
    assert progress(application, task_id) == {"documents": 16, "done": 0, "chunks": 16, "embedded": 0}
    assert application.drainer.step()
    assert progress(application, task_id) == {"documents": 16, "done": 8, "chunks": 16, "embedded": 8}
    application.drainer.drain()
    result = application.result(task_id)
    assert result is not None
    assert (result["indexed"], result["embedded"]) == (16, 16)


def test_progress_of_a_document_counts_its_chunks_while_it_is_pending(application: Application) -> None:
    task_id = application.stage({"id": "a", "text": LONG})
    chunks = progress(application, task_id)["chunks"]
    assert application.drainer.step()
    assert progress(application, task_id) == {"documents": 1, "done": 0, "chunks": chunks, "embedded": 8}


def test_chunks_that_the_provider_refused_are_not_embedded(application: Application) -> None:
    faulty(application.backend, lambda texts: Refused("no") if "guilty" in str(texts) else None)
    result = application.put({"id": "bad", "text": "A guilty one."}, {"id": "good", "text": "Two words."})
    assert (result["chunks"], result["embedded"], result["tokens"]) == (2, 1, 2)


def test_a_job_that_waits_for_the_chunks_of_another_has_embedded_none(application: Application) -> None:
    application.stage({"id": "a", "text": "Words."})
    task_id = application.stage({"id": "b", "text": "Words."})
    assert progress(application, task_id) == {"documents": 1, "done": 0, "chunks": 1, "embedded": 0}


def test_a_small_job_passes_a_large_document(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MANY_CHUNKS", 10)
    application.stage({"id": "large", "text": LONG})
    application.stage({"id": "small", "text": "A single line."})
    application.drainer.step()
    assert application.backend.requests[0][0] == "A single line."
