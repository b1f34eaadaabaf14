"""Every task returns the fields that its type, and so the reference, says."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import pytest

from docs.generate import tasks
from tests.fixtures.shapes import misfits
from tests.fixtures.system import CHAT, PATIENCE_SECONDS, System, eventually
from tests.provider import Provider
from worker.results import Progress

pytestmark = pytest.mark.slow

SETTINGS = """
VECTOR_INDEX = {
    "EMBEDDING_BACKENDS": {
        "default": {"CONFIG": {"MODEL_ID": "wordllama"}},
        "remote": {"CONFIG": {"MODEL_ID": "3-small", "EMBEDDING_OUTPUT_DIMENSIONS": 64, "TIMEOUT_SECONDS": 10}},
    },
    "INDEXES": {
        "default": {},
        "remote": {"EMBEDDING_BACKEND": "remote"},
        "shop": {"SOURCE": "pages", "SCHEDULE": 1.0},
    },
    "SOURCES": {
        "pages": {
            "CLASS": "worker.sources.sql.SQLSource",
            "CONFIG": {"QUERY": "SELECT 1 AS id, 'A book may be kept for four weeks.' AS text"},
        },
    },
}
"""
DOCUMENTS = [
    {
        "id": 1,
        "title": "Lending",
        "text": "A book may be kept for four weeks.",
        "metadata": {"branch": "north"},
    },
    {"id": 2, "text": "The library is open from ten to six."},
    {"id": 3},  # fails
]
REPORTED = {name: get_type_hints(task.run)["return"] for name, task in tasks.found().items()}
# In this order: each finds what the ones before it left.
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("index_documents", {"documents": DOCUMENTS}),
    ("search", {"query": "how long may I keep a book?"}),
    ("search", {"query": "book", "mode": "text"}),
    ("find_similar", {"document_id": 1}),
    ("embed_texts", {"texts": ["A book.", "A film."]}),
    ("chat", {"question": "How long may I keep a book?"}),
    ("chat", {"question": "How long may I keep a book?", "filter": {"branch": "none"}}),
    ("status", {}),
    ("status", {"index": "shop"}),
    ("status", {"ids": [1, 3]}),
    ("failures", {}),
    ("retry", {}),
    ("verify", {"repair": True}),
    ("collect", {}),
    ("index_vectors", {}),
    ("rebuild", {}),
    ("rebuild", {"action": "cancel"}),
    ("reindex", {"index": "shop"}),
    ("pause", {"index": "shop"}),
    ("reindex", {"index": "shop"}),  # does nothing, with a warning
    ("schedule", {}),
    ("resume", {"index": "shop"}),
    ("delete_documents", {"ids": [1]}),
    ("delete_documents", {"filter": {"branch": "north"}}),
    ("drop", {"index": "shop"}),
]


@pytest.fixture(scope="module")
def library(
    start_system: Callable[..., Any], remote: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A worker for all queues with the beat, and an index that reads a source by schedule."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "ours.py").write_text(SETTINGS)
    variables = {"OPENAI_API_KEY": "sk-of-the-stand-in", "OPENAI_BASE_URL": remote.url}
    variables["VECTOR_INDEX_SETTINGS"] = str(folder / "ours.py")
    with start_system(folder, {"all": ["worker"], "beat": ["beat"]}, **variables) as system:
        yield system


def test_every_result_has_the_fields_of_its_type(library: System) -> None:
    wrong = []
    for name, kwargs in CALLS:
        result = library.call(f"tasks.{name}", tasks.queue(f"tasks.{name}"), **kwargs)
        found = misfits(result, REPORTED[f"tasks.{name}"], name)
        wrong += [f"{line}: change worker/results.py" for line in found]
    assert wrong == []


def test_every_task_with_a_result_is_called() -> None:
    """Given that a task reports the result of the task that it continues."""
    reporting = {name.removeprefix("tasks.") for name, hint in REPORTED.items() if hint is not type(None)}
    assert {name for name, _ in CALLS} == reporting - {"await_indexing", "continue_rebuild"}


def test_progress_has_the_fields_of_its_type(library: System, remote: Provider) -> None:
    remote.latency_seconds = 9.0
    try:
        result = library.send("tasks.index_documents", documents=DOCUMENTS, index="remote")
        eventually(lambda: result.state == "PROGRESS")
        assert list(misfits(result.info, Progress)) == []
    finally:
        remote.latency_seconds = 0.0
    result.get(timeout=PATIENCE_SECONDS)


def test_an_error_arrives_as_a_new_class_of_celery_exceptions(library: System) -> None:
    """Given an application that has never imported this project's errors."""
    code = f"""
from celery import Celery
app = Celery(broker={library.environment["BROKER_URL"]!r}, backend={library.environment["BROKER_URL"]!r})
def error():
    sent = app.send_task("tasks.search", queue={CHAT!r}, kwargs={{"query": "x", "index": "y"}})
    return sent.get(timeout=60, propagate=False)
first, second = error(), error()
print(type(first).__module__, type(first).__qualname__, type(first).__bases__, len(first.args), first)
print(type(first) is type(second))
"""
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=PATIENCE_SECONDS)
    assert printed == (
        "celery.exceptions UnknownIndex (<class 'Exception'>,) 1 "
        "there is no index 'y': choose 'default', 'remote', 'shop'\nFalse\n"
    )


def test_misfits_are_found() -> None:
    """The comparison above cannot pass because it overlooks a kind of difference."""
    fits: Any = {"documents": 1, "done": 1, "chunks": 1, "embedded": 1}
    assert list(misfits(fits, Progress)) == []
    assert list(misfits({**fits, "new": 1}, Progress)) == ["result has new"]
    assert list(misfits({**fits, "done": "1"}, Progress)) == ["result.done is a str, not <class 'int'>"]
    assert next(misfits([{}], list[Progress])).startswith("result[0] lacks ")
