"""How tests share code: through fixtures and modules in `tests/fixtures`, never through each other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MODULES = sorted(TESTS.rglob("*.py"))
each_module = pytest.mark.parametrize(
    "module", MODULES, ids=[str(path.relative_to(TESTS)) for path in MODULES]
)


def imported(source: str) -> Iterator[str]:
    """Full names of everything that the source imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def imported_test_modules(source: str) -> list[str]:
    return [name for name in imported(source) if re.search(r"(^|\.)(test_\w+|conftest)(\.|$)", name)]


@each_module
def test_no_module_imports_from_a_test_module_or_a_conftest(module: Path) -> None:
    assert not imported_test_modules(module.read_text())


@each_module
def test_no_fixture_is_imported_under_a_noqa(module: Path) -> None:
    assert not re.search(r"#\s*noqa: *F(401|811)", module.read_text())


@pytest.mark.parametrize(
    "line",
    [
        "import tests.integration.test_outbox",
        "from tests.integration.test_outbox import Database",
        "from tests.integration import test_outbox",
        "from . import test_outbox",
        "from .conftest import backend",
        "def later():\n    from tests.integration.conftest import backend",
    ],
)
def test_every_way_to_import_a_test_module_is_noticed(line: str) -> None:
    assert imported_test_modules(line)
