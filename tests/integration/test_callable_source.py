"""A callable of the application's own as a source: a process of its own, in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fixtures.system import eventually, is_alive
from worker.errors import SettingsError, SourceFailed
from worker.protocols import Skipped
from worker.sources import calling
from worker.sources.callable import CallableSource

ME = psutil.Process()

WAITING = """
import time
def documents():
    yield from ({"id": n} for n in range(1000))
    time.sleep(600)
"""

READER = """
import sys, time
from worker.sources.callable import CallableSource
documents = CallableSource(callable="search:documents", folder=sys.argv[1]).documents()
next(documents)
print("reading", flush=True)
time.sleep(600)
"""


def source(folder: Path, code: str, name: str = "documents") -> CallableSource:
    """The callable of that name in the module `search` of the folder."""
    (folder / "search.py").write_text(code)
    return CallableSource(callable=f"search:{name}", folder=str(folder))


def sentence(source: CallableSource) -> str:
    with pytest.raises(SourceFailed) as caught:
        list(source.documents())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_the_callable_returns_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Texts of any kind, large ones too; what it prints disturbs nothing, and stands where the worker's log does."""
    code = """
def documents():
    print("a line of its own", flush=True)
    yield {"id": 1, "text": "one \\u2028 \\U0001f600 \\ud800 \\x00\\n{}", "metadata": {"n": None}}
    yield {"id": "2", "text": "x" * 3_000_000}
    yield ["no document"]
"""
    first, second, third = source(tmp_path, code).documents()
    assert first == {"id": 1, "text": "one \u2028 \U0001f600 \ud800 \x00\n{}", "metadata": {"n": None}}
    assert (len(second["text"]), third) == (3_000_000, ["no document"])  # type: ignore[call-overload,index]
    assert capfd.readouterr() == ("", "a line of its own\n")


def test_the_application_s_own_tasks_and_settings_are_found(tmp_path: Path) -> None:
    """Though ours are installed under the same names, and the folder is not where the worker was started."""
    for name in ("tasks", "settings", "worker"):
        (tmp_path / f"{name}.py").write_text(f"WHOSE = 'my {name}'")
    code = """
import os, tasks, settings, worker
documents = lambda: [{"id": os.getcwd(), "text": f"{tasks.WHOSE}, {settings.WHOSE}, {worker.WHOSE}"}]
"""
    assert list(source(tmp_path, code).documents()) == [
        {"id": str(tmp_path.resolve()), "text": "my tasks, my settings, my worker"}
    ]


