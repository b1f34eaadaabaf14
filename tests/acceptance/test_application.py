"""The task API as an application sees it: Celery and the broker's URL, without this package."""

import os
import subprocess
import sys
import time
from typing import Any

import pytest
import redis
from celery import chain

from tests.fixtures.system import CHAT, PATIENCE_SECONDS, STAGING, System, events, eventually, read_json
from tests.provider import Provider
from worker.services.home import is_free

PETS = [
    {"id": 1, "text": "Cats chase mice.", "title": "Cats", "metadata": {"legs": 4}},
    {"id": "canary", "text": "Canaries sing in the morning.", "metadata": {"legs": 2}},
    {"id": "ship", "text": "Ships cross the sea.", "version": 7},
]
COUNTS = {"indexed": 0, "unchanged": 0, "stale": 0, "failed": [], "chunks": 0, "embedded": 0, "tokens": 0}


def test_documents_are_searchable_when_the_task_succeeds(system: System, index: str) -> None:
    result = system.call("tasks.index_documents", documents=PETS, index=index)
    assert result.pop("tokens") > 10
    expected = COUNTS | {"index": index, "indexed": 3, "chunks": 3, "embedded": 3}
    expected.pop("tokens")
    assert result == expected
    rows = system.call("tasks.search", CHAT, query="a bird that sings", limit=1, index=index)
    assert rows == [
        {
            "document_id": "canary",
            "title": "",
            "metadata": {"legs": 2},
            "text": "Canaries sing in the morning.",
            "start": 0,
            "end": 29,
            "chunks": [0, 0],
            "score": rows[0]["score"],
            "similarity": pytest.approx(rows[0]["similarity"]),
        }
    ]
    assert 0 < rows[0]["similarity"] < 1


def test_unchanged_documents_and_stale_versions_are_counted(system: System, index: str) -> None:
    system.call("tasks.index_documents", documents=PETS, index=index)
    again = system.call("tasks.index_documents", documents=PETS, index=index)
    assert again == COUNTS | {"index": index, "unchanged": 3}
    older = [{"id": "ship", "text": "Ships sank.", "version": 6}]
    assert system.call("tasks.index_documents", documents=older, index=index) == COUNTS | {
        "index": index,
        "stale": 1,
    }
    assert (
        system.call("tasks.search", CHAT, query="ships", limit=1, index=index)[0]["text"] == PETS[2]["text"]
    )


def test_status_shows_deleted_documents_as_absent(system: System, index: str) -> None:
    system.call("tasks.index_documents", documents=PETS, index=index)
    state = system.call("tasks.status", index=index)
    assert state["documents"] == {"pending": 0, "live": 3, "failed": 0}
    assert [(build["state"], build["documents"]) for build in state["builds"]] == [("live", 3)]
    deleted = system.call("tasks.delete_documents", ids=[1, "unknown"], index=index)
    assert deleted == {"index": index, "deleted": 1, "stale": 0}
    by_filter = system.call("tasks.delete_documents", filter={"legs": {"$lt": 4}}, index=index)
    assert by_filter == {"index": index, "deleted": 1, "stale": 0}
    assert system.call("tasks.status", ids=[1, "ship"], index=index)["documents"] == {
        "1": {"state": "absent", "version": None, "searchable": False, "error": None},
        "ship": {"state": "live", "version": 7, "searchable": True, "error": None},
    }


def test_invalid_document_fails_alone_with_its_reason(system: System, index: str) -> None:
    bad = [
        {"text": "nobody"},
        {"id": "empty metadata", "text": "x", "metadata": [1]},
        {"id": True, "text": "y"},
        {"id": "no text"},
        "not an object",
    ]
    result = system.call("tasks.index_documents", documents=[*bad, *PETS], index=index)
    assert result["indexed"] == 3
    assert [entry["error"] for entry in result["failed"]] == [
        "id is missing: give every document a string or an integer as its id",
        "metadata must be an object, not a list",
        "id must be a string or an integer, not a boolean",
        "text must be a string, not missing",
        "a document is an object with id and text, not a string",
    ]
    assert [entry["id"] for entry in result["failed"]][1::2] == ["empty metadata", "no text"]


