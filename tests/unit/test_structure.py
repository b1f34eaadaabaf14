"""The house: five floors, each using only what stands below it, and nothing that starts by being imported."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the ground up. A room imports the floors below it and no room of its own floor.
FLOORS = [
    {"settings", "worker.errors", "worker.keyspace"},
    {"worker.documents", "worker.observability", "worker.protocols", "worker.tokens"},
    {"worker.chunking", "worker.services", "worker.sources"},
    {"worker.configuration", "worker.store"},
    {"worker.backends", "worker.observability.scraping", "worker.recipes"},
    {"worker.index"},
    {"worker.indexing", "worker.models", "worker.search"},
    {"worker.chat"},
    {"worker.wiring"},
    {"worker.celery"},
    {"tasks", "worker.cli"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PURE = {
    "celery.argument_summary",
    "celery.liveness",
    "chat.prompting",
    "chunking",
    "documents",
    "errors",
    "backends.limits",
    "indexing.packing",
    "observability.events",
    "observability.logs",
    "observability.metrics",
    "search.ranking",
    "sources.scheduling",
    "tokens",
}

FILES = sorted([*ROOT.glob("settings.py"), *ROOT.glob("worker/**/*.py"), *ROOT.glob("tasks/**/*.py")])
NAMES = [str(file.relative_to(ROOT)) for file in FILES]
each_file = pytest.mark.parametrize("file", FILES, ids=NAMES)


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str | None:
    """The room that a module of ours stands in: itself, or the package above it."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in FLOOR_OF), None)


def imported(file: Path) -> Iterator[str]:
    """Modules of ours that a file imports anywhere, inside functions too."""
    name = module_name(file)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found = [
                f"{base}.{alias.name}" for alias in node.names
            ]  # a module of the package, or a name in it
        else:
            continue
        # `worker` alone is the package, which is empty
        ours = {"settings", "worker", "tasks"}
        yield from (module for module in found if module.split(".")[0] in ours and module != "worker")


@each_file
def test_our_models_are_reached_by_llm_alone(file: Path) -> None:
    """As any plugin: what works for ours works for a user's."""
    if room(module_name(file)) != "worker.models":
        assert "worker.models" not in map(room, imported(file))


@each_file
def test_every_module_stands_in_a_room_of_a_floor(file: Path) -> None:
    assert module_name(file) == "worker" or room(module_name(file)), (
        "add it to FLOORS, and say so in the design"
    )


@each_file
def test_imports_go_down_and_never_to_a_room_of_the_same_floor(file: Path) -> None:
    here = room(module_name(file))
    wrong = {
        f"{here} imports {there}"
        for there in map(room, imported(file))
        if there is None or here is None or (there != here and FLOOR_OF[there] >= FLOOR_OF[here])
    }
    assert not wrong


def test_the_rule_above_sees_every_kind_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a file with each, the check names them all: it cannot pass by being blind."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "worker" / "store" / "queue.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import worker.cli, os\nfrom worker.indexing import staging\nfrom worker.celery.application import app\n"
        "from . import builds\ndef later():\n    from ..chunking import split\n    import tasks.indexing\n"
    )
    assert [room(module) for module in imported(file)] == [
        "worker.cli",
        "worker.indexing",
        "worker.celery",
        "worker.store",
        "worker.chunking",
        "tasks",
    ]


@pytest.mark.parametrize("module", sorted(PURE))
def test_a_pure_module_brings_neither_celery_nor_psycopg_nor_llm_with_it(module: str) -> None:
    run(
        f"import sys, worker.{module}\n"
        "impure = {'celery', 'kombu', 'llm', 'openai', 'psycopg', 'redis'} & sys.modules.keys()\n"
        "sys.exit(f'brings {sorted(impure)}' if impure else 0)"
    )


def test_importing_everything_starts_nothing() -> None:
    """No thread, child process, connection or model file: a process decides when it starts them."""
    run(
        f"""
import importlib, sys, threading
started = []
def watch(event, arguments):
    if event in ('socket.connect', 'subprocess.Popen', 'os.fork', 'os.posix_spawn', 'os.system'):
        started.append((event, arguments))
    elif event == 'open' and str(arguments[0]).endswith(('.safetensors', '.tiktoken.gz', '.bpe')):
        started.append((event, arguments))
sys.addaudithook(watch)
for name in {[module_name(file) for file in FILES if file.name != "__main__.py"]!r}:
    importlib.import_module(name)
if threading.active_count() > 1 or started:
    sys.exit(f'{{threading.enumerate()}} {{started}}')
"""
    )


@each_file
def test_the_environment_is_read_only_in_settings(file: Path) -> None:
    """`worker.cli` and `worker.services` may hand the whole of it to a child process, naming nothing in it."""
    if file.name == "settings.py":
        return
    tree = ast.parse(file.read_text())
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    whole = room(module_name(file)) in {"worker.cli", "worker.services"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            assert not {"environ", "getenv"} & {alias.name for alias in node.names}, f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}:
            user = parents[node]
            named = isinstance(user, (ast.Subscript, ast.Compare)) or (
                isinstance(user, ast.Attribute) and user.attr in {"get", "pop", "setdefault", "__getitem__"}
            )
            handed_on = whole and node.attr == "environ" and not named
            assert handed_on, f"line {node.lineno} reads the environment"


STATEMENT = re.compile(
    r"\b(SELECT\s.+\sFROM|SELECT\s+(\w+\(|1)|INSERT\s+INTO|DELETE\s+FROM|UPDATE\s+\S+\s+SET|"
    r"(CREATE|ALTER|DROP)\s+(TABLE|INDEX|SCHEMA|DATABASE|EXTENSION|FUNCTION|ROLE))\b",
    re.DOTALL,
)


@each_file
def test_sql_stands_only_in_the_store(file: Path) -> None:
    """But for making the embedded server's own database, which must stand before the store can connect, and for the
    frame around an operator's own query and the names of its types, which come from another database.
    """
    if room(module_name(file)) == "worker.store":
        return
    allowed = {
        "worker.services": ("SELECT 1", "CREATE DATABASE "),
        "worker.sources": (
            "SELECT source.*{more} FROM (\n{query}\n) AS source {condition} {order} {limit}",
            "SELECT format_type(oid, -1) AS name FROM unnest(%s::oid[]) WITH ORDINALITY AS t (oid, at) ORDER BY at",
        ),
    }.get(str(room(module_name(file))), ())
    tree = ast.parse(file.read_text())
    prose = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = [
        f"line {node.lineno}: {node.value[:60]!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose
        if STATEMENT.search(node.value) and node.value not in allowed
    ]
    assert not found


@each_file
def test_a_module_has_a_name_of_the_domain_and_a_size_to_read_at_once(file: Path) -> None:
    assert not re.search(r"(^|_)(utils?|helpers?|common|manager|core)$", file.stem.lower())
    assert len(file.read_text().splitlines()) <= 400, "make it a package, or find what can go"


def run(code: str) -> None:
    """Run it in a new interpreter, where nothing is imported yet; what it prints to stderr is the failure."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
