"""The command line: exit codes, one line per error, and `up`. The pipeline behind it is tested elsewhere."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import bpe_openai
import psycopg
import pytest
import redis

from tests.fixtures.application import make_index
from tests.provider import Provider
from worker import configuration, wiring
from worker.cli import COMMANDS, client, run
from worker.indexing.staging import ensure_index
from worker.store import connection

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
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.strip()) == (130, "")


def checks(capsys: pytest.CaptureFixture[str], *arguments: str, code: int) -> dict[str, Any]:
    """What doctor looked at, by name."""
    assert run(["doctor", *arguments, "--json"]) == code
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


@pytest.fixture
def asked(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """Whoever answers for the models of the default backends; no service can be reached."""
    variables = {
        "OPENAI_BASE_URL": provider.url,
        "OPENAI_API_KEY": "sk-geheim-1234",
        "EMBEDDING_MODEL": "3-small",
        "CHAT_MODEL": "4o-mini",
    }
    for name, value in (UNREACHABLE | variables).items():
        monkeypatch.setenv(name, value)
    return provider


def test_doctor_names_what_is_missing(
    broker_url: str, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_URL", broker_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    found = checks(capsys, code=3)
    assert {name: check["ok"] for name, check in found.items()} == {
        "settings": True,
        "llm": True,
        "embedding default": True,
        "chat default": True,
        "Postgres": True,
        "indexes": True,
        "outbox": True,
        "broker": True,
        "workers": False,
    }
    assert "start one with `vector-index up`" in found["workers"]["detail"]


def test_doctor_asks_each_backend_once_and_says_what_came_back(
    asked: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    found = checks(capsys, code=3)
    said = found["embedding default"]["detail"]
    assert re.fullmatch(r"text-embedding-3-small returned a vector of length 1,536 in \d+\.\d\d s", said)
    said = found["chat default"]["detail"]
    assert re.match(
        r"gpt-4o-mini answered 'The answer stands .*' in \d+\.\d\d s, \d+ tokens in and \d+ out$", said
    )
    assert asked.stats().inputs == 1
    assert len(asked.prompts) == 1


def test_doctor_offline_asks_no_model(asked: Provider, capsys: pytest.CaptureFixture[str]) -> None:
    found = checks(capsys, "--offline", code=3)
    assert found["embedding default"]["detail"] == "text-embedding-3-small, not asked"
    assert (asked.stats().requests, asked.prompts) == (0, [])


def test_doctor_tells_a_model_from_what_it_was(
    asked: Provider, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors of another length than the settings say, and another than the index holds."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    asked.dimensions = 8
    detail = checks(capsys, code=3)["embedding default"]["detail"]
    assert "returns vectors of length 8, but 1536 are expected: set EMBEDDING_OUTPUT_DIMENSIONS" in detail
    wordllama = configuration.load({}).index("default")
    ensure_index(make_index(database_url, wordllama, wiring.make_backend(wordllama.embedding_backend)))
    connection.close_pools()
    detail = checks(capsys, code=3)["indexes"]["detail"]
    assert (
        "index 'default' holds vectors of wordllama (256 dimensions), but its embedding backend is" in detail
    )
    connection.close_pools()


@pytest.mark.parametrize(
    ("variables", "name", "expected", "code"),
    [
        (
            {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"},
            "embedding default",
            "the provider does not answer",
            3,
        ),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "chat default", "the provider does not answer", 3),
        ({"CHAT_MODEL": "nope"}, "chat default", "MODEL_ID 'nope' of chat backend 'default' is unknown", 2),
        ({"OPENAI_API_KEY": ""}, "embedding default", "give the backend a key that may use this model", 2),
    ],
)
def test_doctor_tells_in_a_sentence_why_a_model_does_not_serve(
    variables: dict[str, str],
    name: str,
    expected: str,
    code: int,
    asked: Provider,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    check = checks(capsys, code=3)[name]
    assert (check["ok"], check["code"]) == (False, code)
    assert expected in check["detail"]
    assert "geheim" not in check["detail"]


@pytest.mark.parametrize("command", ["doctor", "models"])
def test_the_folder_and_the_plugins_of_llm_are_told(
    command: str,
    asked: Provider,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    run([command])
    output = capsys.readouterr().out
    assert str(tmp_path) in output
    assert "vector-index-worker" in output


def listed(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert run(["models", "--json"]) == code
    output = capsys.readouterr().out
    assert "geheim" not in output
    found: dict[str, Any] = json.loads(output)
    return found


def test_models_in_use_come_first_as_their_backends_use_them(
    provider: Provider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a backend is given wins over what is known; whether there is a key is told, and no request is sent."""
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
    configs = {
        "small": {"MODEL_ID": "3-small", "INIT_KWARGS": {"key": "geheim"}, "BATCH_SIZE": 7},
        "default": {"MODEL_ID": "ada-002", "TOKEN_LIMIT": 100, "EMBEDDING_OUTPUT_DIMENSIONS": 9},
    }
    sections = {"EMBEDDING_BACKENDS": {name: {"CONFIG": config} for name, config in configs.items()}}
    monkeypatch.setenv("VECTOR_INDEX", json.dumps(sections))
    found = listed(capsys)
    small, default, *others = found["embedding"]
    assert (small["backend"], small["model"], small["key"]) == ("small", "text-embedding-3-small", "set")
    assert (small["token_limit"], small["batch_token_limit"], small["batch_size"]) == (8_191, 300_000, 7)
    assert (default["token_limit"], default["dimensions"], default["key"]) == (100, 9, "missing")
    assert (small["counted"], small["aliases"]) == ("exact", ["3-small"])
    assert {row["backend"] for row in others} == {None}
    assert "wordllama" in {row["model"] for row in others}
    assert found["chat"][0] | {"model": "extractive", "backend": "default", "key": None} == found["chat"][0]
    assert {row["model"]: row["output_tokens"] for row in found["chat"]}["gpt-4o"] == 16_384
    assert provider.stats().requests == 0