def test_search_in_a_chain_finds_documents_indexed_by_the_first_task(system: System, index: str) -> None:
    documents = [{"id": n, "text": f"Number {n} is followed by number {n + 1}."} for n in range(300)]
    kwargs = {"documents": documents, "index": index}
    first = system.app.signature("tasks.index_documents", kwargs=kwargs, immutable=True, queue=STAGING)
    question = {"query": "number 299", "limit": 100, "index": index}
    second = system.app.signature("tasks.search", kwargs=question, immutable=True, queue=CHAT)
    rows = chain(first, second, app=system.app).apply_async().get(timeout=PATIENCE_SECONDS)
    assert "299" in {row["document_id"] for row in rows}


@pytest.mark.slow
def test_progress_counts_documents_and_chunks(system: System, remote: Provider) -> None:
    remote.latency_seconds = 9.0  # below the timeout; 0 after progress was seen
    try:
        documents = [{"id": n, "text": f"Text number {n}."} for n in range(5)]
        result = system.send("tasks.index_documents", documents=documents, index="remote")
        eventually(lambda: result.state == "PROGRESS")
        assert result.info == {"documents": 5, "done": 0, "chunks": 5, "embedded": 0}
        time.sleep(0.3)  # the state stays between two polls of the waiting task
        assert result.state == "PROGRESS"
    finally:
        remote.latency_seconds = 0.0
    assert result.get(timeout=PATIENCE_SECONDS)["indexed"] == 5


@pytest.mark.parametrize(
    ("task", "kwargs", "name", "expected"),
    [
        ("search", {"query": "x", "index": "indexO"}, "UnknownIndex", "there is no index 'indexO'"),
        ("search", {"query": "x", "limit": 0}, "InvalidQuery", "limit"),
        ("search", {"query": "x", "limit": 101}, "InvalidQuery", "limit"),
        ("search", {"query": "x", "offset": -1}, "InvalidQuery", "offset"),
        ("search", {"query": 5}, "InvalidQuery", "query"),
        ("search", {"query": "x", "mode": "fuzzy"}, "InvalidQuery", "mode must be one of"),
        ("search", {"query": "x", "filter": {"a": {"$near": 1}}}, "InvalidQuery", "$near"),
        ("search", {"query": "x", "similarity_threshold": 2}, "InvalidQuery", "similarity_threshold"),
        ("search", {"query": "x", "per_document": 0}, "InvalidQuery", "per_document"),
        ("index_documents", {"documents": {"id": 1}}, "InvalidQuery", "documents must be a list of objects"),
        ("index_documents", {"documents": [], "index": "x"}, "UnknownIndex", "there is no index 'x'"),
        ("delete_documents", {}, "InvalidQuery", "give either ids or filter"),
        ("delete_documents", {"ids": [None]}, "InvalidQuery", "id is missing"),
        ("delete_documents", {"filter": {}}, "InvalidQuery", "filter has no condition"),
        (
            "delete_documents",
            {"filter": {"$and": [{}]}},
            "InvalidQuery",
            "send all=True to delete everything",
        ),
        ("delete_documents", {"all": 1}, "InvalidQuery", "all must be true or false"),
        ("delete_documents", {"all": True, "ids": ["a"]}, "InvalidQuery", "without ids and without a filter"),
        ("status", {"ids": "abc"}, "InvalidQuery", "ids must be a list"),
    ],
)
def test_invalid_argument_fails_with_one_sentence(
    system: System, task: str, kwargs: dict[str, Any], name: str, expected: str
) -> None:
    result = system.send(f"tasks.{task}", CHAT if task == "search" else STAGING, **kwargs)
    error = result.get(timeout=PATIENCE_SECONDS, propagate=False)
    assert type(error).__name__ == name
    assert expected in str(error)
    assert "\n" not in str(error)
    assert f"raised unexpected: {name}(" not in system.logs()


