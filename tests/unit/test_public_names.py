"""The names that users may import: each public module lists them, and docs/reference/stability.md lists all."""

import ast
import inspect
import re
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest
from click.testing import CliRunner
from hatchling.builders.wheel import WheelBuilder

from worker import errors
from worker.cli import cli

ROOT = Path(__file__).parents[2]
STABILITY = (ROOT / "docs/reference/stability.md").read_text()
DOCUMENTED = {
    module: re.findall(r"`(\w+)`", names)
    for module, names in re.findall(r"^\| `(worker[\w.]*)` \| (.*) \|$", STABILITY, re.MULTILINE)
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("module", DOCUMENTED)
def test_a_public_module_lists_the_names_of_the_page(module: str) -> None:
    imported = import_module(module)
    assert sorted(imported.__all__) == sorted(DOCUMENTED[module])
    assert all(hasattr(imported, name) for name in imported.__all__)


def test_every_error_is_public() -> None:
    """An application sees the class names, and a backend raises the classes."""
    defined = [name for name, member in vars(errors).items() if inspect.isclass(member)]
    assert sorted(errors.__all__) == sorted(defined)


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*.py")), ids=lambda path: path.name)
def test_examples_import_public_names_only(example: Path) -> None:
    for node in ast.walk(ast.parse(example.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("worker", "tasks"):
            assert {alias.name for alias in node.names} <= set(DOCUMENTED.get(node.module or "", ()))


def test_classes_that_settings_name_are_public() -> None:
    pages = [*ROOT.glob("docs/**/*.md"), ROOT / "settings.py", *ROOT.glob("examples/*.py")]
    named = {path for page in pages for path in re.findall(r'"CLASS": "(worker\.[\w.]+)"', page.read_text())}
    assert named
    for path in named:
        module, _, name = path.rpartition(".")
        assert name in DOCUMENTED[module], path


def test_the_wheel_has_types_for_users(tmp_path: Path) -> None:
    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    assert "worker/py.typed" in ZipFile(wheel).namelist()


def test_the_version_comes_from_one_place() -> None:
    """pyproject.toml; the changelog begins with it."""
    assert version(PROJECT["name"]) == PROJECT["version"]
    assert CliRunner().invoke(cli, ["--version"]).output.split()[-1] == PROJECT["version"]
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["version"]
    code = [path for folder in ("worker", "tasks", "docs") for path in ROOT.glob(f"{folder}/**/*.py")]
    assert not [path for path in code if f'"{PROJECT["version"]}"' in path.read_text()]
