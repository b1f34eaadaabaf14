"""The Python of the docs, run against real workers; the output has to be the one that the page shows."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import PATIENCE_SECONDS, VECTOR_INDEX, System, user_environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def worker(start_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One worker process for all queues, under the shipped settings."""
    with start_system(tmp_path_factory.mktemp("docs"), {"all": ["worker"]}) as system:
        yield system


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/application.md", "docs/how-to/chat.md"])
def test_the_python_of_a_page_prints_the_output_of_the_page(page: str, worker: System) -> None:
    """Given an empty index, all Python blocks of the page, one after the other, print all its text blocks."""
    blocks = BLOCK.findall((ROOT / page).read_text())
    code = "\n".join(code for language, code in blocks if language == "python")
    expected = "".join(output for language, output in blocks if language == "text")
    assert expected
    worker.call("tasks.drop")
    assert rounded(run(worker, in_place(code, worker))) == rounded(expected)


def test_the_program_of_get_started_prints_what_the_page_shows(worker: System) -> None:
    text = (ROOT / "docs/get-started.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (shown,) = re.findall(r"^\$ BROKER_URL=.* python library.py\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    worker.call("tasks.drop")
    assert run(worker, program) == shown


def test_the_project_of_the_testing_guide_passes_its_tests(tmp_path: Path) -> None:
    """Its unit tests with a stub, and its tests with a system that its own fixture starts."""
    tmp_path.chmod(0o755)  # Postgres may run as another user
    text = (ROOT / "docs/how-to/testing.md").read_text()
    files = re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert {"library/search.py", "tests/conftest.py", "tests/test_search.py"} <= {name for name, _ in files}
    for name, code in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    environment = {
        **user_environment(tmp_path),
        "VECTOR_INDEX_PROGRAM": VECTOR_INDEX,
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def rounded(output: str) -> str:
    """The output with three digits of each fraction: processors differ in the last ones."""
    return re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3f}", output)


def in_place(code: str, worker: System) -> str:
    """The code with the real address in place of the one that README shows."""
    return re.sub(r'(?m)^BROKER_URL = "[^"]*".*$', f'BROKER_URL = "{worker.environment["BROKER_URL"]}"', code)


def run(worker: System, code: str) -> str:
    """The output of a script in a folder of its own, where it can import nothing of the checkout by accident.

    The folder has the copy of worker/errors.py that the pages ask for.
    """
    shutil.copy(ROOT / "worker/errors.py", worker.folder / "vector_index_errors.py")
    environment = {**os.environ, "BROKER_URL": worker.environment["BROKER_URL"]}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=worker.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
