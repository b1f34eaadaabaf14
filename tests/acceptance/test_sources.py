"""Sources with real workers: modules and database of the application, and a worker killed during a run."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.system import CHAT, EMBED, PATIENCE_SECONDS, STAGING, System, eventually, process_tree

pytestmark = pytest.mark.slow

SETTINGS = """
VECTOR_INDEX = {
    "INDEXES": {
        "default": {"SOURCE": "shop.search:documents"},
        "table": {"SOURCE": "page"},
        "closed": {"SOURCE": "nowhere"},
    },
    "SOURCES": {
        "page": {
            "CLASS": "worker.sources.sql.SQLSource",
            "CONFIG": {"QUERY": "SELECT id, body AS text FROM page", "PAGE": 2},
        },
        "nowhere": {
            "CLASS": "worker.sources.sql.SQLSource",
            "CONFIG": {"DSN": "postgresql://me:s3cret@127.0.0.1:1/shop", "QUERY": "SELECT 1"},
        },
    },
}
"""

# A Django-like project with `settings` and `tasks` modules; the callable sets it up.
PROJECT = {
    "settings.py": "GREETING = 'settings of the shop'",
    "tasks.py": "GREETING = 'tasks of the shop'",
    "shop/__init__.py": "",
    "shop/search.py": """
import importlib, os

def documents():
    settings = importlib.import_module(os.environ["DJANGO_SETTINGS_MODULE"])
    import tasks
    print("read by the shop", flush=True)
    yield {"id": "settings", "text": settings.GREETING}
    yield {"id": "tasks", "text": tasks.GREETING}
""",
}

# It waits in the middle until a file exists.
WAITING = """
import os, time

def documents():
    for number in range(3000):
        while number == 2500 and not os.path.exists("go"):
            time.sleep(0.05)
        yield {"id": number, "text": f"Number {number}."}
"""

# `vector-index`, with a visibility timeout that a test can wait for
PROGRAM = """
import sys
from worker.celery import heartbeat
heartbeat.HEARTBEAT_SECONDS = 0.3
from worker.celery import application
application.STATIC["broker_transport_options"].update(visibility_timeout=3, unacked_restore_interval=1)
from worker.cli import main
sys.exit(main())
"""


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in {"ours.py": SETTINGS, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "ours.py"


def test_callable_and_query_in_a_django_project(start_system: Callable[..., Any], tmp_path: Path) -> None:
    """Each index reads its own documents; an unreachable source is one line on stderr."""
    variables = {"VECTOR_INDEX_SETTINGS": str(fill(tmp_path, PROJECT)), "DJANGO_SETTINGS_MODULE": "settings"}
    with start_system(tmp_path, {"all": ["worker"]}, **variables) as system:
        assert system.call("tasks.reindex")["indexed"] == 2
        assert "read by the shop\n" in system.log("all")
        for module in ("settings", "tasks"):
            [row] = system.call("tasks.search", CHAT, query=f"{module} of the shop", limit=1)
            assert (row["document_id"], row["text"]) == (module, f"{module} of the shop")
        with psycopg.connect(system.environment["DATABASE_URL"], autocommit=True) as shop:
            shop.execute(
                "CREATE TABLE page AS SELECT n AS id, 'Page ' || n AS body FROM generate_series(1, 5) AS n"
            )
        assert system.call("tasks.reindex", index="table")["indexed"] == 5
        done = system.command("reindex", "--index", "closed")
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        assert "source 'nowhere' failed after 0 documents (Postgres at 127.0.0.1:1/shop says: " in done.stderr
        assert "s3cret" not in done.stderr + system.logs()
        assert "reindexed index=default" in system.log("all")
        assert "reindex_failed index=closed" in system.log("all")
        # Celery would set up a Django of that name inside of the worker
        assert "DJANGO_SETTINGS_MODULE" not in system.log("all")


def test_invalid_source_config_ends_the_worker_at_start(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    ours = fill(tmp_path, {"ours.py": SETTINGS.replace('"PAGE": 2', '"PAGES": 2')})
    with start_system(tmp_path, {}, VECTOR_INDEX_SETTINGS=str(ours)) as system:
        done = system.command("worker")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "CONFIG of source 'page' does not fit" in done.stderr
    assert "'pages'); its keys are DSN, QUERY, KEY, " in done.stderr


def test_killed_run_is_redelivered_without_loss_or_second_row(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    ours = fill(tmp_path, {"shop/__init__.py": "", "shop/search.py": WAITING})
    with start_system(tmp_path, {}, VECTOR_INDEX_SETTINGS=str(ours)) as system:
        start(system)
        with psycopg.connect(system.environment["DATABASE_URL"], autocommit=True) as conn:
            result = system.send("tasks.reindex")
            staged = "SELECT count(*) FROM vector_index.documents"
            eventually(lambda: (conn.execute(staged).fetchone() or (0,))[0] >= 2000)
            for process in reversed(process_tree(system.processes["staging"].pid)):
                process.kill()
            system.processes.pop("staging").wait()
            (tmp_path / "go").touch()
            # instead of waiting for two minutes
            conn.execute("UPDATE vector_index.reindexing SET until = now()")
            start(system)
            counts = result.get(timeout=PATIENCE_SECONDS)
            assert (counts["indexed"], counts["unchanged"], counts["failed"]) == (3000, 0, [])
            runs = "SELECT outcome, read, staged, unchanged FROM vector_index.runs"
            assert conn.execute(runs).fetchall() == [("done", 3000, 3000, 0)]


def start(system: System) -> None:
    """Start the missing workers: one for staging, one for embedding."""
    for name in {"staging", "embed"} - system.processes.keys():
        arguments = ["-c", PROGRAM, "worker", "--queues", name, "--concurrency", "2"]
        system.start(name, arguments, sys.executable)
    system.await_queues(STAGING, EMBED)
