"""Search every output for API keys and texts that a provider quoted in its errors."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psycopg
import pytest
import redis
from psycopg import sql

from tests.fixtures.system import CHAT, PATIENCE_SECONDS, PROCESSES, System, eventually
from tests.provider import FAULTS, Provider
from tests.provider.faults import Fault
from worker.recipes import PROBE
from worker.services.home import is_free

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

KEY = "sk-planted4key0of1the2settings"
ENVIRONMENT_KEY = "sk-planted4key0of1the2environment"
HEADER = "planted-value-of-a-header"
TEXT = (
    'The heron of Marrakesh "counts" seventeen\nlanterns, café by café, and then\tsleeps until the evening.'
)
QUESTION = 'Who counts the "lanterns" of Quetzaltenango, café by café, until the evening?'
SECRETS = {KEY, ENVIRONMENT_KEY, HEADER}
PLANTED = {*SECRETS, "Marrakesh", "Quetzaltenango", "seventeen", "sleeps until"}

SETTINGS = f"""
CLASS = "worker.backends.llm.LLMEmbeddingBackend"
SIZE = {{"EMBEDDING_OUTPUT_DIMENSIONS": 64}}
CHAT = "worker.backends.llm.LLMChatBackend"
VECTOR_INDEX = {{
    "EMBEDDING_BACKENDS": {{
        "default": {{"CLASS": CLASS, "CONFIG": {{"MODEL_ID": "3-small", "INIT_KWARGS": {{"key": "{KEY}"}}, **SIZE}}}},
        "environment": {{"CLASS": CLASS, "CONFIG": {{"MODEL_ID": "3-small", **SIZE}}}},
        "quiet": {{"CLASS": CLASS, "CONFIG": {{"MODEL_ID": "wordllama"}}}},
        "headers": {{"CLASS": CLASS, "CONFIG": {{"MODEL_ID": "guarded", "TOKEN_LIMIT": 500}}}},
    }},
    "CHAT_BACKENDS": {{
        "default": {{"CLASS": CHAT, "CONFIG": {{"MODEL_ID": "gpt-4o-mini", "INIT_KWARGS": {{"key": "{KEY}"}}}}}},
        "environment": {{"CLASS": CHAT, "CONFIG": {{"MODEL_ID": "o3-mini"}}}},
        "headers": {{"CLASS": CHAT, "CONFIG": {{"MODEL_ID": "guarded-chat", "TOKEN_LIMIT": 4000}}}},
    }},
    "INDEXES": {{name: {{"EMBEDDING_BACKEND": name}} for name in ("default", "environment", "headers", "quiet")}},
}}
"""
MODELS = """
- model_id: {name}
  model_name: guarded
  api_base: {url}
  headers: {{X-Guard: {header}}}
