"""The command line: help, exit codes, one line per error, `doctor`, `models`, `plan` and `up --services-only`."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bpe_openai
import click
import psycopg
import pytest
import redis

from tests.fixtures.application import make_index
from tests.provider import Provider
from tests.provider.servers import TOO_MANY
from worker import configuration, wiring
from worker.celery.upstream import registry
from worker.cli import COMMANDS, cli, client, run
from worker.cli.doctor import MOST_WORDS
from worker.exit_codes import ExitCode
from worker.indexing.staging import ensure_index
from worker.store import connection

UNREACHABLE = {"BROKER_URL": "redis://:geheim@127.0.0.1:1/0", "DATABASE_URL": "postgresql://127.0.0.1:1/x"}
PROGRAM = [sys.executable, "-P", "-m", "worker.cli"]


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that fails; return its exit code and its only line of output."""
    code = run(list(arguments))
    output = capsys.readouterr()
    assert output.out == ""
    line = output.err.removesuffix("\n")
    assert "\n" not in line
    assert line.startswith("vector-index: ")
    return code, line


def test_help_lists_every_command_without_importing_one(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from worker.cli import run; assert run(['--help']) == 0; "
        "print({'celery', 'rich', 'pydantic', 'psycopg', 'llm'} & sys.modules.keys())"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.endswith("set()\n")
    assert all(f"\n  {name} " in output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"Usage: vector-index {name} " in capsys.readouterr().out
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert (command.help or "").splitlines()[0] == COMMANDS[name]
    for option in command.params:
        assert isinstance(option, click.Argument) or getattr(option, "help", None), option.name


def test_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"vector-index, version {version('vector-index-worker')}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["indx"], "No such command 'indx'."),
        (["index"], "Missing argument 'PATHS...'."),
        (["search", "x", "--limit", "0"], "0 is not in the range 1<=x<=100"),
        (["search", "x", "--filter", "{"], "--filter is '{', which is not JSON"),
        (["search", "x", "--index", "defualt"], "there is no index 'defualt': did you mean 'default'?"),
        (["index", "/nowhere/x"], "/nowhere/x does not exist"),
        (["worker", "--queues", "embedd"], "'embedd' is not one of 'staging', 'embed', 'chat', 'all'"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = failed(capsys, *arguments)
    assert code == 2
    assert expected in line


@pytest.mark.parametrize("command", [["up"], ["doctor"], ["status"], ["worker"], ["beat"]])
def test_wrong_settings_exit_2(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMEZONE", "Mars")
    code, line = failed(capsys, *command)
    assert code == 2
    assert "TIMEZONE is 'Mars'" in line


@pytest.mark.parametrize("command", [["search", "x"], ["status"], ["delete", "1"], ["index", __file__]])
def test_an_unreachable_broker_exits_3_without_showing_the_password(
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


def test_without_embedded_services_the_error_names_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOR_INDEX_HOME", str(tmp_path / "home"))
    code, line = failed(capsys, "status")
    assert code == 3
    assert "run `vector-index up`" in line


def test_a_command_without_a_worker_exits_3(
    broker_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "STALL_SECONDS", 0.1)
    monkeypatch.setenv("BROKER_URL", broker_url)
    code, line = failed(capsys, "status")
    assert code == 3
    assert "no worker consumes the queue vector_index.chat: start one with `vector-index up`" in line


def test_ctrl_c_exits_130(broker_url: str) -> None:
    environ = {**os.environ, "BROKER_URL": broker_url}
    process = subprocess.Popen([*PROGRAM, "status"], env=environ, stderr=subprocess.PIPE, text=True)
    with redis.Redis.from_url(broker_url) as broker:
        while not broker.llen("vector_index.chat"):
            assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.strip()) == (130, "")


def checks(capsys: pytest.CaptureFixture[str], *arguments: str, code: int) -> dict[str, Any]:
    """Run doctor; return its checks by name."""
    assert run(["doctor", *arguments, "--json"]) == code
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


@pytest.fixture
def asked(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """Return the provider of the default backends' models; Postgres and the broker are unreachable."""
    variables = {
        "OPENAI_BASE_URL": provider.url,
        "OPENAI_API_KEY": "sk-geheim-1234",
        "EMBEDDING_MODEL": "3-small",
        "CHAT_MODEL": "4o-mini",
    }
    for name, value in (UNREACHABLE | variables).items():
        monkeypatch.setenv(name, value)
    return provider


def test_doctor_reports_missing_workers(
    broker_url: str, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_URL", broker_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    found = checks(capsys, code=3)
    assert {name: check["ok"] for name, check in found.items()} == {
        "settings": True,
        "libraries": True,
        "llm": True,
        "embedding default": True,
        "chat default": True,
        "Postgres": True,
        "indexes": True,
        "words": True,
        "outbox": True,
        "broker": True,
        "workers": False,
    }
    assert "start one with `vector-index up`" in found["workers"]["detail"]


def test_doctor_sends_one_request_per_backend_and_prints_the_answer(
    asked: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    found = checks(capsys, code=3)
    said = found["embedding default"]["detail"]
    assert re.fullmatch(r"text-embedding-3-small returned a vector of length 1,536 in \d+\.\d\d s", said)
    said = found["chat default"]["detail"]
    assert re.match(
        r"gpt-4o-mini answered 'The answer stands .*' in \d+\.\d\d s, \d+ input tokens and \d+ output tokens$",
        said,
    )
    assert (asked.stats().requests, asked.stats().max_inputs) == (2, MOST_WORDS)
    assert len(asked.prompts) == 1


def test_doctor_suggests_a_batch_size_that_the_server_takes(
    asked: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.inject("too_many", answer=TOO_MANY["Azure"], inputs=10, times=None, path="/embeddings")
    detail = checks(capsys, code=3)["embedding default"]["detail"]
    assert detail.endswith("; it refuses 256 inputs in a request: set BATCH_SIZE to 10")


def test_doctor_says_nothing_of_a_batch_size_that_a_rate_limit_hides(
    asked: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.inject("too_many", answer=(429, "slow down"), inputs=1, times=None, path="/embeddings")
    found = checks(capsys, code=3)["embedding default"]
    assert found["ok"]
    assert "BATCH_SIZE" not in found["detail"]


@pytest.mark.parametrize(
    ("changed", "ok", "sentence"),
    [
        ({"fingerprint": "another"}, True, " has another Channel._put than kombu 5.7.0, which "),
        ({"name": "_put_message"}, False, " has no kombu.transport.redis:Channel._put_message, which "),
    ],
)
def test_doctor_shows_a_library_with_other_code_and_refuses_one_without_it(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    ok: bool,
    sentence: str,
) -> None:
    for name, value in UNREACHABLE.items():
        monkeypatch.setenv(name, value)
    put = next(change for change in registry.CHANGES if change.label == "Channel._put")
    monkeypatch.setattr(registry, "CHANGES", (replace(put, **changed),))
    found = checks(capsys, "--offline", code=3)["libraries"]
    assert found["ok"] is ok
    assert sentence in found["detail"]


def test_doctor_offline_sends_no_request(asked: Provider, capsys: pytest.CaptureFixture[str]) -> None:
    found = checks(capsys, "--offline", code=3)
    assert found["embedding default"]["detail"] == "text-embedding-3-small, no request sent"
    assert (asked.stats().requests, asked.prompts) == (0, [])


def test_doctor_reports_a_changed_vector_length_and_a_changed_model(
    asked: Provider, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    asked.dimensions = 8
    detail = checks(capsys, code=3)["embedding default"]["detail"]
    assert "returns vectors of length 8 instead of 1536: set EMBEDDING_OUTPUT_DIMENSIONS" in detail
    wordllama = configuration.load({}).index("default")
    ensure_index(make_index(database_url, wordllama, wiring.make_backend(wordllama.embedding_backend)))
    connection.close_pools()
    detail = checks(capsys, code=3)["indexes"]["detail"]
    assert "index 'default' differs from the settings: MODEL_ID is 'wordllama' in the index and" in detail
    assert "`vector-index rebuild --index default` applies the settings" in detail
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
def test_doctor_reports_why_a_model_cannot_be_used(
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
def test_llm_folder_and_plugins_are_printed(
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


def test_models_in_use_come_first_with_the_limits_of_their_backends(
    provider: Provider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits in the settings override known ones. Shows whether there is a key. Sends no request."""
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


@pytest.mark.slow
def test_models_knows_of_a_custom_chat_model_what_its_backend_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit is that of the server's model, whatever the operator calls it."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    model = "- {model_id: house-chat, model_name: gpt-4o-mini, api_base: 'http://127.0.0.1:1', aliases: [house]}\n"
    (tmp_path / "extra-openai-models.yaml").write_text(model)
    code = "from worker.cli import run; run(['models', '--json'])"
    rows = []
    for backend in ("extractive", "house"):
        environ = {**os.environ, "CHAT_MODEL": backend, "EMBEDDING_MODEL": "wordllama"}
        found = json.loads(subprocess.check_output([sys.executable, "-c", code], env=environ, text=True))
        rows.append(next(row for row in found["chat"] if row["model"] == "house-chat"))
    unused, used = rows
    assert (unused["token_limit"], unused["aliases"]) == (128_000, ["house"])
    assert {**unused, "backend": "default"} == used


def test_models_shows_aliases(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    assert re.search(r"^ text-embedding-3-small +3-small ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_llm_runs_a_command_of_llm_in_the_environment_of_the_workers(tmp_path: Path) -> None:
    """Its options pass through, and its errors are one line: as `docker compose run embed llm models` runs it."""
    output = subprocess.check_output([*PROGRAM, "llm", "embed-models", "--query", "wordllama"], text=True)
    assert "wordllama" in output
    environ = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    done = subprocess.run([*PROGRAM, "llm", "keys", "get", "x"], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "vector-index: No keys found\n")


def test_models_reports_a_backend_that_cannot_be_created(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL", "4-small")
    row = listed(capsys, code=2)["embedding"][0]
    assert "MODEL_ID '4-small' of embedding backend 'default' is unknown" in row["error"]
    assert run(["models"]) == 2
    output = capsys.readouterr().out
    assert "embedding backend 'default' cannot be created: MODEL_ID '4-small'" in output
    assert "text-embedding-3-small" in output


def planned(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert run(["plan", *arguments, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_plan_works_without_services_keys_and_requests(
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


def test_plan_says_what_was_left_out_and_what_was_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.md").write_text(f"Text.\n\n![plan](data:image/png;base64,{'A' * 5_000})\n")
    (tmp_path / "b.txt").write_bytes("Un café à Liège, déjà vu.".encode("cp1252"))
    (tmp_path / "c.html").write_text("<title>T</title><nav>Home</nav><main><p>Words.</p></main>")
    (tmp_path / "d.html").write_text("<title>T</title><p hidden>Words.</p>")
    found = planned(capsys, str(tmp_path))
    assert found["left_out"] == {"inline data": 5_022, "navigation": 4, "hidden text": 6}
    assert [Path(item["path"]).name for item in found["guessed"]] == ["b.txt"]
    assert [Path(item["path"]).name for item in found["without_text"]] == ["d.html"]
    assert found["chunks"] <= 4
    run(["plan", str(tmp_path)])
    said = " ".join(capsys.readouterr().out.split())
    assert "left out 5,032 characters that no reader sees: 5,022 of inline data" in said
    assert "b.txt: is read as windows-1252" in said
    assert "d.html: has no text that a reader sees" in said


def test_plan_counts_equal_chunks_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"id": number, "text": f"Text {number % 10}."}) for number in range(1000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = planned(capsys, str(tmp_path))
    assert (found["documents"], found["chunks"], found["distinct"]) == (1000, 1000, 10)


def test_plan_fills_requests_up_to_the_limits_of_the_backend(
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


def test_plan_does_not_request_the_length_of_vectors(
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


def test_plan_exits_1_for_unreadable_lines_and_2_for_empty_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "one"}\n{"id": 2}\n')
    [unread] = planned(capsys, str(tmp_path), code=1)["unread"]
    assert unread["path"].endswith("a.jsonl:2")
    (tmp_path / "a.jsonl").write_text("")
    code, line = failed(capsys, "plan", str(tmp_path))
    assert code == 2
    assert "nothing to index in" in line


@pytest.mark.slow
def test_up_keeps_its_addresses_and_stops_on_sigterm(tmp_path: Path) -> None:
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
def test_a_foreign_tasks_module_on_the_path_is_rejected(command: str, tmp_path: Path) -> None:
    """Celery would import it and start a worker without our tasks."""
    (tmp_path / "tasks.py").write_text("raise SystemExit('imported')\n")
    environ = {**os.environ, **UNREACHABLE, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run([*PROGRAM, command], env=environ, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"vector-index: the module `tasks` is {tmp_path / 'tasks.py'}, not ")
    assert ended.stderr.count("\n") == 1


def test_an_error_that_nobody_expects_is_one_sentence_without_passwords(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("no route to postgresql://u:geheim@h/db")

    monkeypatch.setattr("worker.cli.plan.load", fail)
    assert run(["plan", "."]) == ExitCode.FAILED
    said = capsys.readouterr().err
    assert said.startswith(
        "vector-index: the command ended in an unexpected error (RuntimeError: no route to"
    )
    assert "geheim" not in said
