"""Flower in a browser: tasks with states, times and summaries, and without document text."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import pytest
from celery.result import AsyncResult

from tests.fixtures.system import (
    CHAT,
    EMBED,
    PATIENCE_SECONDS,
    PROCESSES,
    STAGING,
    System,
    eventually,
    read_json,
)
from tests.provider import Provider
from worker.services.home import is_free

pytestmark = pytest.mark.slow

KEY = "sk-planted4key0of1the2settings"
WORDS = ("Marrakesh", "Quetzaltenango", "heron", "lanterns", "ada@example.org", "lemures")
TEXT, TITLE, QUESTION, ID, METADATA, MALFORMED = (f"{word} and more of it" for word in WORDS)
DOCUMENT = {"id": ID, "text": TEXT, "title": TITLE, "metadata": {"author": METADATA}}

SETTINGS = f"""
CLASS = "worker.backends.llm.LLMEmbeddingBackend"
CONFIG = {{"MODEL_ID": "3-small", "INIT_KWARGS": {{"key": "{KEY}"}}, "EMBEDDING_OUTPUT_DIMENSIONS": 64}}
VECTOR_INDEX = {{
    "EMBEDDING_BACKENDS": {{
        "default": {{"CLASS": CLASS, "CONFIG": {{"MODEL_ID": "wordllama"}}}},
        "remote": {{"CLASS": CLASS, "CONFIG": CONFIG}},
    }},
    "INDEXES": {{"default": {{}}, "articles": {{"EMBEDDING_BACKEND": "remote"}}}},
}}
"""


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(dimensions=64) as provider:
        yield provider


@pytest.fixture
def watched(
    start_system: Callable[..., Any], provider: Provider, tmp_path: Path, unused_port: int
) -> Iterator[System]:
    """A system with Flower and its generated password. The application sends task events too."""
    (tmp_path / "ours.py").write_text(SETTINGS)
    variables = {"VECTOR_INDEX_SETTINGS": str(tmp_path / "ours.py"), "OPENAI_BASE_URL": provider.url}
    processes = {**PROCESSES, "flower": ["flower", "--port", str(unused_port)]}
    with start_system(tmp_path, processes, **variables) as system:
        system.app.conf.task_send_sent_event = True
        yield system


@dataclass(frozen=True, kw_only=True)
class Flower:
    """Flower's URL and password, and its responses."""

    url: str
    user: str
    password: str
    kept: Path

    @classmethod
    def of(cls, system: System) -> "Flower":
        """Read both from its output at start."""
        said = re.compile(r"(http://127\.0\.0\.1:\d+)  user (\w+), password (\S+) \(stored in (.+)\)\n")
        printed = eventually(lambda: said.match(system.log("flower")))
        url, user, password, kept = printed.groups()
        eventually(lambda: not is_free(int(url.rpartition(":")[2])))
        return cls(url=url, user=user, password=password, kept=Path(kept))

    def page(self, path: str) -> str:
        """The URL of a page with the credentials."""
        return self.url.replace("//", f"//{self.user}:{self.password}@") + path

    def read(self, path: str) -> Any:
        return read_json(self.url + path, self.user, self.password)

    def text(self, path: str) -> str:
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = Request(self.url + path, headers={"Authorization": f"Basic {credentials}"})
        with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return str(answer.read().decode())

    def state(self, id: str) -> Any:
        return self.read("/api/tasks").get(id, {}).get("state")


