"""The examples of applications run or use existing tasks and queues."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.system import PATIENCE_SECONDS, System

EXAMPLES = Path(__file__).parents[2] / "examples"
QUEUE_OF = {
    "search": "vector_index.chat",
    "find_similar": "vector_index.chat",
    "chat": "vector_index.chat",
    "index_documents": "vector_index",
    "delete_documents": "vector_index",
}


def test_plain_application_indexes_and_searches(system: System) -> None:
    """In a folder of its own, with only the installed packages to import."""
    run = subprocess.run(
        [sys.executable, EXAMPLES / "application.py"],
        cwd=system.folder,
        env=system.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert run.returncode == 0, run.stderr
    result, best, _ = run.stdout.splitlines()
    assert ast.literal_eval(result)["failed"] == []
    assert best.endswith("Lending: A book may be kept for four weeks, a film for one.")


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
