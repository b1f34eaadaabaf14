"""A run of the tests can be given servers, so that CI tries each supported version."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.fixtures import given_servers
from tests.fixtures.services import own_valkey
from tests.fixtures.system import PATIENCE_SECONDS
from worker.services.valkey import Valkey

ROOT = Path(__file__).parents[2]
A_TEST = "tests/integration/test_budgets.py::test_a_pause_applies_to_every_process_and_only_to_its_backend"


@pytest.mark.slow
def test_a_run_uses_the_broker_that_it_is_given(tmp_path: Path) -> None:
    with own_valkey(tmp_path) as server:
        done = run_of_tests(server.url)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "TEST_BROKER_URL: Valkey 9" in done.stdout
        with redis.Redis.from_url(server.url) as client:
            assert "cmdstat_flushdb" in client.info("commandstats")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("redis://127.0.0.1:1/0", "start the server first"),
        ("redis://127.0.0.1:1/2", "must end with the database /0"),
    ],
)
def test_a_run_says_what_is_wrong_with_a_given_broker(url: str, fix: str) -> None:
    done = run_of_tests(url)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert fix in done.stderr


def test_a_given_broker_needs_as_many_databases_as_the_embedded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.services.valkey.DATABASES", 16)
    with own_valkey(tmp_path, Valkey) as server, pytest.raises(pytest.UsageError, match="--databases 512"):
        given_servers.describe_broker(server.url)


def run_of_tests(broker_url: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", A_TEST]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, given_servers.BROKER_URL: broker_url},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