def status(url: str, password: str | None = None) -> int:
    """The HTTP status of a response, with or without a password."""
    credentials = base64.b64encode(f"vector_index:{password}".encode()).decode()
    headers = {} if password is None else {"Authorization": f"Basic {credentials}"}
    try:
        with urlopen(Request(url, headers=headers), timeout=PATIENCE_SECONDS) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def planted_tasks(system: System) -> "dict[str, AsyncResult[Any]]":
    """Send each kind of task, with texts in every kind of argument."""
    send, document = system.app.send_task, DOCUMENT
    return {
        "3 documents, 144 B, index default": system.send(
            "tasks.index_documents",
            documents=[{**document, "id": f"{ID} {n}", "text": TEXT * 2} for n in "abc"],
        ),
        "1 document, 24 B, index default": send(
            "tasks.index_documents", [[document], "default"], queue=STAGING
        ),
        "1 document, 24 B, 1 unknown argument, index default": system.send(
            "tasks.index_documents", documents=[document], text=MALFORMED
        ),
        "odd documents, an unknown index": system.send(
            "tasks.index_documents", documents=MALFORMED, index=MALFORMED
        ),
        "query of 20 B, limit 3, filter, vector, index default": system.send(
            "tasks.search", CHAT, query=QUESTION, limit=3, mode="vector", filter={"author": METADATA}
        ),
        "question of 20 B, 1 turn, index default": system.send(
            "tasks.chat", CHAT, question=QUESTION, history=[{"role": "user", "content": TEXT}]
        ),
        "limit 2, index default": system.send("tasks.find_similar", CHAT, document_id=ID, limit=2),
        "2 ids, index default": system.send("tasks.delete_documents", ids=[TITLE, METADATA]),
        "filter, index default": system.send("tasks.delete_documents", filter={"author": TITLE}),
        "full, index default": system.send("tasks.reindex", full=True),
    }


def test_flower_shows_states_times_and_summaries_but_no_text(
    watched: System, provider: Provider, browser: Any
) -> None:
    """No page and no API response has texts, titles, metadata, ids, questions or keys, even while tasks run."""
    flower = Flower.of(watched)
    eventually(lambda: len(flower.read("/workers?json=1")["data"]) == 3)
    first = watched.call("tasks.index_documents", documents=[DOCUMENT])
    assert first["indexed"] == 1
    provider.latency_seconds = 50.0  # below the timeout; 0 after the page was seen
    running = watched.send(
        "tasks.index_documents", documents=[DOCUMENT, {"id": 2, "text": TITLE}], index="articles"
    )
    waiting = watched.app.send_task(
        "tasks.index_documents", queue=STAGING, kwargs={"documents": [DOCUMENT]}, countdown=600
    )
    # an unknown task has only the event of the application
    unserved = watched.app.send_task("tasks.index_documents", [[DOCUMENT]], {"index": TEXT}, queue="unserved")
    sent = planted_tasks(watched)
    ended = {task.id: task.get(timeout=PATIENCE_SECONDS, propagate=False) for task in sent.values()}
    assert TEXT in str(ended)  # the callers of search and chat get the text
    eventually(lambda: flower.state(running.id) == "PROGRESS")

    # progress and worker of a running task
    shown = {"running": opened(browser, flower, f"/task/{running.id}")}
    assert fields(browser)["Arguments"] == "2 documents, 53 B, index articles"
    assert fields(browser)["Status"] == "PROGRESS"
    assert fields(browser)["Result"] == "2 documents, 0 done, 2 chunks, 0 embedded"
    for worker in watched.inspect("ping", nodes=3):
        shown[worker] = opened(browser, flower, f"/worker/{worker}")
    assert "1 document, 24 B, index default" in next(
        page for name, page in shown.items() if "staging" in name
    )
    provider.latency_seconds = 0.0
    assert running.get(timeout=PATIENCE_SECONDS)["indexed"] == 2

    eventually(lambda: flower.state(running.id) == "SUCCESS")
    eventually(lambda: {flower.state(id) for id in ended} <= {"SUCCESS", "FAILURE"})
    opened(browser, flower, "/tasks")
    browser.execute_script("jQuery('#tasks-table').DataTable().page.len(100).draw()")
    rows = eventually(lambda: (found := table(browser)).keys() >= {running.id, *ended} and found)
    for summary, result in sent.items():
        row = rows[result.id]
        assert row["args"] == summary
        assert row["state"] == ("FAILURE" if isinstance(ended[result.id], Exception) else "SUCCESS")
        assert row["routing_key"] in (STAGING, EMBED, CHAT)
        assert row["state"] == "FAILURE" or re.fullmatch(r"[\d.]+ m?s", row["runtime"]), row
    # the time sent is kept, though tasks on other workers waited for it since
    assert rows[running.id]["name"] == "tasks.index_documents"
    runtime = rows[running.id]["runtime"]
    assert re.fullmatch(r"\d+m \d+s", runtime) or float(runtime.removesuffix(" s")) > 4
    assert rows[running.id]["routing_key"] == STAGING
    assert rows[waiting.id]["state"] == "RECEIVED"
    shown["tasks"] = browser.page_source
    browser.find_element("css selector", "input[type=search]").send_keys(WORDS[0])
    eventually(lambda: not table(browser))  # a search for hidden text finds no task

    assert flower.state(unserved.id) == "PENDING"
    for path in [f"/task/{id}" for id in (unserved.id, waiting.id, running.id, *ended)] + [
        "/",
        "/workers",
        "/broker",
    ]:
        shown[path] = opened(browser, flower, path)
    paths = ["/api/tasks", "/api/workers?refresh=1", "/api/queues/length", "/api/task/types", "/metrics"]
    shown |= {path: flower.text(path) for path in [*paths, *(f"/api/task/info/{id}" for id in ended)]}
    assert "3 documents, 144 B, index default" in shown["/api/tasks"]
    assert "vector_index.embed" in shown["/api/queues/length"]
    broker = urlsplit(watched.environment["BROKER_URL"]).password
    assert broker
    planted = [*WORDS, *(quote(word) for word in WORDS), KEY, broker, flower.password]
    leaks = [(place, word) for place, text in shown.items() for word in planted if word in text]
    assert not leaks
    for id in ended:
        with pytest.raises(HTTPError, match="404"):
            flower.text(f"/api/task/result/{id}")


