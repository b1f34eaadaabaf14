"""Mistakes of users end with an exit code and one line on stderr that names the value and the fix."""

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from tests.fixtures.system import PATIENCE_SECONDS, VECTOR_INDEX, System, eventually, user_environment
from worker.services import Addresses

# no server listens on port 1
POSTGRES = {"DATABASE_URL": "postgresql://vector:geheim@127.0.0.1:1/x"}
BROKER = {"BROKER_URL": "redis://:geheim@127.0.0.1:1/0"}


def failed(folder: Path, arguments: list[str], **variables: str) -> tuple[int, str]:
    """Run a command that fails; return its exit code and the only line that it prints."""
    done = subprocess.run(
        [VECTOR_INDEX, *arguments],
        cwd=folder,
        env=user_environment(folder, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return done.returncode, only_line(done)


def only_line(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.stdout == ""
    assert done.stderr.startswith("vector-index: ")
    assert done.stderr.count("\n") == 1
    assert "geheim" not in done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "variables", "code", "expected"),
    [
        (["search", "x", "--index", "defalt"], {}, 2, "there is no index 'defalt': did you mean 'default'?"),
        (["index", "no-such-file"], {}, 2, "no-such-file does not exist"),
        (["plan", "no-such-file"], {}, 2, "no-such-file does not exist"),
        (["models"], {"LLM_USER_PATH": "/dev/null/llm"}, 2, "set LLM_USER_PATH to a writable folder"),
        (["status"], {}, 3, "run `vector-index up`"),
        (["search", "x"], BROKER, 3, "the broker 'redis://***@127.0.0.1:1/0' cannot be reached"),
        (["worker"], POSTGRES | BROKER, 3, "Postgres at 127.0.0.1:1/x is unreachable"),
        (["schema"], POSTGRES, 3, "start it, or correct the host and port of DATABASE_URL"),
        (["worker"], POSTGRES | BROKER | {"TIMEZONE": "Mars"}, 2, "TIMEZONE is 'Mars'"),
    ],
)
def test_wrong_usage_is_one_line_with_an_exit_code(
    arguments: list[str], variables: dict[str, str], code: int, expected: str, tmp_path: Path
) -> None:
    found, line = failed(tmp_path, arguments, **variables)
    assert expected in line
    assert found == code


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["search", "x"], ["status"], ["worker"], ["up"]], ids=lambda given: given[0]
)
def test_wrong_password_of_the_broker_is_named_as_such(
    arguments: list[str], services: Addresses, database_url: str, tmp_path: Path
) -> None:
    """Not as a broker that is away, which a worker would wait for."""
    address = urlsplit(services.broker_url)
    url = f"redis://:geheim@{address.hostname}:{address.port}/0"
    code, line = failed(tmp_path, arguments, BROKER_URL=url, DATABASE_URL=database_url)
    assert "refuses the user or password of BROKER_URL" in line
    assert "cannot be reached" not in line
    assert code == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"password": "geheim"}, "correct user and password, or set one on the server: ALTER ROLE"),
        ({"dbname": "no_such"}, "correct the name of the database, or create it with `createdb`"),
        ({"user": "no_such"}, "correct user and password"),
    ],
    ids=lambda given: next(iter(given), "") if isinstance(given, dict) else "",
)
def test_refused_login_of_postgres_says_what_to_do(
    change: dict[str, str], expected: str, services: Addresses, tmp_path: Path
) -> None:
    made = psycopg.conninfo.conninfo_to_dict(services.database_url) | change
    url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**made)
    code, line = failed(tmp_path, ["schema"], DATABASE_URL=url)
    assert "check DATABASE_URL: " in line
    assert expected in line
    assert code == 2


@pytest.mark.slow
def test_worker_exits_for_an_unknown_model(system: System) -> None:
    done = system.command("worker", VECTOR_INDEX_SETTINGS="", EMBEDDING_MODEL="nope")
    assert "MODEL_ID 'nope' of embedding backend 'default' is unknown" in only_line(done)
    assert done.returncode == 2


