"""A message that cannot be read fails under its own id; a document that cannot be taken fails alone."""

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import redis

from tests.fixtures.system import CHAT, PATIENCE_SECONDS, STAGING, System, eventually

pytestmark = pytest.mark.slow  # it starts a whole system

SECRET = "geheim"
LONG = 10**4200  # an integer that Python still writes; 5,000 digits have to be spliced in


def document(id: object, **metadata: Any) -> dict[str, Any]:
    return {"id": id, "text": f"A text about {SECRET}.", "metadata": metadata}


def send_changed(system: System, change: Callable[[dict[str, Any]], Any], **kwargs: Any) -> Any:
    """Send a message as Celery writes it, with a change."""
    with redis.Redis.from_url(system.environment["BROKER_URL"]) as client:
        sent = system.app.send_task("tasks.index_documents", queue="scratch", kwargs=kwargs)
        message = json.loads(client.rpop("scratch"))
        message["properties"]["delivery_info"]["routing_key"] = STAGING
        change(message)
        client.lpush(STAGING, json.dumps(message))
    return sent


def body(change: Callable[[str], str]) -> Callable[[dict[str, Any]], None]:
    """Change the text of a message's body."""

    def changed(message: dict[str, Any]) -> None:
        text = base64.b64decode(message["body"]).decode()
        message["body"] = base64.b64encode(change(text).encode()).decode()

    return changed


