"""Workers that start in a folder with the user's own `tasks`, `settings` and `worker` modules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import CELERY, CHAT, System, eventually

pytestmark = pytest.mark.slow

MODULES = {
    "tasks": "from celery import shared_task\n\n\n@shared_task\ndef add(a, b):\n    return a + b\n",
    "settings": "BROKER_URL = 'redis://127.0.0.1:1/0'\nEMBEDDING_MODEL = 'of somebody else'\n",
    "worker": "class Worker:\n    pass\n",
}


# A Django project with a Celery app of its own, as both projects document it.
DJANGO_PROJECT = {
    "manage.py": "",
    "tasks.py": MODULES["tasks"],
    "shop/__init__.py": "from .celery import app\n",
    "shop/celery.py": """
import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
""",
    "shop/settings.py": "SECRET_KEY = 'x'\nWAGTAIL_VECTOR_INDEX = {'INDEXES': {'default': {}}}\n",
}
DJANGO = {"django/__init__.py": "VERSION = (5, 2)\n", "django/conf.py": "settings = object()\n"}


def fill(folder: Path, *modules: str) -> None:
    for module in modules:
        (folder / f"{module}.py").write_text(MODULES[module])


def registered(system: System) -> set[str]:
    nodes = system.inspect("registered", nodes=1)
    assert len(nodes) == 1
    return {name for names in nodes.values() for name in names if name.startswith("tasks.")}


def serves(system: System) -> bool:
    return {"tasks.index_documents", "tasks.search"} <= registered(system) and (
        system.call("tasks.search", CHAT, query="x") == []
    )


def test_vector_index_worker_runs_its_tasks_in_a_folder_with_modules_of_the_same_names(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    fill(tmp_path, *MODULES)
    with start_system(tmp_path, {"worker": ["worker", "--queues", "all"]}) as system:
        assert serves(system)


@pytest.mark.parametrize("modules", [["tasks", "settings"], ["worker"]], ids="+".join)
def test_celery_worker_runs_its_tasks_or_exits_with_a_message(
    modules: list[str], start_system: Callable[..., Any], tmp_path: Path
) -> None:
    fill(tmp_path, *modules)
    with start_system(tmp_path, {}) as system:
        system.start("worker", ["-A", "worker", "worker", "--loglevel=INFO"], program=CELERY)
        process = system.processes["worker"]
        eventually(lambda: process.poll() is not None or "ready." in system.log("worker"))
        if process.returncode is None:
            assert serves(system)
        else:
            del system.processes["worker"]
            assert process.returncode != 0
            assert "Traceback" not in system.log("worker")
            assert "Module 'worker' has no attribute 'celery'" in system.log("worker")


@pytest.mark.parametrize("files", [DJANGO_PROJECT, DJANGO_PROJECT | DJANGO], ids=["alone", "with Django"])
def test_workers_read_the_settings_module_of_a_django_project(
    files: dict[str, str], start_system: Callable[..., Any], tmp_path: Path
) -> None:
    """Importing it creates the project's Celery app, whose Django fixup puts the project's folder first.

    The environment is shared with the project: its broker is a RabbitMQ, its `celery` command takes its app from APP.
    """
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    theirs = {"CELERY_BROKER_URL": "amqp://127.0.0.1:1//", "CELERY_RESULT_BACKEND": "rpc://", "APP": "shop"}
    settings = {"VECTOR_INDEX_SETTINGS": "shop.settings", **theirs}
    with start_system(tmp_path, {"worker": ["worker"], "beat": ["beat"]}, **settings) as system:
        assert serves(system)
        assert "Django" not in system.logs()
        done = system.command("search", "x")
        assert (done.returncode, done.stderr) == (0, "")
