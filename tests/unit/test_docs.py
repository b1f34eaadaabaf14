"""The pages cannot drift from the code: links, commands, settings, tasks and Python in them exist."""

import ast
import inspect
import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest

from hatch_build import with_links
from worker.celery.application import TASK_MODULES
from worker.cli import COMMANDS, cli
from worker.configuration.layers import CELERY_NAMES, FOREIGN, SCALARS, SECTIONS
from worker.configuration.messages import fields_by_key
from worker.configuration.objects import ChatBackendSettings, EmbeddingBackendSettings, IndexSettings
from worker.sources.callable import CallableSource
from worker.sources.files import FolderSource
from worker.sources.sql import SQLSource

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])

FENCE = re.compile(r"^[ \t]*```(\w*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:^|\s)vector-index ((?:[a-z]+|--?\w).*)$")
CODE = ("worker", "tasks", "examples", "benchmarks", "grafana", "tests/fixtures")
SHELLS = ("sh", "console", "ini")

# Capitals in backticks that are no settings of ours.
OTHERS = re.compile(
    r"(OPENAI|LLM|FLOWER|DJANGO|OLLAMA|PYTHON|POSTGRES|VALKEY|CELERY|PG|VECTOR_INDEX_PROGRAM|APP$)\w*"
    r"|DEFAULT_PARAMETERS|INSTALLED_APPS|WAGTAIL_VECTOR_INDEX_STORAGE_PROVIDERS|TEST_DATABASE_URL|TEST_BROKER_URL"
    r"|SELECT|INSERT|UPDATE|DELETE|TRUNCATE|COPY|COMMIT|NULL|DISTINCT|LIMIT|NOTIFY|LISTEN|DEFERRABLE|EXPLAIN|VACUUM|NOTICE"
    r"|STAGING|EMBED|CHAT|STARTED|PENDING|PROGRESS|SUCCESS|FAILURE|RETRY|REVOKED|SIGTERM|SIGKILL|SIGSTOP|SIGINT|SIGHUP"
    r"|EVAL|BLMOVE|BRPOP|HDEL|ZREM|DEL|LLEN|HNSW|FLUSHALL|README|CHANGELOG|CONTRIBUTING|ENTRYPOINT|UTC|UUID"
)


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and code."""
    return FENCE.findall(text)


def spans(text: str) -> list[str]:
    """The code spans of a page, outside of its blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def functions(code: str) -> dict[str, str]:
    """The functions of a file, as code without annotations and docstrings."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            if ast.get_docstring(node) is not None:
                del node.body[0]
    return {
        node.name: ast.unparse(node)
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def command_lines(text: str) -> list[str]:
    """The arguments of each `vector-index` that a shell block runs."""
    lines = "\n".join(code for language, code in blocks(text) if language in SHELLS).splitlines()
    return [
        found[1].strip()
        for line in lines
        if (found := COMMAND.search(line.removeprefix("$ ").partition("  #")[0].partition(" > ")[0]))
    ]


@each_page
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(there.resolve()), f"{target}: no such heading"


@each_page
def test_every_python_block_compiles(page: Path) -> None:
    for language, code in blocks(page.read_text()):
        if language == "python":
            ast.parse(code)


@each_page
def test_functions_shown_from_an_example_are_those_of_the_example(page: Path) -> None:
    """A page that links to a Python file in examples/ may show some of its functions, without their annotations."""
    text = page.read_text()
    linked = {name for target in LINK.findall(text) if (name := Path(target).name).endswith(".py")}
    examples = {path for path in ROOT.glob("examples/*.py") if path.name in linked}
    theirs = {name: code for path in examples for name, code in functions(path.read_text()).items()}
    shown = {
        name: code
        for language, block in blocks(text)
        if language == "python"
        for name, code in functions(block).items()
    }
    for name in shown.keys() & theirs.keys():
        assert shown[name] == theirs[name], f"{name} differs from the example"


@each_page
def test_every_command_line_parses(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.jsonl").touch()  # which `eval` looks for while it parses
    for line in command_lines(page.read_text()):
        name, *arguments = shlex.split(line, comments=True)
        if not name.startswith("-"):
            _command(name).make_context(name, arguments)  # raises for what the command does not take


@each_page
def test_every_command_in_prose_exists_with_its_options(page: Path) -> None:
    for span in spans(page.read_text()):
        if found := re.search(r"vector-index ([a-z]+)(.*)", span):
            known = {option for parameter in _command(found[1]).params for option in parameter.opts}
            assert set(re.findall(r"(?<!\S)--[\w-]+", found[2])) <= known | {"--help"}, span


@each_page
def test_every_setting_exists(page: Path) -> None:
    named = {span for span in spans(page.read_text()) if re.fullmatch(r"[A-Z][A-Z_]{2,}", span)}
    unknown = {name for name in named - known_settings() if not OTHERS.fullmatch(name)}
    assert not unknown


@each_page
def test_every_task_exists(page: Path) -> None:
    modules = [(ROOT / f"{name.replace('.', '/')}.py").read_text() for name in TASK_MODULES]
    tasks = set(re.findall(r'name="(tasks\.\w+)"', "".join(modules)))
    text = page.read_text()
    sent = re.findall(r'(?:send_task|signature|call|send)\(\s*"(tasks\.\w+)"', text)
    assert {span for span in spans(text) if re.fullmatch(r"tasks\.(?!py$)\w+", span)} | set(sent) <= tasks


@each_page
def test_every_path_of_the_repository_in_a_page_exists(page: Path) -> None:
    named = [span for span in spans(page.read_text()) if re.fullmatch(r"[.\w/-]+", span)]
    own = [
        name
        for name in named
        if re.match(r"(worker|tasks|tests|docs|examples|benchmarks|\.ci|\.github)/", name)
    ]
    assert not [name for name in own if not (ROOT / name).exists()]


def test_every_page_that_the_code_names_exists() -> None:
    files = [*ROOT.glob("*.*"), *(path for name in CODE for path in ROOT.glob(f"{name}/**/*.*"))]
    texts = [path.read_text() for path in files if path.suffix in (".py", ".sql", ".toml", ".yml", ".json")]
    named = {name for text in texts for name in re.findall(r"\bdocs/[\w/-]+\.md", text)}
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs/index.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(index.read_text())
    }
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} <= linked | {index}


def test_the_checks_above_see_a_command_a_link_and_an_anchor(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# What is it?\n\n[a](b.md#c)\n\n```sh\nX=1 vector-index up --json   # it runs\n```\n")
    assert command_lines(page.read_text()) == ["up --json"]
    assert LINK.findall(page.read_text()) == ["b.md#c"]
    assert anchors(page) == {"what-is-it"}


def test_a_package_index_shows_no_relative_link() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "(`docs/get-started.md`)" in with_links(readme, "")
    with_source = with_links(readme, "https://example.org/project")
    assert "(https://example.org/project/blob/main/docs/get-started.md)" in with_source
    assert "(https://example.org/project/raw/main/docs/images/status-watch.png)" in with_source
    for text in (with_links(readme, ""), with_source):
        assert not [target for target in LINK.findall(text) if not target.startswith("https://")]


@cache
def known_settings() -> set[str]:
    classes = (EmbeddingBackendSettings, ChatBackendSettings, IndexSettings)
    sources = (SQLSource, FolderSource, CallableSource)
    own = {key for cls in classes for key in fields_by_key(cls)}
    config = {name.upper() for source in sources for name in inspect.signature(source).parameters}
    top = {*SCALARS, *CELERY_NAMES, *FOREIGN, *SECTIONS, "VECTOR_INDEX", "VECTOR_INDEX_SETTINGS"}
    return (
        own
        | config
        | top
        | {"CLASS", "CONFIG", "EMBEDDING_BACKEND", "CHAT_BACKEND", "CHUNK_OVERLAP_CHARACTERS"}
    )


def _command(name: str) -> click.Command:
    assert name in COMMANDS, f"there is no command {name!r}"
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command
