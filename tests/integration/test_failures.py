"""Listing and retrying failed documents, on real Postgres."""

from typing import Any

import pytest

from tests.fixtures.application import Application, faulty
from worker.errors import Refused
from worker.indexing import staging
from worker.store import builds, connection, status


@pytest.fixture
def refusing(application: Application) -> set[str]:
    """The words that the provider refuses; tests change the set."""
    words: set[str] = set()
    faulty(
        application.backend,
        lambda texts: Refused("not this one") if any(w in t for w in words for t in texts) else None,
    )
    return words


def failures(application: Application, **page: Any) -> list[dict[str, Any]]:
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, "default")
        assert build is not None
        return status.failed_documents(conn, build, **({"after": "", "limit": 100} | page))


def retry(application: Application, ids: list[str] | None = None) -> tuple[int, int]:
    chosen = staging.failed_ids(application.target) if ids is None else ids
    done = staging.retry(application.target, chosen)
    application.drainer.drain()
    return len(done.docs), done.chunks


def test_a_failure_is_listed_with_its_reason_time_and_served_revision(
    application: Application,
    refusing: set[str],
) -> None:
    application.put({"id": "b", "text": "Harmless."}, {"id": "good", "text": "Fine."})
    refusing.add("poison")
    application.put({"id": "b", "text": "A poison."}, {"id": "a", "text": "More poison."})
    rows = failures(application)
    assert [(row["id"], row["error"], row["searchable"]) for row in rows] == [
        ("a", "not this one", False),
        ("b", "not this one", True),
    ]
    assert all(row["since"].endswith("+00:00") for row in rows)
    assert [row["id"] for row in failures(application, after="a", limit=1)] == ["b"]


def test_a_retry_indexes_all_failed_documents(
    application: Application,
    refusing: set[str],
) -> None:
    refusing.add("poison")
    application.put(*[{"id": n, "text": f"A poison number {n}."} for n in range(120)])
    assert len(failures(application, limit=200)) == 120
    refusing.clear()
    assert retry(application) == (120, 120)
    assert failures(application) == []
    assert application.state("7")["state"] == "live"
    assert retry(application) == (0, 0)


def test_a_retry_of_some_ids_leaves_other_documents_unchanged(
    application: Application,
    refusing: set[str],
) -> None:
    refusing.add("poison")
    application.put(*[{"id": n, "text": f"A poison {n}."} for n in "ab"], {"id": "c", "text": "Fine."})
    refusing.clear()
    assert retry(application, ["a", "c", "unknown"]) == (1, 1)
    assert [row["id"] for row in failures(application)] == ["b"]


def test_a_document_that_fails_again_is_listed_again(application: Application, refusing: set[str]) -> None:
    refusing.add("poison")
    application.put({"id": "a", "text": "A poison."})
    assert retry(application) == (1, 1)
    assert [row["error"] for row in failures(application)] == ["not this one"]


def test_embedding_a_failed_content_for_another_document_ends_the_failure(
    application: Application,
    refusing: set[str],
) -> None:
    refusing.add("poison")
    application.put({"id": "a", "text": "A poison."})
    refusing.clear()
    application.put({"id": "b", "text": "A poison."})
    assert failures(application) == []
    assert application.state("a")["state"] == "live"


def test_a_new_revision_or_a_delete_ends_a_failure(
    application: Application,
    refusing: set[str],
) -> None:
    refusing.add("poison")
    application.put({"id": "a", "text": "A poison."}, {"id": "b", "text": "Much poison."})
    application.put({"id": "a", "text": "Harmless."})
    application.delete("b")
    assert failures(application) == []


def test_an_index_without_documents_has_nothing_to_retry(application: Application) -> None:
    assert list(staging.failed_ids(application.target)) == []
    assert staging.retry(application.target, ["a"]).docs == []


def test_a_text_that_is_embedded_already_is_searchable_at_once_beside_a_failed_one(
    application: Application,
    refusing: set[str],
) -> None:
    refusing.add("poison")
    failed, known = {"id": "failed", "text": "A poison."}, "Words that are known."
    application.put(failed, {"id": "first", "text": known})
    # two texts are new to the index, and two are queued: but not the same two
    application.stage(failed, {"id": "copy", "text": known}, {"id": "new", "text": "Other words."})
    assert application.state("copy")["searchable"]