def header(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda message: message["headers"].update({name: value})


UNREADABLE = {
    "yaml": lambda message: message.update({"content-type": "application/x-yaml"}),
    "an unknown content type": lambda message: message.update({"content-type": SECRET}),
    "plain text": lambda message: message.update({"content-type": "text/plain"}),
    "no JSON": body(lambda text: text[:-2]),
    "a number": body(lambda _: "5"),
    "a list of another length": body(lambda _: "[[], {}]"),
    "no named arguments": body(lambda _: "[[], [], {}]"),
    "arguments that stand for a value": body(
        lambda _: '[[], {"__type__": "datetime", "__value__": "2026-01-01"}, {}]'
    ),
    "nested too deep": body(lambda _: "[" * 100_000),
    "no base64": lambda message: message.update(body="é"),
    "an unknown compression": header("compression", "application/brotli"),
    "a damaged compression": header("compression", "application/x-gzip"),
    "a date that is none": header("eta", "geheim"),
    "an expiry that is none": header("expires", "geheim"),
    "an expiry of another type": header("expires", {"a": "geheim"}),
    "a time limit of another type": header("timelimit", ["geheim"]),
    "a callback that is none": body(
        lambda text: text.replace('"callbacks": null', '"callbacks": ["geheim"]')
    ),
    "a chord that is none": body(lambda text: text.replace('"chord": null', '"chord": {"task": 5}')),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_message_that_cannot_be_read_fails_under_its_own_id(kind: str, system: System, index: str) -> None:
    sent = send_changed(system, UNREADABLE[kind], documents=[document(1)], index=index)
    with pytest.raises(Exception, match=r"^the message cannot be read: [^\n]+$") as caught:
        sent.get(timeout=PATIENCE_SECONDS)
    assert type(caught.value).__name__ == "InvalidQuery"
    assert SECRET not in str(caught.value)
    assert SECRET not in system.logs()
    assert system.call("tasks.status", CHAT, index=index)["documents"]["live"] == 0


def test_a_pickle_is_refused_with_what_to_do(system: System) -> None:
    sent = system.app.send_task("tasks.search", queue=CHAT, kwargs={"query": SECRET}, serializer="pickle")
    expected = (
        "the message cannot be read: it is pickle, and workers read JSON only: set task_serializer to 'json'"
    )
    with pytest.raises(Exception, match=f"^{re.escape(expected)}$"):
        sent.get(timeout=PATIENCE_SECONDS)


def test_a_message_without_an_id_ends_no_worker(system: System, index: str) -> None:
    for name, value in {"id": None, "task": ["tasks.search"]}.items():
        send_changed(system, header(name, value), documents=[], index=index)
    assert system.call("tasks.index_documents", documents=[document(1)], index=index)["indexed"] == 1
    assert all(process.poll() is None for process in system.processes.values())


def test_a_document_that_cannot_be_taken_fails_alone(system: System, index: str) -> None:
    documents = [
        document("good", date="1994-02-14"),
        document("typed", deep=[{"__type__": "Point", "__value__": SECRET}]),
        document("wrong", at={"__type__": "datetime", "__value__": SECRET}),
        document("list", at={"__type__": [1], "__value__": SECRET}),
        document("long", number=0),
        document("deep", levels=1),
        document(LONG),
        document("version", number=1) | {"version": LONG},
        {"__type__": "Point", "__value__": SECRET},
    ]
    long = body(
        lambda text: text.replace('"number": 0', f'"number": -{"7" * 5000}').replace(
            '"levels": 1', f'"levels": {"[" * 900}{"]" * 900}'
        )
    )
    result = send_changed(system, long, documents=documents, index=index).get(timeout=PATIENCE_SECONDS)
    keys = "has the keys __type__ and __value__ alone, which Celery takes for a value of its own: rename one of them"
    assert result["indexed"] == 1
    assert {row["id"]: row["error"] for row in result["failed"]} == {
        "typed": f"metadata.deep[0] {keys}",
        "wrong": f"metadata.at {keys}",
        "list": f"metadata.at {keys}",
        "long": "metadata.number is a number of 5,000 digits; at most 640 are allowed: send it as a string",
        "deep": "metadata.levels" + "[0]" * 32 + " is nested more than 32 levels deep",
        "#6": "id must be a string or an integer, not a number of 4,201 digits",
        "version": "version must be an integer that the application increases, not a number of 4,201 digits",
        "#8": "unknown field '__type__': a document has id, text, title, metadata and version; "
        "put other values into metadata",
    }
    assert SECRET not in system.logs()
    assert len(system.call("tasks.search", CHAT, query="text", index=index)) == 1


def test_an_enqueued_document_that_cannot_be_taken_fails_alone(system: System, index: str) -> None:
    enqueue = "SELECT vector_index.enqueue_document(%s, %s, 'A text.', metadata => %s)"
    with psycopg.connect(system.environment["DATABASE_URL"], autocommit=True) as connection:
        for id, metadata in {
            "good": '{"a": 1}',
            "typed": '{"at": {"__type__": "decimal", "__value__": "1"}}',
            "long": f'{{"number": 1{"0" * 5000}}}',
            "power": '{"number": 1e5000}',
        }.items():
            connection.execute(enqueue, [index, id, metadata])
    failures = eventually(
        lambda: len(found := system.call("tasks.failures", CHAT, index=index)["failures"]) == 3 and found
    )
    errors = {row["id"]: row["error"] for row in failures}
    assert "rename one of them" in errors["typed"]
    assert errors["long"] == errors["power"]
    assert "metadata.number is a number of 5,001 digits" in errors["long"]
    eventually(lambda: system.call("tasks.search", CHAT, query="text", index=index))


def test_indexing_a_file_ends_whatever_a_line_holds(system: System, index: str) -> None:
    lines = [
        '{"id": 1, "text": "One."}',
        '{"id": 2, "text": "Two.", "metadata": {"at": {"__type__": "Point", "__value__": 1}}}',
        f'{{"id": 3, "text": "Three.", "metadata": {{"number": {"7" * 5000}}}}}',
        f'{{"id": {"7" * 4200}, "text": "Four."}}',
    ]
    (system.folder / "lines.jsonl").write_text("\n".join(lines))
    done = system.command("index", "lines.jsonl", "--index", index)
    assert "Traceback" not in done.stderr + done.stdout
    assert system.call("tasks.status", CHAT, index=index)["documents"]["live"] == 1
    for line in ("lines.jsonl:2", "lines.jsonl:3", "lines.jsonl:4"):
        assert line in done.stdout + done.stderr


def test_other_arguments_that_cannot_be_taken_fail_their_task(system: System, index: str) -> None:
    for name, kwargs in {
        "limit": {"query": "x", "limit": LONG},
        "filter": {"query": "x", "filter": {"a": {"__type__": "Point", "__value__": SECRET}}},
    }.items():
        with pytest.raises(Exception, match=name) as caught:
            system.call("tasks.search", CHAT, index=index, **kwargs)
        assert type(caught.value).__name__ == "InvalidQuery"
        assert len(str(caught.value)) < 400
        assert SECRET not in str(caught.value)
    with pytest.raises(Exception, match="a number of 4,201 digits"):
        system.call("tasks.status", CHAT, ids=[LONG], index=index)
