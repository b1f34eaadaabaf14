"""Applications catch errors by class, with a copy of one file."""

import inspect
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery

from worker import errors

CLASSES = [found for _, found in inspect.getmembers(errors, inspect.isclass)]

# an application: it has Celery and the copy, and must not find our package
READ = """
import json, sys
sys.path.insert(0, sys.argv[1])
import vector_index_errors
from celery import Celery

backend = Celery(broker="memory://", backend="cache+memory://").backend
stored = json.loads(sys.argv[2])
error = backend.exception_to_python(stored)
assert type(error) is getattr(vector_index_errors, stored["exc_type"]), type(error)
assert vector_index_errors.__file__.startswith(sys.argv[1])
assert "worker" not in sys.modules
try:
    raise error
except vector_index_errors.InputError as caught:
    print(caught)
"""


def stored(error: Exception) -> dict[str, object]:
    """An error as Celery stores it in the result of a task."""
    backend = Celery(broker="memory://", backend="cache+memory://", set_as_current=False).backend
    prepared: dict[str, object] = json.loads(json.dumps(backend.prepare_exception(error, "json")))
    return prepared


def test_an_application_with_a_copy_of_the_file_catches_errors_by_class(tmp_path: Path) -> None:
    shutil.copy(str(errors.__file__), tmp_path / "vector_index_errors.py")
    arguments = [str(tmp_path), json.dumps(stored(errors.UnknownIndex("there is no index 'x'")))]
    done = subprocess.run([sys.executable, "-c", READ, *arguments], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("there is no index 'x'\n", "")


def test_the_file_needs_the_standard_library_only(tmp_path: Path) -> None:
    shutil.copy(str(errors.__file__), tmp_path / "vector_index_errors.py")
    code = "import sys; sys.path.append(sys.argv[1]); import vector_index_errors"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(tmp_path)], check=True)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_is_found_again_by_its_stable_module(kind: type[Exception]) -> None:
    """Celery's JSON, and the pickles between the processes of a pool."""
    backend = Celery(broker="memory://", backend="cache+memory://", set_as_current=False).backend
    arrived = backend.exception_to_python(stored(kind("a sentence")))
    assert stored(kind("a sentence"))["exc_module"] == "vector_index_errors"
    assert (type(arrived), str(arrived)) == (kind, "a sentence")
    assert type(pickle.loads(pickle.dumps(arrived))) is kind
