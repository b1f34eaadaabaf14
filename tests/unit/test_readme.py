"""The README and the docs match the code."""

import ast
import re
from pathlib import Path

import click
import pytest

from settings import VECTOR_INDEX
from worker.celery.application import STATIC
from worker.cli import COMMANDS, cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
each_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def test_readme_has_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150


def test_readme_starts_with_a_complete_run_of_at_most_30_lines() -> None:
    language, run = BLOCKS[0]
    assert language == "console"
    assert run.startswith("$ make demo\n")
    assert len(run.splitlines()) <= 30


@each_page
def test_commands_and_options_on_the_page_exist(page: Path) -> None:
    text = page.read_text()
    for line in re.findall(r"vector-index ((?:[a-z]+|--\w)[^`\n#]*)", " \n".join(_code(text))):
        name, *arguments = line.split()
        assert name in COMMANDS, line
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert {part for part in arguments if part.startswith("--")} <= known | {"--help"}, line


def test_make_targets_in_the_readme_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`(?:\$ )?make ([\w-]+)", README)) <= set(targets)


@each_page
def test_relative_links_on_the_page_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "python"])
def test_python_in_the_readme_parses(code: str) -> None:
    ast.parse(code)


def test_tasks_and_queues_in_the_readme_exist() -> None:
    modules = [(ROOT / f"{name.replace('.', '/')}.py").read_text() for name in _task_modules()]
    tasks = set(re.findall(r'name="(tasks\.\w+)"', "".join(modules)))
    assert set(re.findall(r"`(tasks\.\w+)`", README)) <= tasks
    queues = {queue.name for queue in STATIC["task_queues"]}  # type: ignore[attr-defined]
    assert set(re.findall(r'queue="([\w.]+)"', README)) <= queues


def test_settings_in_the_readme_exist() -> None:
    declared = set(re.findall(r"^([A-Z_]+) = ", (ROOT / "settings.py").read_text(), re.MULTILINE))
    rows = README.partition("## Settings")[2].partition("## Commands")[0]
    named = set(re.findall(r"^\| `([A-Z_`, ]+)` \|", rows, re.MULTILINE))
    assert {name for group in named for name in group.replace("`", "").split(", ")} <= declared
    assert f"`{VECTOR_INDEX['EMBEDDING_BACKENDS']['default']['CONFIG']['MODEL_ID']}`" in rows


def _code(text: str) -> list[str]:
    """The code blocks and code spans of a page."""
    blocks = re.findall(r"^```\w+\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return blocks + re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def _task_modules() -> list[str]:
    from worker.celery.application import TASK_MODULES

    return list(TASK_MODULES)