def test_application_without_this_package_reads_results_and_errors(system: System, index: str) -> None:
    code = f"""
import sys
sys.modules["worker"] = sys.modules["tasks"] = None  # importing them fails
from celery import Celery
app = Celery(broker={system.environment["BROKER_URL"]!r}, backend={system.environment["BROKER_URL"]!r})
def call(task, queue, **kwargs):
    return app.send_task(task, queue=queue, kwargs=kwargs).get(timeout=60)
print(call("tasks.index_documents", "vector_index", documents=[{{"id": 42, "text": "x"}}], index={index!r})["indexed"])
try:
    call("tasks.search", "vector_index.chat", query="x", index="y")
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.stderr == ""
    assert done.stdout.startswith("1\nUnknownIndex there is no index 'y'")


def test_staging_runs_a_process_per_core_and_the_others_run_threads(system: System) -> None:
    pools = {node.partition("@")[0]: value for node, value in system.inspect("stats", nodes=3).items()}
    processes = pools["staging"]["pool"]["processes"]
    assert len(processes) == os.cpu_count()
    assert pools["staging"]["pid"] not in processes
    assert {name: pool["prefetch_count"] for name, pool in pools.items()} == {
        "staging": os.cpu_count(),
        "embed": 64,
        "chat": 16,
    }


MARKER = "quetzalcoatlus"


def test_texts_and_queries_stay_out_of_events_logs_flower_and_failed_results(
    system: System, index: str, unused_port: int
) -> None:
    """By default, Celery shows arguments in each of these places."""
    flower = ["flower", "--port", str(unused_port)]
    document = {"id": "secret", "text": MARKER, "title": MARKER, "metadata": {"a": MARKER}}
    monitored = "operator:password"
    variables = {"FLOWER_BASIC_AUTH": monitored}
    monitor = System(folder=system.folder, environment={**system.environment, **variables})
    monitor.start("flower", flower)
    try:
        url = f"http://127.0.0.1:{unused_port}/api/tasks"
        eventually(lambda: not is_free(unused_port))
        with events(system) as seen:
            send = system.app.send_task
            sent = [
                send("tasks.index_documents", [[document], index], queue=STAGING),
                system.send("tasks.index_documents", documents=[document], index=index),
                system.send("tasks.index_documents", documents=MARKER),
                system.send("tasks.index_documents", text=MARKER),
                system.send("tasks.index_documents", documents=[{"id": [MARKER], "text": MARKER}]),
                send("tasks.search", [MARKER], {"limit": 0, "index": index}, queue=CHAT),
                system.send("tasks.search", CHAT, query=MARKER, filter={"a": {"$eq": {MARKER: MARKER}}}),
                system.send("tasks.delete_documents", filter={"a": MARKER}, index=index),
            ]
            unknown = system.send("tasks.unheard_of", documents=[document])
            results = [result.get(timeout=PATIENCE_SECONDS, propagate=False) for result in [*sent, unknown]]
            assert (results[0]["failed"], results[1]["failed"]) == ([], [])
            assert type(results[-1]).__name__ == "NotRegistered"
            query = system.send("tasks.search", CHAT, query=MARKER, index=index)
            query.get(timeout=PATIENCE_SECONDS)

            def ended() -> set[str]:
                return {event["uuid"] for event in seen if event["type"] in ("task-succeeded", "task-failed")}

            eventually(lambda: {result.id for result in [*sent, query]} <= ended())
            shown = eventually(
                lambda: (tasks := read_json(url, *monitored.split(":"))).keys() >= {query.id} and tasks
            )
    finally:
        monitor.stop()
    with redis.Redis.from_url(system.environment["BROKER_URL"]) as broker:
        keys = [key for key in broker.scan_iter("celery-task-meta-*") if query.id not in key.decode()]
        stored = b"".join(broker.mget(keys))
    assert len(keys) >= len(results)
    assert MARKER not in str(seen)
    assert MARKER not in str(shown)
    assert MARKER not in system.logs()
    assert MARKER.encode() not in stored
