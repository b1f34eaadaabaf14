"""The file of a worker that lives."""

import json
import os
from pathlib import Path

import pytest

from worker.celery import liveness
from worker.cli import run


def test_who_ends_is_missed_by_nobody(tmp_path: Path) -> None:
    liveness.beat(tmp_path, "embed@host")
    assert [(found.worker, found.pid) for found in liveness.read(tmp_path)] == [("embed@host", os.getpid())]
    liveness.end(tmp_path, "embed@host")
    assert list(liveness.read(tmp_path)) == []
    liveness.end(tmp_path, "embed@host")  # also where there is none


def test_who_ends_takes_no_file_of_the_one_that_took_its_name(tmp_path: Path) -> None:
    """As where a new worker is ready before the old one has ended: it would count as dead until it writes again."""
    liveness.beat(tmp_path, "embed@host")
    [kept] = (tmp_path / "alive").iterdir()
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"pid": os.getppid()}))
    liveness.end(tmp_path, "embed@host")
    assert [found.pid for found in liveness.read(tmp_path)] == [os.getppid()]


@pytest.mark.parametrize("worker", [[], ["--worker", "embed"]])
def test_without_a_file_nobody_claims_to_know_why(
    tmp_path: Path, worker: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker writes its first one when it has reached its broker."""
    monkeypatch.setenv("VECTOR_INDEX_HOME", str(tmp_path))
    assert run(["live", *worker]) == 1
    said = capsys.readouterr().err
    assert f"no worker{' embed' if worker else ''} of the home {tmp_path} is running: start it with" in said
    assert "or not have reached its broker yet" in said