def test_a_name_below_a_name_and_a_package_are_found(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    code = "class Pages:\n    @staticmethod\n    def documents():\n        return ({'id': n} for n in range(3))\n"
    (tmp_path / "shop" / "search.py").write_text(code)
    found = CallableSource(callable="shop.search:Pages.documents", folder=str(tmp_path))
    assert [document["id"] for document in found.documents()] == [0, 1, 2]  # type: ignore[index]


def test_another_interpreter_runs_it(tmp_path: Path) -> None:
    """That of an environment without our packages: nothing but the standard library is asked of it."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    (tmp_path / "search.py").write_text("import sys\ndef documents():\n    yield {'id': sys.flags.no_site}\n")
    found = CallableSource(callable="search:documents", folder=str(tmp_path), python=str(python))
    assert list(found.documents()) == [{"id": 1}]


def test_dates_and_uuids_are_written_as_django_does_and_another_value_costs_its_document(
    tmp_path: Path,
) -> None:
    code = """
import datetime, decimal, uuid
def documents():
    yield {"id": uuid.UUID(int=7), "metadata": {"on": datetime.date(2026, 11, 23), "price": decimal.Decimal("9.50")}}
    yield {"id": 8, "text": b"bytes"}
    yield {"id": object()}
    yield {"id": 9}
"""
    first, second, third, fourth = source(tmp_path, code).documents()
    assert first == {
        "id": "00000000-0000-0000-0000-000000000007",
        "metadata": {"on": "2026-11-23", "price": "9.50"},
    }
    assert isinstance(second, Skipped)
    assert (second.id, second.reason) == ("8", "it is not JSON: a value of type bytes")
    assert isinstance(third, Skipped)
    assert third.id is None
    assert fourth == {"id": 9}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "def documents():\n    yield {}\n    raise ConnectionError('the shop\\nis shut')",
            "ConnectionError: the shop",
        ),
        (
            "def documents():\n    yield {}\n    import os\n    os.kill(os.getpid(), 9)",
            "was killed by signal 9",
        ),
        ("def documents():\n    import os\n    os._exit(3)", "exited with code 3"),
        ("import os\ndef documents():\n    yield 'x' * 20_001\n    os._exit(3)", "exited with code 3"),
        ("def documents():\n    raise SystemExit(4)", "SystemExit: 4 (search.py, line 2)"),
        ("def documents():\n    return None", "'NoneType' object is not iterable"),
        ("documents = 5", "'int' object is not callable"),
        ("def other(): pass", "AttributeError: module 'search' has no attribute 'documents'"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def documents(:", "SyntaxError"),
    ],
)
def test_a_callable_that_fails_is_one_sentence_with_its_line(tmp_path: Path, code: str, said: str) -> None:
    whole = sentence(source(tmp_path, code))
    assert said in whole
    assert whole.startswith("search:documents: ")


def test_a_module_that_is_not_there_names_the_folder(tmp_path: Path) -> None:
    found = CallableSource(callable="shop.search:documents", folder=str(tmp_path))
    assert f"there is no module 'shop' in {tmp_path}; set FOLDER" in sentence(found)


def test_a_folder_or_interpreter_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    folder = CallableSource(callable="a:b", folder=str(tmp_path / "nowhere"))
    assert "nowhere cannot be used (No such file or directory); fix FOLDER or PYTHON" in sentence(folder)
    python = CallableSource(callable="a:b", folder=str(tmp_path), python=str(tmp_path / "python9"))
    assert "python9 cannot be used (No such file or directory)" in sentence(python)


def test_a_reading_that_is_left_ends_its_process(tmp_path: Path) -> None:
    """Even one that waits for something else, and does not notice that nobody reads."""
    before = set(ME.children())  # servers of the run, where this process started them
    documents = source(tmp_path, WAITING).documents()
    assert next(documents) == {"id": 0}
    [child] = set(ME.children()) - before
    documents.close()  # type: ignore[attr-defined]
    assert not child.is_running()


def test_a_process_ends_in_peace_though_its_worker_takes_its_time(tmp_path: Path) -> None:
    """Its end is neither a core dump nor lines of C in the worker's log."""
    (tmp_path / "search.py").write_text("def documents(): yield {'id': 1}")
    read, write = os.pipe()
    command = [sys.executable, calling.__file__, str(write), str(tmp_path), "search:documents", "call"]
    with (
        open(read, "rb") as lines,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(write,)
        ) as process,
    ):
        os.close(write)
        assert len(lines.readlines()) == 2
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_process_whose_worker_dies_ends(tmp_path: Path) -> None:
    (tmp_path / "search.py").write_text(WAITING)
    with subprocess.Popen([sys.executable, "-c", READER, str(tmp_path)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"reading\n"
        [child] = psutil.Process(worker.pid).children()
        worker.kill()
    eventually(lambda: not is_alive(child))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"callable": "search.documents"}, "set it to module:name, as in 'myapp.search:documents'"),
        ({"callable": ":documents"}, "set it to module:name"),
        ({"callable": "search:"}, "set it to module:name"),
        ({"callable": 5}, "CALLABLE of CallableSource is 5"),
        ({"folder": "shop"}, "FOLDER of CallableSource is 'shop'; set it to an absolute path"),
        ({"python": "python3"}, "PYTHON of CallableSource is 'python3'; set it to an absolute path"),
    ],
)
def test_settings_that_cannot_be_used_are_one_sentence(config: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        CallableSource(**{"callable": "search:documents", "folder": "/srv", **config})
    assert said in str(caught.value)
