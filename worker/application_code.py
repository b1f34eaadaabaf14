"""Import code of the application, such as its settings and its backends, without a change to this process."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

# Celery's, if importing the application creates its Celery app: our workers need no Django.
NO_DJANGO = "Environment variable DJANGO_SETTINGS_MODULE is defined"
TASKS = Path(__file__).parents[1] / "tasks"


@contextmanager
def isolated() -> Iterator[None]:
    """Undo what an import in the block does to the import path and to the module `tasks`.

    Django settings modules and Celery's Django fixup put folders first on the path, and a `tasks.py` in them would
    replace our tasks. The folders stay on the path, after ours.
    """
    before = list(sys.path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=NO_DJANGO)
            yield
    finally:
        sys.path[:] = [*before, *(folder for folder in sys.path if folder not in before)]
        if "tasks" in sys.modules and str(TASKS) not in getattr(sys.modules["tasks"], "__path__", ()):
            for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
                del sys.modules[name]


def advice(missing: str) -> str:
    """Say what to do about a module that the application's code imports and that is missing."""
    package = missing.partition(".")[0]
    if package in sys.modules or find_spec(package):
        return "fix that import"
    return f"install {package!r} into the environment of the workers ({sys.prefix})"
