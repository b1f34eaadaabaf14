"""The reference pages say what the code says, and every example on them works."""

import ast
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import click
import prometheus_client
import pytest
from celery import Celery

import settings
from docs import generate
from docs.generate import command_line, exit_codes, log_events, metrics, sql_functions, streamed_answer, tasks
from docs.generate import errors as errors_page
from docs.generate.settings import SOURCES, arguments_of, fields_of
from worker import errors, results
from worker.celery.application import TASK_EVENTS, TASK_MODULES
from worker.chat.stream import EVENTS, Event
from worker.cli import COMMANDS
from worker.configuration import (
    ChatBackendSettings,
    Configuration,
    EmbeddingBackendSettings,
    IndexSettings,
    RerankBackendSettings,
    SourceSettings,
    layers,
    load,
)
from worker.configuration.messages import key
from worker.errors import SettingsError
from worker.observability import log_events as registry
from worker.observability import scraping
from worker.reference import Setting
from worker.store.status import ScrapedIndex, ScrapedRebuild

ROOT = Path(settings.__file__).parent
SECTIONS: Mapping[str, type] = {
    "EMBEDDING_BACKENDS": EmbeddingBackendSettings,
    "CHAT_BACKENDS": ChatBackendSettings,
    "RERANK_BACKENDS": RerankBackendSettings,
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
    monkeypatch.setattr(
        generate, "PAGES", {name: generate.PAGES[name] for name in ("metrics.md", "tasks.md")}
    )
    assert generate.drifted() == ["metrics.md", "tasks.md"]
    generate.write()
    assert generate.drifted() == []
    (tmp_path / "tasks.md").write_text("another")
    assert generate.drifted() == ["tasks.md"]


@pytest.mark.slow
def test_check_exits_with_0_and_changes_nothing_when_all_pages_are_current() -> None:
    command = [sys.executable, "-m", "docs.generate", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_keys_of_every_json_output_are_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", " ".join(command_line.JSON_KEYS)))
    offered = {
        name
        for name in COMMANDS
        if any("--json" in option.opts for option in command_line.command(name).params)
    }
    assert listed == offered


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
    assert not generate.is_current("command-line.md")


def test_every_command_is_on_the_page() -> None:
    assert re.findall(r"^### (\w+)$", command_line.text(), re.MULTILINE) == list(COMMANDS)


# Tasks


def test_a_task_without_what_a_second_run_does_fails() -> None:
    def grown() -> None:
        """Grow."""

    with pytest.raises(ValueError, match=r"the docstring of tasks\.grown does not say `Second run: \.\.\.`"):
        tasks.entry(task(grown))


def test_an_argument_of_a_task_without_a_description_fails() -> None:
    def grown(new_argument: int = 5) -> None:
        """Grow.

        Second run: grows again.
        """

    with pytest.raises(ValueError, match=r"'new_argument' of tasks\.grown has no description; annotate it"):
        tasks.entry(task(grown))


def test_a_field_of_a_result_without_a_description_fails() -> None:
    class Grown(results.Paused):
        new_field: int

    with pytest.raises(
        ValueError, match="'new_field' of Grown has no description; annotate it with a Meaning"
    ):
        tasks.fields_of(Grown)


def test_every_task_of_the_workers_is_on_the_page() -> None:
    modules = [ROOT / f"{name.replace('.', '/')}.py" for name in TASK_MODULES]
    assert {path.stem for path in modules} == {path.stem for path in ROOT.glob("tasks/*.py")} - {
        "__init__",
        "arguments",
    }
    named = re.findall(r'@app\.task\(\s*name="(tasks\.\w+)"', "".join(path.read_text() for path in modules))
    assert sorted(named) == sorted(re.findall(r"^### (tasks\.\w+)$", tasks.text(), re.MULTILINE))


def test_every_error_that_a_task_names_exists() -> None:
    for found in tasks.found().values():
        named = re.findall(r"\b[A-Z][a-z]+[A-Z]\w+|\bRefused\b", tasks.labels(found).get("Errors", ""))
        assert not [name for name in named if not (hasattr(errors, name) or name == "TaskRevokedError")]


def task(run: Any) -> Any:
    """A task of an app of its own."""
    return Celery(set_as_current=False).task(name="tasks.grown", shared=False)(run)


# Errors


def test_every_error_class_is_on_the_page() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes <= set(re.findall(r"^## (\w+)$", errors_page.text(), re.MULTILINE))


def test_an_error_class_that_does_not_say_what_to_do_fails() -> None:
    with pytest.raises(
        ValueError, match=r"the docstring of Grown does not say what to do: add a paragraph `Do: "
    ):
        errors_page.described("Grown", ["It grew."])


@pytest.mark.parametrize(
    ("code", "messages"),
    [
        ('raise Refused("the provider refuses this")', ["the provider refuses this"]),
        ('raise Refused(f"{model} takes {number:,} tokens: send less")', ["… takes … tokens: send less"]),
        ('raise errors.Refused(GONE)\nGONE = "the index is gone"', ["the index is gone"]),
        ('text = f"there is no {name} here"\nraise Refused(text)', ["there is no … here"]),
        ('raise Refused("take one of these" if some else "or none of them")', ["or none of them", "take one of these"]),
        ('raise Refused("{} is out of range".format(value))', ["… is out of range"]),
        ('class Refused(Exception):\n    def of(cls): return cls("it is refused")', ["it is refused"]),
        ("raise Refused(str(error))", []),
    ],
)  # fmt: skip
def test_a_message_is_found_as_the_code_spells_it(
    code: str, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ast.parse(code)
    monkeypatch.setattr(errors_page, "modules", lambda: {"worker/new.py": module})
    errors_page.constants.cache_clear()
    try:
        assert errors_page.messages_of({"Refused": ["It is refused."]}) == {"Refused": messages}
    finally:
        errors_page.constants.cache_clear()


# Exit codes

UNSEEN = {"worker/sources/calling.py"}  # ends a child of the worker, whose code nobody sees


def test_every_process_ends_with_a_listed_exit_code() -> None:
    """A number in place of a member would be missing on the page."""
    files = {str(path.relative_to(ROOT)): path for path in ROOT.glob("worker/**/*.py")}
    found = [
        f"{name}, line {line}: use a member of ExitCode"
        for name, path in files.items()
        if name not in UNSEEN
        for line in exits_with_a_number(ast.parse(path.read_text()))
    ]
    assert found == []


def exits_with_a_number(module: ast.Module) -> Iterator[int]:
    """The lines on which a process ends, or a command returns, with a number."""
    for node in ast.walk(module):
        values: list[ast.expr | None] = []
        if isinstance(node, ast.Call) and re.search(
            r"(_exit|sys\.exit|SystemExit|exit_with)$", ast.unparse(node.func)
        ):
            values = list(node.args)
        elif isinstance(node, ast.FunctionDef) and "click.command" in " ".join(
            map(ast.unparse, node.decorator_list)
        ):
            values = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
        choices = [[each.body, each.orelse] if isinstance(each, ast.IfExp) else [each] for each in values]
        yield from (
            part.lineno
            for parts in choices
            for part in parts
            if isinstance(part, ast.Constant) and isinstance(part.value, int)
        )


@pytest.mark.parametrize(
    "code",
    [
        "os._exit(7)",
        "raise SystemExit(7)",
        "exit_with(sentence, 7)",
        "@click.command()\ndef grow():\n    return 7 if failed else ExitCode.DONE",
    ],
)
def test_an_exit_with_a_number_is_found(code: str) -> None:
    assert list(exits_with_a_number(ast.parse(code)))


def test_every_exit_code_of_a_help_text_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {(name, code) for name, code, _ in exit_codes.cases()} >= {
        ("verify", 1),
        ("doctor", 2),
        ("doctor", 3),
    }
    monkeypatch.setattr(command_line.command("up").callback, "__doc__", "Start. Exit code 7: it grew.")
    with pytest.raises(ValueError, match="7 is not a valid ExitCode"):
        list(exit_codes.cases())


# SQL functions


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("", r"vector_index\.grow\(text\) has no COMMENT ON FUNCTION"),
        (
            "COMMENT ON FUNCTION vector_index.grow(text) IS 'Grow.';",
            r"argument 'seed' of vector_index\.grow has no ",
        ),
    ],
)
def test_a_new_function_without_a_description_fails(
    statement: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = "CREATE FUNCTION vector_index.grow(seed text) RETURNS void LANGUAGE sql AS 'SELECT 1';\n"
    grown = sql_functions.migrations() + created + statement
    monkeypatch.setattr(sql_functions, "migrations", lambda: grown)
    with pytest.raises(ValueError, match=error):
        sql_functions.text()


def test_a_new_described_function_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    created = (
        "CREATE FUNCTION vector_index.grow(id text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE invalid_parameter_value USING MESSAGE = format('%s isn''t ripe', id); END $$;\n"
        "COMMENT ON FUNCTION vector_index.grow(text) IS 'Grow a document.';"
    )
    grown = sql_functions.migrations() + created
    monkeypatch.setattr(sql_functions, "migrations", lambda: grown)
    page = sql_functions.text()
    assert "## grow\n" in page
    assert "Grow a document." in page
    assert "    vector_index.grow(text)\nTO application" in page
    assert "- … isn't ripe\n" in page


# Log events


@pytest.mark.parametrize(
    ("code", "difference"),
    [
        ('def grow():\n    logger.info("it_grew")', "worker/new.py logs 'it_grew'"),
        ('def grow():\n    logger.error("ready")', "worker/new.py logs 'ready' at level error"),
        (
            'def grow():\n    logger.info("ready", extra=log_fields(height=3))',
            "worker/new.py logs 'ready' with the field 'height'",
        ),
        (
            'def grow():\n    told = log_fields(height=3)\n    logger.info("ready", extra=told)',
            "worker/new.py logs 'ready' with the field 'height'",
        ),
    ],
)
def test_an_event_that_is_not_in_the_registry_fails(
    code: str, difference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = {**log_events.modules(), "worker/new.py": ast.parse(code)}
    monkeypatch.setattr(log_events, "modules", lambda: grown)
    with pytest.raises(
        ValueError, match=f"^worker/observability/log_events.py differs from the code: {difference}$"
    ):
        log_events.text()


def test_every_task_event_of_celery_is_listed() -> None:
    assert set(TASK_EVENTS.values()) <= registry.EVENTS.keys()


# The streamed answer


def test_every_event_that_is_written_is_on_the_page() -> None:
    code = "".join(path.read_text() for path in [*ROOT.glob("worker/chat/*.py"), *ROOT.glob("tasks/*.py")])
    assert set(re.findall(r'\.write\("(\w+)"', code)) == set(EVENTS) == set(get_args(Event))
    assert all(f"\n| `{event}` | " in streamed_answer.text() for event in EVENTS)


def test_an_event_without_a_description_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_answer, "Event", Literal[Event, "new_event"])
    with pytest.raises(ValueError, match=r"EVENTS of worker/chat/stream\.py does not describe new_event"):
        streamed_answer.text()


# Metrics


def test_a_new_metric_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = prometheus_client.Counter("new", "New.", ["index"], namespace="vector_index", registry=None)
    monkeypatch.setattr(metrics, "families", lambda: [grown])
    assert "| `vector_index_new_total` | counter | `index` | New |" in metrics.text()


def test_a_metric_with_an_unknown_label_fails() -> None:
    grown = prometheus_client.Counter("new", "New.", ["colour"], namespace="vector_index", registry=None)
    with pytest.raises(ValueError, match=r"label 'colour' of vector_index_new is not in LABELS of worker/"):
        metrics.rows((metric, ["colour"]) for metric in grown.describe())


def test_a_scrape_serves_the_described_metrics() -> None:
    figures = ScrapedIndex(
        index="a",
        documents={"live": 1},
        oldest_seconds=0.0,
        pending_chunks=0,
        pending_tokens=0,
        paused=False,
        repairs={"queued": 0},
        rebuild=ScrapedRebuild(state="filling", share=0.5, seconds_left=1.0),
    )
    served = [*scraping._indexes(([figures], {"waiting": 0})), scraping._queues({"vector_index": 0})]
    described = {metric.name for metric in scraping.ServiceState("", dict).describe()}
    assert {metric.name for metric in served if metric.samples} | {"vector_index_up"} == described


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
    """With what it needs beside it: a schedule a source, a fallback the entry that it names."""
    cls = SECTIONS[section]
    described = {field: setting for field, setting, _, _ in fields_of(cls)}
    value = value_of(described[name].example)
    entry: dict[str, Any] = {key(cls, name): value}
    if section.endswith("_BACKENDS") and name != "class_path":
        entry = {"CONFIG": entry}
    elif cls is SourceSettings:
        entry = {"CLASS": value_of(described["class_path"].example)} | entry
    elif name == "schedule":
        entry["SOURCE"] = "shop:documents"
    beside: dict[str, Any] = {"RERANK_BACKENDS": {"default": {}}} if name == "rerank_backend" else {}
    named = {value: {"CONFIG": {"MODEL_ID": "other"}}} if name == "fallback" else {}
    assert load({"VECTOR_INDEX": json.dumps({section: {"default": entry, **named}} | beside)})


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
