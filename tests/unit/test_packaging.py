"""The locks, the image and the compose file agree with the project and its tests."""

import re
import subprocess
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from worker.celery.upstream.registry import CHANGES
from worker.cli import cli
from worker.configuration.layers import SCALARS

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
    """The entries of a lock, `name==version` with marker, and the hashes of each."""
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
def test_lock_pins_every_package_by_hash_without_urls(lock: str) -> None:
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
def test_lock_satisfies_the_requirements_of_the_project(lock: str, extras: list[str]) -> None:
    """Fails after a change of pyproject.toml without `make lock`. Small locks extend the first one."""
    versions: dict[str, list[str]] = {}
    for pin in map(Requirement, [*locked(lock), *(locked(LOCKS[0]) if lock in LOCKS[2:] else [])]):
        versions.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    for requirement in required(*extras):
        found = versions.get(canonicalize_name(requirement.name), [])
        assert found, f"{requirement} is not in {lock}: run make lock"
        assert all(requirement.specifier.contains(version) for version in found), f"{requirement} and {found}"


@pytest.mark.parametrize("library", sorted({change.library for change in CHANGES}))
def test_a_changed_library_is_pinned_to_its_tested_minor_version(library: str) -> None:
    """The next minor version may rename what a change replaces, and messages would be lost without a word."""
    [pin] = [requirement for requirement in required("flower") if requirement.name == library]
    tested = Version({change.verified for change in CHANGES if change.library == library}.pop())
    assert pin.specifier.contains(tested)
    assert not pin.specifier.contains(f"{tested.major}.{tested.minor + 1}.0")


def test_image_has_the_tested_versions() -> None:
    tested = locked(LOCKS[0])
    assert {head.partition(" ")[0] for head in locked(LOCKS[1])} <= {
        head.partition(" ")[0] for head in tested
    }


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


def test_compose_file_runs_existing_commands(services: dict[str, Any]) -> None:
    assert "vector-index" in PROJECT["scripts"]
    assert 'ENTRYPOINT ["vector-index"]' in (ROOT / "Dockerfile").read_text()
    ours = {name: service["command"] for name, service in services.items() if "build" in service}
    assert sorted(ours) == ["beat", "chat", "embed", "flower", "staging"]
    for name, *arguments in ours.values():
        command = cli.get_command(cli.make_context("vector-index", [], resilient_parsing=True), name)
        assert command is not None, name
        command.make_context(name, list(arguments))  # raises for an unknown option


def test_compose_checks_liveness_of_workers_and_readiness_of_the_system(
    services: dict[str, Any],
) -> None:
    checks = {name: service["healthcheck"] for name, service in services.items() if "build" in service}
    assert checks.pop("flower") == {"disable": True}
    asked = {name: check["test"] for name, check in checks.items()}
    live, ready = ["CMD", "vector-index", "live"], ["CMD", "vector-index", "ready"]
    assert asked == {"beat": ready, "chat": live, "embed": live, "staging": live}


def test_compose_has_a_worker_pool_for_each_queue(services: dict[str, Any]) -> None:
    """A backlog in one queue must not delay another."""
    commands = [service["command"] for service in services.values() if "build" in service]
    assert {command[2] for command in commands if command[0] == "worker"} == {"staging", "embed", "chat"}


