"""Each line that workers log under load is an event without document text."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.system import CHAT, PATIENCE_SECONDS, PROCESSES, System
from worker.observability.log_events import EVENTS

pytestmark = pytest.mark.slow

DOCUMENTS = [
    {"id": f"page{number}", "text": f"The heron of Marrakesh counts {number}.", "title": "Lanterns"}
    for number in range(3)
]
PLANTED = ("heron", "Marrakesh", "Lanterns", "Quetzaltenango")
QUESTION = "Where is Quetzaltenango?"


@pytest.fixture(scope="module")
def logged(
    start_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """All log events of all processes at level DEBUG."""
    folder = tmp_path_factory.mktemp("logs")
    loud = {name: [*arguments, "--loglevel", "DEBUG"] for name, arguments in PROCESSES.items()}
    with start_system(folder, loud, VECTOR_INDEX_LOG_FORMAT="json") as system:
        load(system)
    lines = system.logs().splitlines()
    assert not [line for line in lines if any(marker in line for marker in PLANTED)]
    return [json.loads(line) for line in lines]


def load(system: System) -> None:
    system.app.send_task("tasks.index_documents", queue="vector_index", task_id="the-job",
        kwargs={"documents": DOCUMENTS}).get(timeout=PATIENCE_SECONDS)  # fmt: skip
    assert system.call("tasks.search", CHAT, query=QUESTION)
    assert system.call("tasks.chat", CHAT, question=QUESTION)["sources"]
    unknown = {"filter": {"$nonsense": "Quetzaltenango"}}
    for wrong in ({"query": 3}, {"query": QUESTION, "top_k": 3}, {"query": QUESTION, **unknown}):
        with pytest.raises(Exception, match=r"query|nonsense|top_k"):
            system.call("tasks.search", CHAT, **wrong)


def test_every_line_is_an_event_with_the_same_first_keys(logged: list[dict[str, Any]]) -> None:
    assert logged
    for event in logged:
        assert list(event)[:4] == ["time", "level", "logger", "event"]


def test_every_event_has_the_level_and_the_fields_of_the_reference(logged: list[dict[str, Any]]) -> None:
    wrong = []
    for event in logged:
        known = EVENTS.get(event["event"])
        fields = event.keys() - {"time", "level", "logger", "event", "traceback"}
        levels = known.level.split(" or ") if known else []
        if known is None or not fields <= set(known.fields) or not {"any", event["level"]} & set(levels):
            wrong.append(event)
    assert wrong == []


def test_a_document_id_appears_in_every_step_from_message_to_search(logged: list[dict[str, Any]]) -> None:
    ids = [document["id"] for document in DOCUMENTS]
    steps = {
        "documents_staged": {"index": "default", "task_id": "the-job", "ids": ids, "accepted": 3},
        "documents_published": {"index": "default", "ids": ids},
    }
    for step, keys in steps.items():
        (event,) = [event for event in logged if event["event"] == step]
        assert keys.items() <= event.items()
    ends = {(event["event"], event.get("task")) for event in logged if event.get("task_id") == "the-job"}
    assert {("task_received", "tasks.index_documents"), ("task_succeeded", "tasks.index_documents")} <= ends


def test_an_indexing_is_not_reported_as_ignored(logged: list[dict[str, Any]]) -> None:
    """Although another task continues it."""
    assert not [event for event in logged if event["event"] == "task_ignored"]


def test_requests_searches_and_answers_have_their_duration(logged: list[dict[str, Any]]) -> None:
    for name, keys in {
        "request": {"backend": "embedding:default", "purpose": "documents", "inputs": 3, "outcome": "ok"},
        "search": {"index": "default", "mode": "hybrid", "outcome": "ok"},
        "chat": {"index": "default", "outcome": "ok"},
    }.items():
        events = [event for event in logged if event["event"] == name and keys.items() <= event.items()]
        assert events, name
        assert all(0 < event["seconds"] < 60 for event in events)


def test_a_failed_task_has_its_reason_in_one_line(logged: list[dict[str, Any]]) -> None:
    failed = [event for event in logged if event["event"] == "task_failed"]
    assert len(failed) == 3
    assert all(event["task"] == "tasks.search" and "Invalid" in event["error"] for event in failed)
