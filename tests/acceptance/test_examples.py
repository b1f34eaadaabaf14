"""The examples of applications run, use existing tasks and queues, and behave when there is no broker."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from tests.fixtures.system import PATIENCE_SECONDS, System, user_environment

EXAMPLES = Path(__file__).parents[2] / "examples"
QUEUE_OF = {
    "search": "vector_index.chat",
    "find_similar": "vector_index.chat",
    "embed_texts": "vector_index.chat",
    "chat": "vector_index.chat",
    "index_documents": "vector_index",
    "delete_documents": "vector_index",
}
NO_BROKER = "redis://:geheim@127.0.0.1:1/0"
BEFORE_RETRIES_SECONDS = 15  # by default, Celery tries for 19 s

# What django_pages.py imports: its own behaviour is the subject, not that of Django.
DJANGO_PAGES = {
    "django/__init__.py": "",
    "django/db/__init__.py": "class transaction:\n    on_commit = staticmethod(lambda function: function())\n",
    "django/db/models/__init__.py": "",
    "django/db/models/signals.py": "post_save = post_delete = None\n",
    "django/dispatch.py": "receiver = lambda *_, **__: lambda function: function\n",
    "pages/__init__.py": "",
    "pages/models.py": "class Page: pass\n",
    "site_of_pages.py": """
import datetime
import os

from celery import Celery

app = Celery("site", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])
app.conf.task_always_eager = "EAGER" in os.environ

import django_pages
from pages.models import Page

page = Page()
page.pk, page.title, page.body, page.updated_at = 1, "Lending", "Four weeks.", datetime.datetime.now()
django_pages.index(page)
django_pages.delete(page)
print("saved")
""",
}


def example(
    name: str | Path, folder: Path, environment: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run an example in a folder of its own, with only the installed packages to import."""
    return subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def site(folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Save and delete a page of a Django site that has django_pages.py."""
    files = DJANGO_PAGES | {"django_pages.py": (EXAMPLES / "django_pages.py").read_text()}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return example(folder / "site_of_pages.py", folder, user_environment(folder, **variables))


def test_plain_application_indexes_and_searches(system: System) -> None:
    """It leaves the reader's own documents alone, and none of its own behind."""
    system.call("tasks.index_documents", documents=[{"id": 1, "text": "The reader's own text of books."}])
    run = example("application.py", system.folder, dict(system.environment))
    assert run.returncode == 0, run.stderr
    state = system.call("tasks.status", ids=[1, "example-1"])["documents"]
    assert {id: document["state"] for id, document in state.items()} == {"1": "live", "example-1": "absent"}
    result, best, _ = run.stdout.splitlines()
    assert ast.literal_eval(result)["failed"] == []
    assert best.endswith("Lending: A book may be kept for four weeks, a film for one.")


def test_reader_of_a_streamed_answer_prints_the_tokens_and_the_end(system: System) -> None:
    document = {"id": "lending", "text": "A zeppelin may be kept for four weeks."}
    system.call("tasks.index_documents", documents=[document])
    run = subprocess.run(
        [sys.executable, EXAMPLES / "streamed_answer.py", "How long may I keep a zeppelin?"],
        cwd=system.folder,
        env=system.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert run.returncode == 0, run.stderr
    answer, end = run.stdout.splitlines()
    assert answer.partition(" sources: ")[2].startswith("Quoted from the documents:")
    assert "A zeppelin may be kept for four weeks." in answer
    assert end.endswith(" tokens by extractive")


@pytest.mark.parametrize("name", ["django_pages", "fastapi_pages", "wagtail_pages"])
def test_web_examples_send_existing_tasks_to_existing_queues(name: str, system: System) -> None:
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    said = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    tasks = {text for text in said if text.startswith("tasks.")}
    queues = {text for text in said if text.startswith("vector_index")}
    assert tasks
    assert all(tasks <= set(names) for names in system.inspect("registered", nodes=3).values())
    assert queues == {QUEUE_OF[task.removeprefix("tasks.")] for task in tasks}


def test_plain_application_says_at_once_that_there_is_no_broker(tmp_path: Path) -> None:
    began = time.monotonic()
    run = example("application.py", tmp_path, user_environment(tmp_path, BROKER_URL=NO_BROKER))
    assert time.monotonic() - began < BEFORE_RETRIES_SECONDS
    assert run.returncode == 1
    assert "nothing was sent, because Redis cannot be reached" in run.stderr
    assert "Traceback" not in run.stderr


def test_django_site_saves_a_page_without_a_broker_and_logs_the_missed_change(tmp_path: Path) -> None:
    began = time.monotonic()
    run = site(tmp_path, BROKER_URL=NO_BROKER)
    assert time.monotonic() - began < BEFORE_RETRIES_SECONDS
    assert run.stdout == "saved\n"
    assert (
        run.stderr.count("the index misses a change until you run index_pages or `vector-index reindex`") == 2
    )


def test_eager_tests_of_a_django_site_send_nothing_to_the_real_index(system: System, tmp_path: Path) -> None:
    broker = f"{system.environment['BROKER_URL'].rpartition('/')[0]}/511"  # no worker takes messages there
    with redis.Redis.from_url(broker) as real:
        real.flushdb()
        assert site(tmp_path, BROKER_URL=broker).stdout == "saved\n"
        assert real.llen("vector_index") == 2
        real.flushdb()
        assert site(tmp_path, BROKER_URL=broker, EAGER="1").stdout == "saved\n"
        assert real.llen("vector_index") == 0


def test_every_application_of_the_docs_fails_fast_without_a_broker() -> None:
    """A Celery app with a result backend shortens the retries, unless a page refers to the setting."""
    root = EXAMPLES.parent
    for page in [*root.glob("*.md"), *root.glob("docs/**/*.md"), *EXAMPLES.glob("*.py")]:
        text = page.read_text()
        for app in re.finditer(r"^app = Celery\(.*backend=.*\n(.*\n){0,10}", text, re.MULTILINE):
            assert "result_backend_transport_options" in app[0], page