def test_compose_file_has_no_password_and_publishes_loopback_ports_only(
    services: dict[str, Any],
) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{\w+PASSWORD(..)", text)) == {":?"}
    assert all(
        port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", [])
    )


def test_compose_stores_the_flower_password_in_a_writable_volume(services: dict[str, Any]) -> None:
    """With an empty FLOWER_BASIC_AUTH, Flower creates a password at its first start and prints it once."""
    home = re.search(r"^ENV .*VECTOR_INDEX_HOME=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert home is not None
    assert (
        f" {home[1]}\n"
        in (ROOT / "Dockerfile").read_text().partition("install --directory --owner worker")[2]
    )
    assert f"flower:{home[1]}" in services["flower"]["volumes"]
    assert services["flower"]["environment"]["FLOWER_BASIC_AUTH"] == "${FLOWER_BASIC_AUTH:-}"
    assert services["flower"]["ports"] == ["127.0.0.1:5555:5555"]


def test_every_compose_service_has_the_llm_plugins_and_folder(services: dict[str, Any]) -> None:
    """All services must know the same models, so keys and model files are mounted where llm looks."""
    image = (ROOT / "Dockerfile").read_text()
    folder = re.search(r"^ENV LLM_USER_PATH=(\S+)", image, re.MULTILINE)
    assert folder is not None
    assert f"install --directory --owner worker {folder[1]} " in image  # plugins write to it
    assert "pip install $LLM_PLUGINS" in image
    for name, service in services.items():
        if "build" in service:
            assert service["build"]["args"] == {"LLM_PLUGINS": "${LLM_PLUGINS:-}"}, name
        if "build" in service and name != "flower":  # flower calls no model
            assert folder[1] in [volume.split(":")[-1] for volume in service["volumes"]], name


# The compose file sets these itself: addresses of its services, and folders of the image.
FIXED = {"DATABASE_URL", "BROKER_URL", "METRICS_ADDRESS", "VECTOR_INDEX_HOME"}


def test_compose_passes_every_setting_and_variable_to_every_process(services: dict[str, Any]) -> None:
    """By name, from the shell or `.env`; and all of `.env`, which Compose reads in every command."""
    settings = {*SCALARS, "VECTOR_INDEX", "VECTOR_INDEX_SETTINGS"}
    for name, service in services.items():
        if "build" in service:
            environment = service["environment"]
            assert settings <= environment.keys(), name
            assert {key for key in settings if environment[key] is not None} == FIXED, name
            assert service["env_file"] == [{"path": ".env", "required": False}], name


def test_compose_mounts_a_settings_file_into_every_process(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if "build" in service:
            assert "${SETTINGS_FOLDER:-./settings}:/settings:ro" in service["volumes"], name
    assert "/settings/" in (ROOT / "docs/operate/deploy.md").read_text()


def test_example_of_the_env_file_names_what_compose_asks_for(services: dict[str, Any]) -> None:
    example = (ROOT / ".env.example").read_text()
    named = dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE))
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert asked <= named.keys()
    assert named.keys() - asked <= services["embed"]["environment"].keys()
    assert {name: value for name, value in named.items() if name.endswith("PASSWORD")} == {
        "POSTGRES_PASSWORD": "",
        "VALKEY_PASSWORD": "",
    }
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()
    assert "!.env" not in (ROOT / ".dockerignore").read_text()


def test_documented_scrape_meets_every_replica_of_a_compose_service(services: dict[str, Any]) -> None:
    """A static target is one address, while a service with several replicas has several."""
    text = (ROOT / "docs/how-to/monitoring.md").read_text()
    (block,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "scrape" in block]
    (job,) = yaml.safe_load(block)["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    workers = {name for name, service in services.items() if service.get("command", [""])[0] == "worker"}
    assert (set(found["names"]), found["type"]) == (workers, "A")
    assert "static_configs" not in job


def test_git_and_the_image_ignore_keys_of_the_llm_folder() -> None:
    assert "/llm/" in (ROOT / ".gitignore").read_text().splitlines()
    assert "!llm" not in (ROOT / ".dockerignore").read_text()


def test_image_context_has_every_file_of_the_wheel() -> None:
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


def test_make_names_the_python_versions_that_it_needs(tmp_path: Path) -> None:
    command = ["make", "lint", "PYTHON=no-such-python", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.startswith("This needs Python 3.11, 3.12 or 3.13, and no-such-python is missing: ")
    assert not (tmp_path / "venv").exists()


def test_systemd_unit_starts_at_boot_and_runs_an_existing_command() -> None:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read_string((ROOT / "examples/vector-index.service").read_text())
    assert unit["Install"]["WantedBy"] == "multi-user.target"
    program, name, *arguments = unit["Service"]["ExecStart"].split()
    assert program.startswith("/")
    command = cli.get_command(cli.make_context("vector-index", [], resilient_parsing=True), name)
    assert command is not None
    command.make_context(name, arguments)
    assert unit["Service"]["Environment"] == f"VECTOR_INDEX_HOME=/var/lib/{unit['Service']['StateDirectory']}"
    shown = re.search(r"```ini\n(.*?)```", (ROOT / "docs/operate/deploy.md").read_text(), re.DOTALL)
    assert shown is not None
    assert (ROOT / "examples/vector-index.service").read_text().endswith(shown[1])


def test_kubernetes_probes_have_the_right_form_and_time_enough() -> None:
    """`exec` is an object with `command`. Each check starts a Python, which takes longer than the default second."""
    pages = [page.read_text() for page in ROOT.glob("docs/**/*.md")]
    blocks = [block for text in pages for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    containers = [
        container for block in blocks if "Probe" in block for container in yaml.safe_load(block)["containers"]
    ]
    assert containers
    for container in containers:
        name, *arguments = container["args"]
        command = cli.get_command(cli.make_context("vector-index", [], resilient_parsing=True), name)
        assert command is not None
        command.make_context(name, arguments)
        probes = [probe for key, probe in container.items() if key.endswith("Probe")]
        assert len(probes) == 2
        for probe in probes:
            assert probe["exec"]["command"][0] == "vector-index"
            assert probe["exec"]["command"][1] in ("live", "ready")
            assert probe["timeoutSeconds"] >= 10
    assert not any("exec: [" in text for text in pages)
