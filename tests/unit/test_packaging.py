"""What an operator installs is what was tested: locks, image and compose file agree with the project."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from worker.cli import cli

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = [
    "requirements.lock",
    "requirements-runtime.lock",
    "requirements-plugins.lock",
    "requirements-bench.lock",
    "requirements-browser.lock",
]


def locked(name: str) -> dict[str, str]:
    """Each entry of a lock, `name==version` with its marker, and the hashes below it."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.replace(" \\\n", "\n").strip())
    return {head: hashes for head, _, hashes in (entry.partition("\n") for entry in entries)}


def required(*extras: str) -> list[Requirement]:
    lines = [
        *PROJECT["dependencies"],
        *(line for extra in extras for line in PROJECT["optional-dependencies"][extra]),
    ]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != PROJECT["name"]]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_with_hashes_and_no_address_stands_in_a_lock(lock: str) -> None:
    for head, hashes in locked(lock).items():
        assert re.match(r"[a-z0-9-]+==\S+", head)
        assert re.fullmatch(r"(\s*--hash=sha256:[0-9a-f]{64})+", hashes), head
    assert not re.search(r"://|index-url|find-links|file:", (ROOT / lock).read_text())


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        (LOCKS[0], ["embedded", "flower", "dev"]),
        (LOCKS[1], ["flower"]),
        (LOCKS[2], ["plugins"]),
        (LOCKS[3], ["bench"]),
        (LOCKS[4], ["browser"]),
    ],
)
def test_a_lock_holds_what_the_project_asks_for(lock: str, extras: list[str]) -> None:
    """It fails after a change of pyproject.toml without `make lock`. The small ones come on top of the first."""
    versions: dict[str, list[str]] = {}
    for pin in map(Requirement, [*locked(lock), *(locked(LOCKS[0]) if lock in LOCKS[2:] else [])]):
        versions.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    for requirement in required(*extras):
        found = versions.get(canonicalize_name(requirement.name), [])
        assert found, f"{requirement} is not in {lock}: run make lock"
        assert all(requirement.specifier.contains(version) for version in found), f"{requirement} and {found}"


def test_the_image_runs_the_versions_that_were_tested() -> None:
    tested = locked(LOCKS[0])
    assert {head.partition(" ")[0] for head in locked(LOCKS[1])} <= {
        head.partition(" ")[0] for head in tested
    }


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


def test_the_commands_of_the_compose_file_are_those_of_the_command_line(services: dict[str, Any]) -> None:
    assert "vector-index" in PROJECT["scripts"]
    assert 'ENTRYPOINT ["vector-index"]' in (ROOT / "Dockerfile").read_text()
    ours = {name: service["command"] for name, service in services.items() if "build" in service}
    assert sorted(ours) == ["beat", "chat", "embed", "flower", "staging"]
    for name, *arguments in ours.values():
        command = cli.get_command(cli.make_context("vector-index", [], resilient_parsing=True), name)
        assert command is not None, name
        command.make_context(name, list(arguments))  # raises for an option that does not exist


def test_workers_are_asked_whether_they_live_and_the_whole_whether_it_is_ready(
    services: dict[str, Any],
) -> None:
    checks = {name: service["healthcheck"] for name, service in services.items() if "build" in service}
    assert checks.pop("flower") == {"disable": True}
    asked = {name: check["test"] for name, check in checks.items()}
    live, ready = ["CMD", "vector-index", "live"], ["CMD", "vector-index", "ready"]
    assert asked == {"beat": ready, "chat": live, "embed": live, "staging": live}


def test_a_pool_of_workers_serves_each_queue(services: dict[str, Any]) -> None:
    """A backlog in one must not delay another."""
    commands = [service["command"] for service in services.values() if "build" in service]
    assert {command[2] for command in commands if command[0] == "worker"} == {"staging", "embed", "chat"}


def test_the_compose_file_has_no_password_and_opens_nothing_to_other_machines(
    services: dict[str, Any],
) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{\w+PASSWORD(..)", text)) == {":?"}
    assert all(
        port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", [])
    )


def test_the_password_of_flower_is_kept_where_it_may_write(services: dict[str, Any]) -> None:
    """It is made at the first start, where FLOWER_BASIC_AUTH is empty, and printed then only."""
    home = re.search(r"^ENV .*VECTOR_INDEX_HOME=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert home is not None
    assert (
        f" {home[1]}\n"
        in (ROOT / "Dockerfile").read_text().partition("install --directory --owner worker")[2]
    )
    assert services["flower"]["volumes"] == [f"flower:{home[1]}"]
    assert services["flower"]["environment"]["FLOWER_BASIC_AUTH"] == "${FLOWER_BASIC_AUTH:-}"
    assert services["flower"]["ports"] == ["127.0.0.1:5555:5555"]


def test_every_process_of_ours_has_the_plugins_and_the_folder_of_llm(services: dict[str, Any]) -> None:
    """A model that one of them knows, all know: the keys and the files of models are mounted where llm looks."""
    image = (ROOT / "Dockerfile").read_text()
    folder = re.search(r"^ENV LLM_USER_PATH=(\S+)", image, re.MULTILINE)
    assert folder is not None
    assert f"install --directory --owner worker {folder[1]} " in image  # plugins write there
    assert "pip install $LLM_PLUGINS" in image
    for name, service in services.items():
        if "build" in service:
            assert service["build"]["args"] == {"LLM_PLUGINS": "${LLM_PLUGINS:-}"}, name
        if "build" in service and name != "flower":  # which asks no model
            assert [volume.split(":")[-1] for volume in service["volumes"]] == [folder[1]], name


def test_keys_in_the_mounted_folder_are_neither_committed_nor_in_the_image() -> None:
    assert "/llm/" in (ROOT / ".gitignore").read_text().splitlines()
    assert "!llm" not in (ROOT / ".dockerignore").read_text()


def test_the_image_gets_all_that_the_wheel_is_made_of() -> None:
    ignored = (ROOT / ".dockerignore").read_text()
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    wheel = hatch["build"]["targets"]["wheel"]["only-include"]
    for name in [
        *wheel,
        *PROJECT["license-files"],
        "README.md",
        "hatch_build.py",
        "pyproject.toml",
        LOCKS[1],
    ]:
        assert f"\n!{name}\n" in ignored


def test_make_says_in_a_sentence_which_python_it_needs(tmp_path: Path) -> None:
    command = ["make", "lint", "PYTHON=no-such-python", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.startswith("This needs Python 3.11, 3.12 or 3.13, and no-such-python is missing: ")
    assert not (tmp_path / "venv").exists()