def opened(browser: Any, flower: Flower, path: str) -> str:
    """Open a page and wait until its scripts have filled it; all its resources must come from Flower."""
    browser.get(flower.page(path))
    eventually(lambda: browser.execute_script("return document.readyState === 'complete' && !jQuery.active"))
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert {urlsplit(url).hostname or urlsplit(url).scheme for url in loaded} <= {"127.0.0.1", "data"}, loaded
    return str(browser.page_source)


def fields(browser: Any) -> dict[str, str]:
    """The fields of a task's page by name."""
    script = """
    return Object.fromEntries([...document.querySelectorAll('.detail-row')].map(
        row => [row.querySelector('dt').innerText.trim(), row.querySelector('dd').innerText.trim()]))
    """
    return dict(browser.execute_script(script))


def table(browser: Any) -> dict[str, dict[str, str]]:
    """The list of tasks by id, each with its columns by name."""
    script = """
    const names = [...document.querySelectorAll('#tasks-table thead th')].map(cell => cell.dataset.column)
    const rows = [...document.querySelectorAll('#tasks-table tbody tr[id]')]
    return rows.map(row => [
        row.id, Object.fromEntries([...row.cells].map((cell, at) => [names[at], cell.textContent.trim()]))])
    """
    return dict(browser.execute_script(script))


def test_flower_requires_the_password_that_it_printed_once(watched: System) -> None:
    """Only Flower's own metrics (names and counts of tasks) are public on the loopback interface."""
    flower = Flower.of(watched)
    closed = ["/", "/tasks", "/workers", "/broker", "/tasks/datatable", "/api/tasks", "/api/workers"]
    assert {path: status(flower.url + path) for path in closed} == dict.fromkeys(closed, 401)
    assert [status(flower.url + "/tasks", guess) for guess in ("", "another")] == [401, 401]
    assert status(flower.url + "/metrics") == 200
    assert flower.kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(flower.kept.read_text())["password"] == flower.password
    before = watched.processes.pop("flower")
    before.terminate()
    assert before.wait(PATIENCE_SECONDS) == 0
    port = flower.url.rpartition(":")[2]
    watched.start("again", ["flower", "--port", port])
    said = eventually(lambda: watched.log("again"))
    assert said == f"{flower.url}  user {flower.user}, password in {flower.kept}\n"
    eventually(lambda: not is_free(int(port)))
    assert flower.read("/api/tasks") == {}
