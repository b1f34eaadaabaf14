"""An application that reads no results: what its operator hears of documents that cannot be taken."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from celery.events.receiver import EventReceiver

from tests.fixtures.system import CHAT, PATIENCE_SECONDS, STAGING, System, eventually

pytestmark = pytest.mark.slow  # it starts a whole system


def send(system: System, index: str, *documents: Any) -> None:
    system.app.send_task(
        "tasks.index_documents",
        queue=STAGING,
        kwargs={"index": index, "documents": list(documents)},
        ignore_result=True,
    )


def test_values_of_models_arrive_as_their_sender_meant_them(system: System, index: str) -> None:
    id, at = uuid4(), datetime(2026, 1, 2, tzinfo=UTC)
    metadata = {"owner": id, "at": at, "day": at.date(), "price": Decimal("5.10")}
    send(system, index, {"id": id, "text": "Words.", "metadata": metadata, "version": Decimal(3)})
    states = lambda: system.call("tasks.status", CHAT, ids=[id], index=index)["documents"]  # noqa: E731
    eventually(lambda: states()[str(id)]["state"] == "live")
    assert states()[str(id)]["version"] == 3
    for field, value in {"owner": id, "at": {"$lte": at}, "day": at.date()}.items():
        [row] = system.call("tasks.search", CHAT, query="words", filter={field: value}, index=index)
        assert row["metadata"] == {
            "owner": str(id), "at": at.isoformat(), "day": "2026-01-02", "price": "5.10",
        }  # fmt: skip
    assert system.call("tasks.delete_documents", ids=[id], index=index)["deleted"] == 1


def test_refused_documents_are_shown_by_every_command_the_log_and_monitors(
    system: System, index: str, succeeded: list[dict[str, Any]]
) -> None:
    send(system, index, {"id": "a", "text": "Words.", "version": 1.5}, {"id": "b", "txt": "Words."})
    eventually(lambda: system.call("tasks.status", CHAT, index=index)["refused"] == 2)
    a, b = system.command("failures", "--index", index).stdout.splitlines()
    assert a.startswith(
        "a: version must be an integer that the application increases, not of type float (refused, send it again; "
    )
    assert b.startswith("b: unknown field 'txt': ")
    shown = system.command("status", "a", "--index", index).stdout
    assert shown.startswith("a: refused, not searchable: version must be an integer")
    assert (
        "refused: 2 documents: see `vector-index failures`\n"
        in system.command("status", "--index", index).stdout
    )
    assert f"documents_refused index={index} " in system.log("staging")
    [result] = eventually(
        lambda: [event["result"] for event in succeeded if "'indexed': 0" in event["result"]]
    )
    assert "'failed': [{'id': 'a', 'error': 'version must be an integer" in result
    send(system, index, {"id": "a", "text": "Words.", "version": 2}, {"id": "b", "text": "Words."})
    eventually(lambda: system.call("tasks.failures", CHAT, index=index)["failures"] == [])


@pytest.fixture
def succeeded(system: System) -> Iterator[list[dict[str, Any]]]:
    """The `task-succeeded` events since the start of the test, as Flower receives them."""
    found: list[dict[str, Any]] = []
    with system.app.connection_for_read() as connection:
        receiver = EventReceiver(connection, handlers={"task-succeeded": found.append}, app=system.app)
        ready = threading.Event()
        receiver.on_consume_ready = lambda *_, **__: ready.set()
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False})
        thread.start()
        assert ready.wait(PATIENCE_SECONDS)
        yield found
        receiver.should_stop = True
        thread.join()
