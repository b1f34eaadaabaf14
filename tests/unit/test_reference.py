"""The reference pages say what the code says, and every example on them works."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import click
import pytest

import settings
from docs import generate
from docs.generate import command_line
from docs.generate.settings import SOURCES, arguments_of, fields_of
from worker.cli import COMMANDS
from worker.configuration import (
    ChatBackendSettings,
    Configuration,
    EmbeddingBackendSettings,
    IndexSettings,
    SourceSettings,
    layers,
    load,
)
from worker.configuration.messages import key
from worker.errors import SettingsError
from worker.reference import Setting

ROOT = Path(settings.__file__).parent
SECTIONS: Mapping[str, type] = {
    "EMBEDDING_BACKENDS": EmbeddingBackendSettings,
    "CHAT_BACKENDS": ChatBackendSettings,
    "INDEXES": IndexSettings,
    "SOURCES": SourceSettings,
}
PAGE = generate.PAGES["settings.md"]()


@pytest.mark.parametrize("name", generate.PAGES)
def test_each_page_equals_what_the_code_says(name: str) -> None:
    assert generate.is_current(name), (
        f"docs/reference/{name} differs from the code: run `make docs`, commit it"
    )


def test_check_names_the_page_that_drifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    assert generate.drifted() == list(generate.PAGES)
    generate.write()
    assert generate.drifted() == []
    (tmp_path / "settings.md").write_text("another")
    assert generate.drifted() == ["settings.md"]


def test_check_exits_with_0_and_changes_nothing_when_all_pages_are_current() -> None:
    command = [sys.executable, "-m", "docs.generate", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_field_without_a_description_fails() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Grown(EmbeddingBackendSettings):
        new_key: int = 5

    with pytest.raises(ValueError, match="'new_key' of Grown has no description; annotate it with a Setting"):
        list(fields_of(Grown))


def test_an_argument_of_a_source_without_a_description_fails() -> None:
    class Grown:
        def __init__(self, *, new_key: int = 5) -> None: ...

    with pytest.raises(ValueError, match="'new_key' of Grown has no description"):
        list(arguments_of(Grown))


def test_a_described_argument_is_listed_with_its_default() -> None:
    class Grown:
        def __init__(self, *, new_key: Annotated[int, Setting(meaning="New.", example="6")] = 5) -> None: ...

    [(name, setting, _, default)] = arguments_of(Grown)
    assert (name, setting.example, default) == ("new_key", "6", 5)


def test_every_name_of_the_shipped_settings_is_on_the_page() -> None:
    names = {name for name in vars(settings) if name.isupper()} | {layers.OVERRIDE}
    assert names <= set(re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE))
    assert names == {*layers.SCALARS, "VECTOR_INDEX", layers.OVERRIDE}


def test_every_key_of_a_section_is_on_the_page() -> None:
    for cls in SECTIONS.values():
        for field in dataclasses.fields(cls):
            assert field.name == "name" or f"### `{key(cls, field.name)}`" in PAGE


# The command line


def test_a_new_option_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = click.Option(["--new-option"], help="Do something new.")
    monkeypatch.setattr(command_line.command("up"), "params", [*command_line.command("up").params, grown])
    assert re.search(r"--new-option TEXT +Do something new\.", command_line.text())
    assert generate.drifted() == ["command-line.md"]


def test_every_command_is_on_the_page() -> None:
    assert re.findall(r"^### (\w+)$", command_line.text(), re.MULTILINE) == list(COMMANDS)


# The examples of the settings


@pytest.mark.parametrize("name", list(layers.SCALARS))
def test_the_example_of_a_setting_loads(name: str) -> None:
    described = {key(Configuration, field): setting for field, setting, _, _ in fields_of(Configuration)}
    example = {**described, **layers.DESCRIPTIONS}[name].example
    assert load({name: str(value_of(example))})


def test_the_example_of_vector_index_loads() -> None:
    assert load({"VECTOR_INDEX": json.dumps(value_of(layers.DESCRIPTIONS["VECTOR_INDEX"].example))})


@pytest.mark.parametrize(
    ("section", "name"), [(name, field[0]) for name, cls in SECTIONS.items() for field in fields_of(cls)]
)
def test_the_example_of_a_key_loads(section: str, name: str) -> None:
    """With what it needs beside it: a schedule a source, a batch limit a token limit."""
    cls = SECTIONS[section]
    described = {field: setting for field, setting, _, _ in fields_of(cls)}
    value = value_of(described[name].example)
    entry: dict[str, Any] = {key(cls, name): value}
    if cls in (EmbeddingBackendSettings, ChatBackendSettings) and name != "class_path":
        entry = {"CONFIG": entry}
    elif cls is SourceSettings:
        entry = {"CLASS": value_of(described["class_path"].example)} | entry
    elif name == "schedule":
        entry["SOURCE"] = "shop:documents"
    assert load({"VECTOR_INDEX": json.dumps({section: {"default": entry}})})


@pytest.mark.parametrize("cls", SOURCES)
def test_the_examples_of_a_source_make_one(cls: type) -> None:
    assert cls(**{name: value_of(setting.example) for name, setting, _, _ in arguments_of(cls)})


@pytest.mark.parametrize("code", re.findall(r"^```python\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL))
def test_the_settings_files_of_the_page_load(code: str, tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text(code)
    assert load({"VECTOR_INDEX_SETTINGS": str(tmp_path / "ours.py")})


def test_the_mistake_of_the_page_has_the_sentence_of_the_page() -> None:
    entry = {"default": {"CONFIG": {"TOKEN_LIMIT": 0}}}
    with pytest.raises(SettingsError) as caught:
        load({"VECTOR_INDEX": json.dumps({"EMBEDDING_BACKENDS": entry})})
    assert f"```text\n{caught.value}\n```" in PAGE


def value_of(example: str) -> Any:
    return eval(example, {}, {})
