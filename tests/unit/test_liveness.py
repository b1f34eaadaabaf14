"""Heartbeat files, and the liveness check that reads them."""

import json
import os
from pathlib import Path

import pytest

from worker.celery import liveness
from worker.cli import run


def test_clean_shutdown_removes_the_heartbeat_file(tmp_path: Path) -> None:
    liveness.write(tmp_path, "embed@host")
    assert [(found.worker, found.pid) for found in liveness.read(tmp_path)] == [("embed@host", os.getpid())]
    liveness.remove(tmp_path, "embed@host")
    assert list(liveness.read(tmp_path)) == []
    liveness.remove(tmp_path, "embed@host")  # also if there is none


def test_clean_shutdown_keeps_the_file_of_a_successor_of_the_same_name(tmp_path: Path) -> None:
    """A new worker may be ready before the old one has ended; without its file it would count as dead."""
    liveness.write(tmp_path, "embed@host")
    [file] = (tmp_path / "alive").iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": os.getppid()}))
    liveness.remove(tmp_path, "embed@host")
    assert [found.pid for found in liveness.read(tmp_path)] == [os.getppid()]


def test_a_removed_heartbeat_file_is_not_written_again(tmp_path: Path) -> None:
    """The heartbeat thread runs to the last moment; a file that it left would count as a dead worker."""
    file = liveness.HeartbeatFile()
    file.write()
    file.start(tmp_path, "embed@host")
    assert [found.worker for found in liveness.read(tmp_path)] == ["embed@host"]
    file.remove()
    file.write()
    assert list(liveness.read(tmp_path)) == []


@pytest.mark.parametrize("worker", [[], ["--worker", "embed"]])
def test_without_a_heartbeat_file_the_check_names_the_possible_reasons(
    tmp_path: Path, worker: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker writes its first heartbeat when it has reached its broker."""
    monkeypatch.setenv("VECTOR_INDEX_HOME", str(tmp_path))
    assert run(["live", *worker]) == 1
    said = capsys.readouterr().err
    assert f"no worker{' embed' if worker else ''} of the home {tmp_path} is running: start it with" in said
    assert "or not have reached its broker yet" in said