def test_models_lists_a_broken_backend_with_its_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL", "4-small")
    row = listed(capsys, code=2)["embedding"][0]
    assert "MODEL_ID '4-small' of embedding backend 'default' is unknown" in row["error"]
    assert run(["models"]) == 2
    output = capsys.readouterr().out
    assert "embedding backend 'default' cannot be made: MODEL_ID '4-small'" in output
    assert "text-embedding-3-small" in output


def planned(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert run(["plan", *arguments, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_plan_needs_no_service_no_key_and_no_request(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in UNREACHABLE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
    monkeypatch.setenv("EMBEDDING_MODEL", "3-small")
    monkeypatch.setenv("PRICE_PER_MILLION_TOKENS", "0.02")
    (tmp_path / "a.txt").write_text("one two three")
    (tmp_path / "b.bin").write_text("")
    found = planned(capsys, str(tmp_path))
    assert (found["documents"], found["chunks"], found["distinct"], found["requests"]) == (1, 1, 1, 1)
    assert found["tokens"] == len(bpe_openai.get_encoding("cl100k_base").encode_ordinary("a\none two three"))
    assert (found["tokens_are"], found["passed_over"]) == ("exact", 1)
    assert found["price"] == pytest.approx(found["tokens"] * 0.02 / 1e6)
    assert provider.stats().requests == 0


def test_plan_counts_a_content_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"id": number, "text": f"Text {number % 10}."}) for number in range(1000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = planned(capsys, str(tmp_path))
    assert (found["documents"], found["chunks"], found["distinct"]) == (1000, 1000, 10)


def test_plan_fills_requests_to_the_limits_of_the_backend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"MODEL_ID": "wordllama", "BATCH_SIZE": 4, "TOKEN_LIMIT": 64, "BATCH_TOKEN_LIMIT": 64}
    monkeypatch.setenv("VECTOR_INDEX", json.dumps({"EMBEDDING_BACKENDS": {"default": {"CONFIG": config}}}))
    lines = [json.dumps({"id": number, "text": f"Text {number}."}) for number in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = planned(capsys, str(tmp_path))
    assert found["requests"] == 3
    assert found["fill_inputs"] == pytest.approx((1 + 1 + 0.5) / 3, abs=0.001)
    assert found["fill_tokens"] == pytest.approx(found["tokens"] / 64 / 3, abs=0.001)


def test_plan_asks_no_backend_for_the_length_of_its_vectors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unprobed.py").write_text(
        "from worker.backends.llm import LLMEmbeddingBackend\n\n"
        "class Backend(LLMEmbeddingBackend):\n"
        "    @property\n    def dimensions(self):\n        raise AssertionError('asked')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    backend = {"CLASS": "unprobed.Backend", "CONFIG": {"MODEL_ID": "wordllama"}}
    monkeypatch.setenv("VECTOR_INDEX", json.dumps({"EMBEDDING_BACKENDS": {"default": backend}}))
    (tmp_path / "a.txt").write_text("text")
    assert planned(capsys, str(tmp_path / "a.txt"))["chunks"] == 1


def test_plan_ends_with_1_for_what_it_cannot_read_and_with_2_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "one"}\n{"id": 2}\n')
    [unread] = planned(capsys, str(tmp_path), code=1)["unread"]
    assert unread["path"].endswith("a.jsonl:2")
    (tmp_path / "a.jsonl").write_text("")
    code, line = failed(capsys, "plan", str(tmp_path))
    assert code == 2
    assert "nothing to index in" in line


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
            assert up.wait(timeout=60) == 0
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
    ended = subprocess.run([*PROGRAM, command], env=environ, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"vector-index: the module `tasks` is {tmp_path / 'tasks.py'}, not ")
    assert ended.stderr.count("\n") == 1
