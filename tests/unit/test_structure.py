"""Packages import only lower layers, and importing a module starts nothing."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the lowest layer up. A package imports lower layers, and no other package of its own layer.
LAYERS = [
    {
        "settings",
        "worker.application_code",
        "worker.errors",
        "worker.exit_codes",
        "worker.inline_data",
        "worker.keyspace",
        "worker.languages",
        "worker.packing",
        "worker.quoting",
        "worker.reference",
        "worker.words",
    },
    {"worker.search_results"},
    {"worker.results"},
    {"worker.chat_results"},
    {
        "worker.documents",
        "worker.maintenance_results",
        "worker.passages",
        "worker.observability",
        "worker.protocols",
        "worker.sessions",
        "worker.tokens",
    },
    {"worker.chunking", "worker.model_files", "worker.services", "worker.sources"},
    {"worker.configuration", "worker.store"},
    {"worker.backends", "worker.observability.scraping", "worker.recipes"},
    {"worker.index"},
    {"worker.indexing", "worker.models", "worker.search"},
    {"worker.chat"},
    {"worker.wiring"},
    {"worker.celery"},
    {"tasks", "worker.cli"},
]
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
PURE = {
    "celery.argument_summary",
    "celery.liveness",
    "chat.citations",
    "chat.declining",
    "chat.following_up",
    "chat.groundedness",
    "chat.instructions",
    "chat.judging",
    "chat.prompting",
    "chat.reasoning",
    "chat.schemas",
    "chat.widening",
    "chunking",
    "documents",
    "errors",
    "backends.limits",
    "indexing.draining.backoff",
    "indexing.draining.outcomes",
    "packing",
    "passages",
    "indexing.transfer.lines",
    "inline_data",
    "languages",
    "observability.events",
    "observability.logs",
    "observability.metrics",
    "quoting",
    "search.question_cache",
    "search.boosting",
    "search.ranking",
    "sources.scheduling",
    "tokens",
    "words",
}

FILES = sorted([*ROOT.glob("settings.py"), *ROOT.glob("worker/**/*.py"), *ROOT.glob("tasks/**/*.py")])
NAMES = [str(file.relative_to(ROOT)) for file in FILES]
each_file = pytest.mark.parametrize("file", FILES, ids=NAMES)


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str | None:
    """The entry of LAYERS that a module belongs to: itself, or a package above it."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in LAYER_OF), None)


def imported(file: Path) -> Iterator[str]:
    """Modules of this project that the file imports, inside functions too."""
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
def test_models_are_imported_by_llm_only(file: Path) -> None:
    """Only `llm` loads them, like any plugin, so a user's models work the same way."""
    if package_of(module_name(file)) != "worker.models":
        assert "worker.models" not in map(package_of, imported(file))


@each_file
def test_every_module_belongs_to_a_layer(file: Path) -> None:
    assert module_name(file) == "worker" or package_of(module_name(file)), "add the module to LAYERS"


@each_file
def test_imports_go_to_lower_layers_only(file: Path) -> None:
    own = package_of(module_name(file))
    wrong = {
        f"{own} imports {there}"
        for there in map(package_of, imported(file))
        if there is None or own is None or (there != own and LAYER_OF[there] >= LAYER_OF[own])
    }
    assert not wrong


def test_layer_check_sees_every_kind_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above cannot pass because it misses a kind of import."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "worker" / "store" / "queue.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import worker.cli, os\nfrom worker.indexing import staging\nfrom worker.celery.application import app\n"
        "from . import builds\ndef later():\n    from ..chunking import split\n    import tasks.indexing\n"
    )
    assert [package_of(module) for module in imported(file)] == [
        "worker.cli",
        "worker.indexing",
        "worker.celery",
        "worker.store",
        "worker.chunking",
        "tasks",
    ]


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_module_imports_neither_celery_nor_psycopg_nor_llm(module: str) -> None:
    run(
        f"import sys, worker.{module}\n"
        "impure = {'celery', 'kombu', 'llm', 'openai', 'psycopg', 'redis'} & sys.modules.keys()\n"
        "sys.exit(f'brings {sorted(impure)}' if impure else 0)"
    )


def test_importing_everything_starts_nothing() -> None:
    """No thread, child process or connection, and no model file is read."""
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
def test_environment_is_read_in_settings_only(file: Path) -> None:
    """`worker.cli` and `worker.services` may pass the whole environment to a child process."""
    if file.name == "settings.py":
        return
    tree = ast.parse(file.read_text())
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    whole = package_of(module_name(file)) in {"worker.cli", "worker.services"}
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
def test_sql_is_in_the_store_only(file: Path) -> None:
    """Two exceptions: `worker.services` creates the embedded server's database before the store can connect, and
    `worker.sources` wraps an operator's own query for another database.
    """
    if package_of(module_name(file)) == "worker.store":
        return
    allowed = {
        "worker.services": ("SELECT 1", "CREATE DATABASE "),
        "worker.sources": (
            "SELECT source.*{more} FROM (\n{query}\n) AS source {condition} {order} {limit}",
            "SELECT now() AS zoned, localtimestamp AS local, now() AT TIME ZONE 'UTC' AS utc",
            "SELECT format_type(oid, -1) AS name FROM unnest(%s::oid[]) WITH ORDINALITY AS t (oid, at) ORDER BY at",
        ),
    }.get(str(package_of(module_name(file))), ())
    tree = ast.parse(file.read_text())
    prose = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    # examples of settings
    prose |= {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Setting"
        for keyword in node.keywords
        for part in ast.walk(keyword.value)
        if isinstance(part, ast.expr)
    }
    found = [
        f"line {node.lineno}: {node.value[:60]!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose
        if STATEMENT.search(node.value) and node.value not in allowed
    ]
    assert not found


@each_file
def test_module_has_a_domain_name_and_at_most_400_lines(file: Path) -> None:
    assert not re.search(r"(^|_)(utils?|helpers?|common|manager|core)$", file.stem.lower())
    assert len(file.read_text().splitlines()) <= 400, "split the module, or delete code"


def run(code: str) -> None:
    """Run code in a new interpreter without imported modules; fail with its stderr."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
