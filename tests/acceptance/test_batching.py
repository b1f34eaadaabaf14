"""Batching: small messages that wait for a pool process run together, and each ends as if it had run by itself."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from tests.fixtures.services import own_valkey
from tests.fixtures.system import (
    CHAT,
    EMBED,
    PATIENCE_SECONDS,
    PROCESSES,
    STAGING,
    System,
    events,
    eventually,
    user_environment,
)

pytestmark = pytest.mark.slow

MESSAGES = 300

# `vector-index` with a task that takes long, and with documents that end the process which reads them, or take long
PROGRAM = """
import os, sys, time
from worker.celery import application, batching
from worker.documents import Document

batching.WAIT_SECONDS = 1.0
from_json = Document.from_json.__func__

def read(cls, value, **options):
    if "deadly" in str(value):
        open("deaths", "a").write("x")
        os._exit(9)
    if "slow" in str(value):
        open("started", "a").write("x")
        end = time.monotonic() + 120
        while not os.path.exists("go") and time.monotonic() < end:
            time.sleep(0.05)
    return from_json(cls, value, **options)

Document.from_json = classmethod(read)

@application.app.task(name="tasks.long", ignore_result=True)
def long(seconds):
    open("started", "a").write("x")
    time.sleep(seconds)

from worker.cli import main
sys.exit(main())
"""
SHORT_LEASES = """
from worker.celery.application import STATIC
STATIC["broker_transport_options"] |= {"visibility_timeout": 3, "unacked_restore_interval": 1}
"""
LONG_SLICES = """
import tasks.indexing
tasks.indexing.SLICE_SECONDS = 60.0
"""


@pytest.fixture
def system(start_system: Callable[..., Any], tmp_path: Path) -> Iterator[System]:
    """A staging worker with one process, and the worker that embeds."""
    with start_system(tmp_path, {}) as system:
        system.start("embed", PROCESSES["embed"])
        system.start("chat", PROCESSES["chat"])
        start_worker(system, "staging")
        system.await_queues(STAGING, EMBED, CHAT)
        index(system, "warm").get(timeout=PATIENCE_SECONDS)
        yield system


def start_worker(system: System, name: str, queues: str = "staging", changes: str = "") -> None:
    """Start a worker of PROGRAM, with changed times; for staging, it has one process."""
    number = "1" if queues == "staging" else "20"
    arguments = ["-c", changes + PROGRAM, "worker", "--queues", queues, "--concurrency", number]
    system.start(name, [*arguments, "--name", name, "--loglevel", "INFO"], sys.executable)


def index(system: System, id: str, text: str = "") -> "AsyncResult[Any]":
    return system.send("tasks.index_documents", documents=[{"id": id, "text": text or f"Text of {id}."}])


def occupy(system: System, seconds: float) -> None:
    """Let the only staging process do something else, so that messages wait."""
    system.send("tasks.long", seconds=seconds)
    eventually((system.folder / "started").exists)


def batches(system: System) -> list[int]:
    """The numbers of messages that were staged together, in one transaction each."""
    query = "SELECT count(DISTINCT task_id) FROM vector_index.job_documents GROUP BY xmin::text"
    with psycopg.connect(system.environment["DATABASE_URL"]) as connection:
        return [messages for (messages,) in connection.execute(query)]


def test_waiting_messages_run_together_and_each_has_its_result(system: System) -> None:
    occupy(system, 0.8)
    sent = [index(system, f"d{number}") for number in range(MESSAGES)]
    bad = system.send("tasks.index_documents", documents=[{"id": "bad", "text": 7}])
    results = [each.get(timeout=PATIENCE_SECONDS) for each in sent]
    assert [each["indexed"] for each in results] == [1] * MESSAGES
    assert bad.get(timeout=PATIENCE_SECONDS)["failed"][0]["id"] == "bad"
    assert max(batches(system)) > 20
    assert len(batches(system)) < MESSAGES / 4


def test_only_small_messages_run_together_also_if_their_body_was_written_with_them(system: System) -> None:
    """As docs/how-to/application.md does. Large ones would keep others waiting, and fill the memory of a worker."""
    broker = system.environment["BROKER_URL"]
    app = Celery("library", broker=broker, backend=broker, set_as_current=False)
    app.conf.broker_transport_options = {"body_encoding": "utf-8"}
    once = {"content_type": "application/json", "content_encoding": "utf-8"}

    def send(id: str, text: str) -> "AsyncResult[Any]":
        documents = {"documents": [{"id": id, "text": text}]}
        return app.send_task("tasks.index_documents", queue=STAGING, kwargs=documents, **once)

    occupy(system, 0.8)
    sent = [send(f"large{number}", f"Number {number}. " + 4_000 * "Words ") for number in range(20)]
    assert [each.get(timeout=PATIENCE_SECONDS)["indexed"] for each in sent] == [1] * 20
    assert max(batches(system)) == 1
    (system.folder / "started").unlink()
    occupy(system, 0.8)
    sent = [send(f"small{number}", f"Number {number}.") for number in range(20)]
    assert [each.get(timeout=PATIENCE_SECONDS)["indexed"] for each in sent] == [1] * 20
    assert max(batches(system)) > 5


def test_monitors_see_each_message_from_its_start_to_its_end(system: System) -> None:
    with events(system) as seen:
        occupy(system, 0.8)
        sent = [index(system, f"d{number:02}") for number in range(50)]
        eventually(lambda: all(len(of(seen, each)) == 3 for each in sent))
    assert max(batches(system)) > 20
    for each in sent:
        mine = {event["type"]: event for event in of(seen, each)}  # of two workers, so in no order
        assert mine.keys() == {"task-received", "task-started", "task-succeeded"}
        last = mine["task-succeeded"]
        assert (last["name"], last["args"]) == ("tasks.index_documents", "1 document, 12 B, index default")
        assert last["runtime"] > 0


def of(events: list[dict[str, Any]], sent: "AsyncResult[Any]") -> list[dict[str, Any]]:
    return [event for event in list(events) if event.get("uuid") == sent.id]


def test_only_the_message_that_kills_its_process_fails(system: System) -> None:
    occupy(system, 0.8)
    sent = [index(system, f"d{number}") for number in range(20)]
    deadly = index(system, "deadly")
    sent += [index(system, f"e{number}") for number in range(20)]
    with pytest.raises(Exception, match="ended its process 3 times"):
        deadly.get(timeout=PATIENCE_SECONDS)
    assert [each.get(timeout=PATIENCE_SECONDS)["indexed"] for each in sent] == [1] * 40
    assert (system.folder / "deaths").read_text() == "xxx"


def test_a_revoked_message_of_a_batch_is_not_run(system: System) -> None:
    eventually(lambda: system.app.control.revoke("revoked", reply=True, timeout=2))
    occupy(system, 0.8)
    sent = [index(system, f"d{number}") for number in range(20)]
    arguments = {"documents": [{"id": "revoked", "text": "Words."}]}
    revoked = system.app.send_task(
        "tasks.index_documents", queue=STAGING, kwargs=arguments, task_id="revoked"
    )
    assert [each.get(timeout=PATIENCE_SECONDS)["indexed"] for each in sent] == [1] * 20
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=PATIENCE_SECONDS)
    assert system.call("tasks.status", CHAT)["documents"]["live"] == 21  # with the first one


def test_messages_that_cannot_run_together_run_by_themselves_in_their_order(system: System) -> None:
    occupy(system, 0.8)
    first = [index(system, f"d{number}") for number in range(5)]
    unknown = system.send("tasks.index_documents", documents=[{"id": "u", "text": "Words."}], index="unknown")
    wrong = system.send("tasks.index_documents", documents="no list")
    twice = [
        system.app.send_task(
            "tasks.index_documents", queue=STAGING, kwargs={"documents": [document]}, task_id="same"
        )
        for document in ({"id": "same", "text": "First."}, {"id": "same", "text": "Second."})
    ]
    deleted = system.send("tasks.delete_documents", ids=["d3"])
    again = index(system, "d4", "Newer words.")
    with pytest.raises(Exception, match="unknown"):
        unknown.get(timeout=PATIENCE_SECONDS)
    with pytest.raises(Exception, match="documents must be a list"):
        wrong.get(timeout=PATIENCE_SECONDS)
    assert deleted.get(timeout=PATIENCE_SECONDS)["deleted"] == 1
    assert again.get(timeout=PATIENCE_SECONDS)["indexed"] == 1
    assert (
        sum(each.get(timeout=PATIENCE_SECONDS)["indexed"] for each in first) >= 3
    )  # the others are overtaken
    twice[0].get(timeout=PATIENCE_SECONDS, propagate=False)
    rows = system.call("tasks.search", CHAT, query="words", limit=20, mode="text")
    assert [row["document_id"] for row in rows] == ["d4"]
    states = system.call("tasks.status", CHAT, ids=["d3", "d4", "same"])["documents"]
    assert [states[id]["state"] for id in ("d3", "d4", "same")] == ["absent", "live", "live"]


def test_terminating_a_message_of_a_batch_leaves_the_others_to_run(system: System) -> None:
    occupy(system, 0.8)
    sent = [index(system, "first"), *(index(system, f"d{number}") for number in range(5))]
    slow = index(system, "slow")
    sent += [index(system, f"e{number}") for number in range(5)]
    eventually(
        lambda: (system.folder / "started").read_text() == "xx"
    )  # the long task, and the slow document
    system.app.control.revoke(slow.id, terminate=True)
    assert [each.get(timeout=PATIENCE_SECONDS)["indexed"] for each in sent] == [1] * 11
    with pytest.raises(TaskRevokedError):
        slow.get(timeout=PATIENCE_SECONDS)


def test_messages_return_to_the_queue_while_a_batch_takes_long(system: System) -> None:
    index(system, "slow")
    eventually((system.folder / "started").exists)
    sent = [index(system, f"d{number}") for number in range(20)]
    eventually(lambda: system.log("staging").count("task_received") >= 22)  # all have been taken
    start_worker(system, "second")
    assert [each.get(timeout=PATIENCE_SECONDS / 2)["indexed"] for each in sent] == [1] * 20
    system.kill("staging")


def test_messages_whose_acknowledgement_fails_come_again_and_no_worker_ends(
    databases: Callable[[], str], tmp_path: Path
) -> None:
    with own_valkey(tmp_path / "broker") as valkey, redis.Redis.from_url(valkey.url) as client:
        environment = user_environment(tmp_path, DATABASE_URL=databases(), BROKER_URL=valkey.url)
        system = System(folder=tmp_path, environment=environment)
        try:
            start_worker(system, "staging", changes=SHORT_LEASES)
            system.await_queues(STAGING)
            occupy(system, 0.5)
            sent = [index(system, "slow"), *(index(system, f"d{number}") for number in range(10))]
            eventually(lambda: (tmp_path / "started").read_text() == "xx")
            client.execute_command("ACL", "SETUSER", "default", "-hdel", "-zrem")
            (tmp_path / "go").touch()
            refused = re.compile(r"does not take (\d+) messages back")
            eventually(lambda: sum(map(int, refused.findall(system.log("staging")))) == 11)
            client.execute_command("ACL", "SETUSER", "default", "+hdel", "+zrem")
            system.start("embed", PROCESSES["embed"])
            assert [each.get(timeout=PATIENCE_SECONDS)["indexed"] for each in sent] == [1] * 11
            assert index(system, "next").get(timeout=PATIENCE_SECONDS)["indexed"] == 1
            eventually(lambda: client.hlen("vector_index:unacked") == 0, 60)
            assert {name: process.poll() for name, process in system.processes.items()} == {
                "staging": None,
                "embed": None,
            }
        finally:
            system.stop()


def test_jobs_that_cannot_be_reported_together_are_reported_one_by_one(system: System) -> None:
    """Here since one of them has no time of its start, so that its runtime is unknown."""
    sent = [index(system, f"d{number}") for number in range(5)]
    results = [each.get(timeout=PATIENCE_SECONDS) for each in sent]
    for each in sent:
        each.forget()
    jobs = [
        {"id": each.id, "name": "tasks.index_documents", "arguments": "1 document", "ignore_result": False}
        | {"began": None if each is sent[2] else 1.0}
        for each in sent
    ]
    with events(system) as seen:
        system.send("tasks.await_jobs", EMBED, jobs=jobs, index="default")
        eventually(
            lambda: all("task-succeeded" in {event["type"] for event in of(seen, each)} for each in sent)
        )
    assert [each.get(timeout=PATIENCE_SECONDS) for each in sent] == results


def test_a_job_that_is_revoked_while_its_batch_waits_ends_as_revoked(system: System) -> None:
    system.kill("embed")
    start_worker(system, "waiting", "embed", LONG_SLICES)
    system.await_queues(STAGING, EMBED, CHAT)
    system.call("tasks.pause", CHAT, index="default")
    occupy(system, 0.8)
    sent = [index(system, f"d{number}") for number in range(10)]
    eventually(lambda: sum(batches(system)) == 11)  # with the first message
    received = "task_received task=tasks.await_jobs"
    eventually(lambda: system.log("waiting").count(received) == len(batches(system)) - 1)
    system.app.control.revoke(sent[3].id, reply=True, timeout=2)
    system.call("tasks.resume", CHAT, index="default")
    others = sent[:3] + sent[4:]
    assert [each.get(timeout=PATIENCE_SECONDS)["indexed"] for each in others] == [1] * 9
    eventually(lambda: system.call("tasks.status", CHAT)["documents"]["live"] == 11)
    assert (
        index(system, "last").get(timeout=PATIENCE_SECONDS)["indexed"] == 1
    )  # after all results of the batch
    assert system.app.AsyncResult(sent[3].id).state == "REVOKED"
