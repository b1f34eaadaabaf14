"""The GitHub workflows: what they run exists, and their matrices are the versions that the docs promise."""

import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.fixtures import given_servers
from worker.services.valkey import DATABASES

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in ROOT.glob(".github/workflows/*.yml")}
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OF_THE_RUNNER = {"docker", "timeout"}  # programs that GitHub's machines have


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each step with its place."""
    for name, workflow in WORKFLOWS.items():
        for job, content in workflow["jobs"].items():
            for step in content["steps"]:
                yield f"{name}: {job}", step


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each command of each step with its place, without `sudo`."""
    for place, step in steps():
        for line in step.get("run", "").replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"\$\{\{.*?\}\}", "x", line))
            yield place, words[words[0] == "sudo" :]


def matrix(job: str) -> dict[str, Any]:
    found: dict[str, Any] = WORKFLOWS["tests.yml"]["jobs"][job]["strategy"]["matrix"]
    return found


def test_there_are_workflows_for_changes_nights_and_weeks() -> None:
    assert set(WORKFLOWS) == {"tests.yml", "nightly.yml", "weekly.yml"}
    triggers = {
        name: set(workflow[True]) for name, workflow in WORKFLOWS.items()
    }  # YAML 1.1 reads `on` as true
    assert triggers["tests.yml"] == {"push", "pull_request"}
    assert triggers["nightly.yml"] == triggers["weekly.yml"] == {"schedule", "workflow_dispatch"}


def test_every_command_of_a_workflow_exists() -> None:
    found = list(commands())
    assert {"make", ".ci/run", ".ci/packages", "docker"} <= {words[0] for _, words in found}
    for place, words in found:
        if words[0] == "make":
            assert set(words[1:]) <= TARGETS, place
        elif "/" in words[0]:
            assert os.access(ROOT / words[0], os.X_OK), f"{place}: {words[0]}"
        else:
            assert words[0] in OF_THE_RUNNER, f"{place}: {words[0]}"


def test_packages_that_a_workflow_names_are_known() -> None:
    known = set(re.findall(r"\[([\w-]+)\]=", (ROOT / ".ci/packages").read_text()))
    named = {name for _, words in commands() if words[0] == ".ci/packages" for name in words[1:]}
    assert named <= known


def test_every_supported_python_is_tested() -> None:
    """And the oldest one lints: it knows the least."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = [
        f"3.{minor}" for minor in range(30) if f"3.{minor}" in SpecifierSet(project["requires-python"])
    ]
    assert matrix("python")["python"] == supported
    [lint] = [
        step["with"]["python-version"] for place, step in steps() if place.endswith("lint") and "with" in step
    ]
    assert lint == supported[0]


def test_every_supported_server_is_tested() -> None:
    assert matrix("postgres")["postgres"] == ["15", "16", "17", "18"]
    assert [row["image"] for row in matrix("broker")["include"]] == [
        "redis:6.2",
        "redis:7",
        "valkey/valkey:9",
    ]


@pytest.mark.parametrize(
    ("job", "variable"), [("postgres", given_servers.DATABASE_URL), ("broker", given_servers.BROKER_URL)]
)
def test_a_server_that_a_job_starts_is_given_to_the_tests(job: str, variable: str) -> None:
    content = WORKFLOWS["tests.yml"]["jobs"][job]
    [(name, url)] = content["env"].items()
    assert name == variable
    [start] = [step["run"] for step in content["steps"] if "docker run" in step.get("run", "")]
    password, port = re.search(r":(\w+)@127\.0\.0\.1:(\d+)/", url).groups()  # type: ignore[union-attr]
    assert f"--publish 127.0.0.1:{port}:{port}" in start
    assert re.search(rf"(PASSWORD=|--requirepass ){password}\b", start)
    assert job == "postgres" or f"--databases {DATABASES}" in start


def test_actions_have_a_version_and_jobs_a_time_limit_and_only_the_right_to_read() -> None:
    for place, step in steps():
        assert "uses" not in step or re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]), place
    for workflow in WORKFLOWS.values():
        assert workflow["permissions"] == {"contents": "read"}
        assert all("timeout-minutes" in job for job in workflow["jobs"].values())
