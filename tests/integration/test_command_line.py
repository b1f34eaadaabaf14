"""The command line: exit codes, one line per error, and `up`. The pipeline behind it is tested elsewhere."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis

from worker.cli import COMMANDS, client, run

UNREACHABLE = {"BROKER_URL": "redis://:geheim@127.0.0.1:1/0", "DATABASE_URL": "postgresql://127.0.0.1:1/x"}
PROGRAM = [sys.executable, "-P", "-m", "worker.cli"]


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code of a command and its only line of output."""
    code = run(list(arguments))
    output = capsys.readouterr()
    assert output.out == ""
    line = output.err.removesuffix("\n")
    assert "\n" not in line
    assert line.startswith("vector-index: ")
    return code, line


def test_the_help_lists_every_command_without_importing_one(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from worker.cli import run; assert run(['--help']) == 0; "
        "print({'celery', 'rich', 'pydantic', 'psycopg', 'llm'} & sys.modules.keys())"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.endswith("set()\n")
    assert all(f"\n  {name} " in output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"Usage: vector-index {name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["indx"], "No such command 'indx'."),
        (["index"], "Missing argument 'PATHS...'."),
        (["search", "x", "--limit", "0"], "0 is not in the range 1<=x<=100"),
        (["search", "x", "--filter", "{"], "--filter is '{', not JSON"),
        (["search", "x", "--index", "defualt"], "there is no index 'defualt': did you mean 'default'?"),
        (["index", "/nowhere/x"], "/nowhere/x does not exist"),
        (["worker", "--queues", "embedd"], "'embedd' is not one of 'staging', 'embed', 'chat', 'all'"),
    ],
)
def test_bad_usage_ends_with_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = failed(capsys, *arguments)
    assert code == 2
    assert expected in line


@pytest.mark.parametrize("command", [["up"], ["doctor"], ["status"], ["worker"], ["beat"]])
def test_bad_settings_end_with_2(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMEZONE", "Mars")
    code, line = failed(capsys, *command)
    assert code == 2
    assert "TIMEZONE is 'Mars'" in line


@pytest.mark.parametrize("command", [["search", "x"], ["status"], ["delete", "1"], ["index", __file__]])
def test_an_unreachable_broker_ends_with_3_and_shows_no_password(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in UNREACHABLE.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "a.txt").write_text("text")
    code, line = failed(capsys, *(str(tmp_path) if part == __file__ else part for part in command))
    assert code == 3
    assert "the broker 'redis://***@127.0.0.1:1/0' cannot be reached" in line
    assert "geheim" not in line


def test_without_embedded_services_the_mend_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOR_INDEX_HOME", str(tmp_path / "home"))
    code, line = failed(capsys, "status")
    assert code == 3
    assert "run `vector-index up`" in line


def test_without_a_worker_the_wait_ends(
    broker_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setenv("BROKER_URL", broker_url)
    code, line = failed(capsys, "status")
    assert code == 3
    assert "no worker consumes the queue vector_index.chat: start one with `vector-index up`" in line


def test_ctrl_c_ends_a_wait_with_130(broker_url: str) -> None:
    environ = {**os.environ, "BROKER_URL": broker_url}
    process = subprocess.Popen([*PROGRAM, "status"], env=environ, stderr=subprocess.PIPE, text=True)
    with redis.Redis.from_url(broker_url) as broker:
        while not broker.llen("vector_index.chat"):
            assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors.strip()) == (130, "")


def test_doctor_names_what_is_missing(
    broker_url: str, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_URL", broker_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert run(["doctor", "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert {check["name"]: check["ok"] for check in report["checks"]} == {
        "settings": True,
        "models": True,
        "Postgres": True,
        "broker": True,
        "workers": False,
    }
    assert "start one with `vector-index up`" in report["checks"][-1]["detail"]


def test_up_serves_on_the_same_addresses_at_every_start_and_stops_on_sigterm(tmp_path: Path) -> None:
    environ = {**os.environ, "VECTOR_INDEX_HOME": str(tmp_path / "home")}
    seen = []
    for _ in range(2):
        command = [*PROGRAM, "up", "--services-only", "--json"]
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as up:
            assert up.stdout
            lines = [json.loads(up.stdout.readline()) for _ in range(3)]
            with (
                psycopg.connect(lines[0]["DATABASE_URL"]),
                redis.Redis.from_url(lines[1]["BROKER_URL"]) as broker,
            ):
                assert broker.ping()
            up.terminate()
            assert up.wait(timeout=30) == 0
        assert lines[2] == {"ready": True}
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(lines[0]["DATABASE_URL"], connect_timeout=2)
        seen.append(lines)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_a_tasks_module_of_somebody_else_on_the_path_is_one_clear_sentence(
    command: str, tmp_path: Path
) -> None:
    """Never a worker without tasks."""
    (tmp_path / "tasks.py").write_text("raise SystemExit('imported')\n")
    environ = {**os.environ, **UNREACHABLE, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run([*PROGRAM, command], env=environ, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"vector-index: the module `tasks` is {tmp_path / 'tasks.py'}, not ")
    assert ended.stderr.count("\n") == 1