BROKEN = """
class Backend:
    def __init__(self, **_):
        raise KeyError("shelf of sk-geheim-1234567")
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["worker", "up"])
def test_an_error_of_an_own_class_ends_the_start_in_a_sentence(
    command: str, start_system: Callable[..., Any], tmp_path: Path
) -> None:
    """Celery would log the error of a start check, and let the worker run."""
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "ours.py").write_text(
        'VECTOR_INDEX = {"EMBEDDING_BACKENDS": {"default": {"CLASS": "broken.Backend", "CONFIG": {}}}}'
    )
    with start_system(tmp_path, {}, VECTOR_INDEX_SETTINGS=str(tmp_path / "ours.py")) as system:
        done = system.command(command)
        assert "CLASS 'broken.Backend' of backend 'default' cannot be used: it raised KeyError" in only_line(
            done
        )
        assert done.returncode == 2
        report = system.command("doctor", "--offline")
    assert "FAIL  embedding default" in report.stdout
    assert "Traceback" not in report.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["worker", "beat", "up"])
def test_a_database_that_cannot_hold_every_text_ends_the_start_in_a_sentence(
    command: str, services: Addresses, administrator: "psycopg.Connection", broker_url: str, tmp_path: Path
) -> None:
    name = f"test_{uuid4().hex}"
    administrator.execute(
        f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0".encode()
    )
    url = f"{services.database_url.rpartition('/')[0]}/{name}"
    variables = user_environment(tmp_path, DATABASE_URL=url, BROKER_URL=broker_url)
    try:
        done = subprocess.run(
            [VECTOR_INDEX, command], cwd=tmp_path, env=variables, capture_output=True, text=True,
            timeout=PATIENCE_SECONDS,
        )  # fmt: skip
    finally:
        administrator.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    assert "has the encoding LATIN1, which cannot hold every text: create one with" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"EMBEDDING_MODEL": "nope"}, "MODEL_ID 'nope' of embedding backend 'default' is unknown"),
        (
            {"CHAT_MODEL": "nope", "EMBEDDING_MODEL": "wordllama"},
            "MODEL_ID 'nope' of chat backend 'default' is unknown",
        ),
    ],
)
def test_up_exits_for_an_unknown_model_before_it_starts_anything(
    variables: dict[str, str], expected: str, tmp_path: Path
) -> None:
    code, line = failed(tmp_path, ["up"], **variables)
    assert expected in line
    assert code == 2
    assert not (tmp_path / "home").exists()


def test_up_reports_unreachable_postgres_once(tmp_path: Path) -> None:
    variables = user_environment(tmp_path, **POSTGRES)
    done = subprocess.run(
        [VECTOR_INDEX, "up"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.stderr.startswith("vector-index: Postgres at 127.0.0.1:1/x is unreachable: ")
    assert done.stderr.count("\n") == 1
    assert done.returncode == 3


@pytest.mark.slow
def test_flower_exits_for_a_port_in_use_or_an_invalid_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, line = failed(tmp_path, ["flower", "--port", port], **POSTGRES, **BROKER)
    assert f"Flower cannot listen on 127.0.0.1:{port} (Address already in use): stop the program" in line
    assert code == 2
    code, line = failed(tmp_path, ["flower"], **POSTGRES, **BROKER, FLOWER_PORT="http")
    assert "a FLOWER_* variable has a wrong value" in line
    assert code == 2


@pytest.mark.slow
def test_up_exits_for_a_home_without_write_permission(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    code, line = failed(tmp_path, ["up"], VECTOR_INDEX_HOME=str(tmp_path / "file/home"))
    assert "set VECTOR_INDEX_HOME to a folder that you can write to" in line
    assert code == 2


def test_up_names_the_port_that_another_program_uses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        servers = {name: {"port": port, "password": "geheim"} for name in ("postgres", "valkey")}
        (tmp_path / "home").mkdir()
        (tmp_path / "home/services.json").write_text(json.dumps(servers))
        code, line = failed(tmp_path, ["up"])
    assert f"port {port} of the embedded Postgres is in use by another program" in line
    assert code == 2


@pytest.mark.slow
def test_documents_wait_and_searches_fail_while_the_provider_is_unreachable(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    """`status` shows the provider's error."""
    variables = {"EMBEDDING_MODEL": "3-small", "OPENAI_API_KEY": "geheim"}
    variables["OPENAI_BASE_URL"] = "http://127.0.0.1:1/v1"
    with start_system(tmp_path, {"worker": ["worker"]}, **variables) as system:
        system.send("tasks.index_documents", documents=[{"id": 1, "text": "x"}])
        told = eventually(lambda: system.call("tasks.status")["last_error"])
        assert "text-embedding-3-small: APIConnectionError" in told
        assert "the provider does not answer" in told
        # the worker's probe at its start may report the error before the document is staged
        state = eventually(lambda: (now := system.call("tasks.status"))["pending_chunks"] and now)
        assert (state["documents"], state["pending_chunks"]) == ({"pending": 1, "live": 0, "failed": 0}, 1)
        done = system.command("search", "y")
        assert "the provider does not answer" in only_line(done)
        assert done.returncode == 3
