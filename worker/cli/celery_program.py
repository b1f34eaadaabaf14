"""Run a command of Celery (worker, beat, flower) on our app in this process."""

import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from worker.configuration import load
from worker.errors import SettingsError


def run_celery(command: str, *arguments: str) -> int:
    """Run a command of Celery until it ends; return its exit code. Raises SettingsError."""
    load()  # reports wrong settings before Celery is imported
    _import_tasks()
    # Celery warns of pickle when it runs as root; our workers refuse pickle
    warnings.filterwarnings("ignore", message="You're running the worker with superuser")
    app = import_module("worker.celery.application").app
    # --app: without it, Celery would use the variable APP, which an image may set for its application
    ours = ["--app", "worker.celery.application:app", "--quiet"]
    return int(app.start([*ours, command, *arguments]) or 0)


def _import_tasks() -> None:
    """Import our `tasks` package first, since Celery would look in the working folder. Raises SettingsError."""
    spec = find_spec("tasks")
    ours = Path(__file__).parents[2] / "tasks" / "__init__.py"
    if spec is None or spec.origin != str(ours):
        raise SettingsError(
            f"the module `tasks` is {spec.origin if spec else 'missing'}, not {ours}: remove the folder of the "
            "former from PYTHONPATH, or install vector-index-worker into an environment of its own"
        )
    import_module("tasks")