"""
SAID = "You sent {text} and {json} with {key} and X-Guard: {header}, that is refused."
# planned errors by the words that must reach the operator
ERRORS: dict[str, dict[str, Any]] = {
    "HTTP 400": {"status": 400, "code": "content_policy_violation"},
    "context_length_exceeded": {"status": 400, "code": "context_length_exceeded"},
    "HTTP 500": {"status": 500},
    "HTTP 429": {"status": 429, "headers": {"retry-after": "1"}},
    "HTTP 401": {"status": 401, "code": "invalid_api_key"},
}
TABLES = """
SELECT table_name FROM information_schema.tables WHERE table_schema = 'vector_index' AND table_type = 'BASE TABLE'
"""


def quoting(**arguments: Any) -> Fault:
    """Return an error whose message quotes the text, the key and the header of the request.

    The worker's probe succeeds. Otherwise the worker would send no text at all.
    """

    def fault(request: Any, normal: Callable[[], Any]) -> Any:
        if request.body.get("input") == [PROBE]:
            return normal()
        said = SAID.replace("{header}", request.headers.get("x-guard", "nothing"))
        return FAULTS["error"](message=said, **arguments)(request, normal)

    return fault


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(dimensions=64) as provider:
        yield provider


@pytest.fixture
def guarded(start_system: Callable[..., Any], provider: Provider, tmp_path: Path) -> Iterator[System]:
    (tmp_path / "ours.py").write_text(SETTINGS)
    (tmp_path / "llm").mkdir()
    for file, name in (("models", "guarded-chat"), ("embedding-models", "guarded")):
        entry = MODELS.format(name=name, url=provider.url, header=HEADER)
        (tmp_path / f"llm/extra-openai-{file}.yaml").write_text(entry)
    variables = {
        "VECTOR_INDEX_SETTINGS": str(tmp_path / "ours.py"),
        "LLM_USER_PATH": str(tmp_path / "llm"),
        "OPENAI_API_KEY": ENVIRONMENT_KEY,
        "OPENAI_BASE_URL": provider.url,
        "FLOWER_BASIC_AUTH": "operator:password",
    }
    with start_system(tmp_path, PROCESSES, **variables) as system:
        yield system


def test_keys_and_texts_quoted_by_provider_errors_do_not_leak(
    guarded: System,
    provider: Provider,
    unused_port: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither in logs, errors, stored results, Flower, command output, nor in tables without document text."""
    monkeypatch.setitem(FAULTS, "quoting", quoting)
    guarded.start("flower", ["flower", "--port", str(unused_port)])
    indexes = ("default", "environment", "headers")
    for index in indexes:
        calm = [{"id": "calm", "text": "Nothing of note happens here."}]
        assert guarded.call("tasks.index_documents", documents=calm, index=index)["indexed"] == 1
    assert guarded.call("tasks.index_documents", documents=[{"id": "heron", "text": TEXT}], index="quiet")[
        "indexed"
    ]
    eventually(lambda: not is_free(unused_port))
    told = ""
    for sign, arguments in ERRORS.items():
        provider.reset()
        provider.inject("quoting", times=None, **arguments)
        for index in indexes:
            document = {"id": sign, "text": f"{TEXT} {sign}", "title": TEXT, "metadata": {"note": TEXT}}
            guarded.send("tasks.index_documents", documents=[document], index=index)
        asked = [
            *(guarded.send("tasks.search", CHAT, query=QUESTION, index=index) for index in indexes),
            *(
                guarded.send(
                    "tasks.chat", CHAT, question=QUESTION, index="quiet", chat_backend=name, stream=True
                )
                for name in indexes
            ),
        ]
        for index in indexes:
            told += eventually(lambda i=index, s=sign: s in (shown := status(guarded, i)) and shown)
        ended = [task.get(timeout=PATIENCE_SECONDS, propagate=False) for task in asked]
        assert all(isinstance(error, Exception) for error in ended)
        told += repr(ended)
    received = str(list(provider.requests))
    assert all(secret in received for secret in SECRETS)
    for command in (
        ["failures"],
        ["failures", "--json"],
        ["status"],
        ["doctor"],
        ["search", QUESTION],
        ["ask", QUESTION],
    ):
        done = guarded.command(*command)
        told += done.stdout + done.stderr
    assert all(sign in told for sign in ERRORS)
    flower = pages(guarded, unused_port)
    assert "tasks.chat" in flower
    stored = everything_in(guarded.environment["BROKER_URL"])
    assert "HTTP 500" in stored
    assert "'event': b'error'" in stored
    tables = rows(guarded.environment["DATABASE_URL"])
    assert "HTTP 400" in tables["served_1"]
    log = next(path for path in postgres_logs(tmp_path_factory) if path.exists())
    places = {
        "told": told,
        "logs": guarded.logs(),
        "Flower": flower,
        "broker": stored,
        "Postgres' log": log.read_text(),
    }
    assert "HTTP 401" in places["logs"]
    found = [leak for place, text in places.items() for leak in leaks(place, text, PLANTED)]
    for table, text in tables.items():
        planted = SECRETS if table.startswith(("revisions", "chunks_")) else PLANTED
        found += leaks(table, text, planted)
    assert not found, "\n".join(found)


def leaks(place: str, text: str, planted: set[str]) -> Iterator[str]:
    """Yield each place of a marker in the text, plain or in hexadecimal."""
    for marker in planted:
        for form in (marker, marker.encode().hex()):
            if (at := text.find(form)) >= 0:
                yield f"{place} has {marker!r}: {text[max(0, at - 200) : at + 200]!r}"


def status(system: System, index: str) -> str:
    """The results of the tasks `status` and `failures` as JSON."""
    failures = system.call("tasks.failures", index=index)
    return json.dumps([system.call("tasks.status", index=index), failures])


def pages(system: System, port: int) -> str:
    """All pages and API responses of Flower."""
    paths = ["/api/tasks", "/api/workers?refresh=1", "/tasks", "/workers", "/broker", "/metrics"]
    tasks = json.loads(page(port, "/api/tasks"))
    paths += [f"/task/{id}" for id in tasks]
    return "".join(page(port, path) for path in paths)


def page(port: int, path: str) -> str:
    credentials = base64.b64encode(b"operator:password").decode()
    request = Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Basic {credentials}"})
    with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return str(answer.read().decode())


def everything_in(url: str) -> str:
    """All keys and values of a Valkey database, without the requested passages of streamed answers."""
    read: dict[str, Callable[[Any, Any], Any]] = {
        "string": lambda broker, key: broker.get(key),
        "list": lambda broker, key: broker.lrange(key, 0, -1),
        "hash": lambda broker, key: broker.hgetall(key),
        "set": lambda broker, key: broker.smembers(key),
        "zset": lambda broker, key: broker.zrange(key, 0, -1),
        "stream": lambda broker, key: [
            entry for _, entry in broker.xrange(key) if entry[b"event"] != b"sources"
        ],
    }
    with redis.Redis.from_url(url, protocol=2) as broker:
        keys = list(broker.scan_iter())
        found = "\n".join(f"{key}: {read[broker.type(key).decode()](broker, key)}" for key in keys)
    bodies = re.findall(r'"body": "([\w+/=]+)"', found)  # of queued and unacknowledged messages
    return "\n".join([found, *(base64.b64decode(body).decode(errors="replace") for body in bodies)])


def rows(url: str) -> dict[str, str]:
    """All rows of each table as text."""
    with psycopg.connect(url) as connection:
        return {
            name: "\n".join(
                row for (row,) in connection.execute(
                    sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier("vector_index", name))
                )
            )
            for (name,) in connection.execute(TABLES).fetchall()
        }  # fmt: skip


def postgres_logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Candidates for the server's log; under xdist, its folder is one level up."""
    folder = tmp_path_factory.getbasetemp()
    return [folder / "home/postgres.log", folder.parent / "home/postgres.log"]
