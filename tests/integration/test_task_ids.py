"""A task id is an idempotency key: the same message is a repetition, another message is refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.fixtures.application import Application
from tests.fixtures.shelf import Shelf
from worker.errors import InvalidQuery
from worker.indexing import reindexing, staging
from worker.store import connection, indexes
from worker.store.reindexing import ReindexRequest

REFUSED = (
    r"^task id 'one' was used in the last 7 days with other arguments: send this message under a new task id$"
)


def document(id: int = 1, text: str = "Old words.") -> dict[str, object]:
    return {"id": id, "text": text}


def reindex(application: Application, shelf: Shelf) -> None:
    request = ReindexRequest(index="default", task_id="one")
    reindexing.reindex(application.target, lambda: shelf, request, max_bytes=10_000)


def pause(application: Application) -> None:
    with connection.checkout(application.url) as conn:
        indexes.pause(conn, "default", "one")


USES: dict[str, Callable[[Application, Shelf], object]] = {
    "a new text": lambda app, _: app.stage(document(text="New words."), task_id="one"),
    "another document": lambda app, _: app.stage(document(2), task_id="one"),
    "a version": lambda app, _: app.stage(document() | {"version": 2}, task_id="one"),
    "more documents": lambda app, _: app.stage(*(document(n) for n in range(300)), task_id="one"),
    "a delete": lambda app, _: staging.delete(app.target, "one", ["1"], None),
    "a delete by filter": lambda app, _: staging.delete_matching(app.target, "one", {"a": 1}, None),
    "a reindexing": reindex,
    "a pause": lambda app, _: pause(app),
}


@pytest.mark.parametrize("use", USES)
def test_another_message_under_a_used_task_id_is_refused(
    use: str, application: Application, shelf: Shelf
) -> None:
    application.stage(document(), task_id="one")
    application.drainer.drain()
    with pytest.raises(InvalidQuery, match=REFUSED):
        USES[use](application, shelf)
    assert application.search("Old words.") == ["1"]
    assert application.state("1")["version"] is None


@pytest.mark.parametrize("use", USES)
def test_indexing_under_a_used_task_id_is_refused(use: str, application: Application, shelf: Shelf) -> None:
    application.put(document(7))
    USES[use](application, shelf)
    with pytest.raises(InvalidQuery, match=REFUSED):
        application.stage(document(), task_id="one")


@pytest.mark.parametrize("use", USES)
def test_the_same_message_under_its_task_id_is_a_repetition(
    use: str, application: Application, shelf: Shelf
) -> None:
    application.put(document(7))
    USES[use](application, shelf)
    before = application.rows("SELECT count(*) FROM vector_index.jobs")
    USES[use](application, shelf)
    assert application.rows("SELECT count(*) FROM vector_index.jobs") == before


def test_a_task_id_of_another_index_is_refused(application: Application) -> None:
    application.stage(document(), task_id="one")
    application.index = replace(application.index, name="other")
    with pytest.raises(InvalidQuery, match=REFUSED):
        application.stage(document(), task_id="one")


def drop(application: Application, task_id: str = "drop") -> object:
    with connection.checkout(application.url) as conn:
        return indexes.drop(conn, application.index.name, task_id, configured=True)


def unpurged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker that drops an index die before it deletes what is left of it."""
    monkeypatch.setattr(indexes, "purge", lambda connection: None)


def test_a_message_that_is_delivered_again_after_a_drop_is_staged_in_the_new_index(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpurged(monkeypatch)
    documents = [document(n, f"Words of {n}.") for n in range(300)]
    application.stage(*documents, task_id="one")
    drop(application)
    application.put(document(999))
    application.stage(*documents, task_id="one")
    application.drainer.drain()
    result = application.result("one")
    assert result is not None
    assert result["indexed"] == 300


def test_a_job_whose_index_was_dropped_says_so(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpurged(monkeypatch)
    application.stage(document(), task_id="one")
    drop(application)
    with pytest.raises(InvalidQuery, match="its index was dropped"):
        application.result("one")


def test_a_drop_under_the_task_id_of_another_drop_is_refused(application: Application) -> None:
    application.put(document())
    drop(application, "one")
    application.index = replace(application.index, name="other")
    application.put(document())
    with pytest.raises(InvalidQuery, match=REFUSED):
        drop(application, "one")
