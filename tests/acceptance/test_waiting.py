"""A command that waits says why, and says on Ctrl-C that the work goes on."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import CHAT, PATIENCE_SECONDS, PROCESSES, VECTOR_INDEX, System, eventually
from worker.indexing.draining.claiming import BUILDS_SECONDS

pytestmark = pytest.mark.slow

SETTINGS = """
CLASS = "worker.backends.llm.LLMEmbeddingBackend"
CONFIG = {{"MODEL_ID": "3-small", "EMBEDDING_OUTPUT_DIMENSIONS": 64}}
VECTOR_INDEX = {{
    "EMBEDDING_BACKENDS": {{
        "default": {{"CLASS": CLASS, "CONFIG": {{"MODEL_ID": "wordllama"}}}},
        "away": {{"CLASS": CLASS, "CONFIG": CONFIG}},
    }},
    "INDEXES": {{"default": {{}}, "away": {{"EMBEDDING_BACKEND": "away", "SOURCE": "docs"}}, "paused": {{}}}},
    "SOURCES": {{"docs": {{"CLASS": "worker.sources.files.FolderSource", "CONFIG": {{"PATHS": ["{folder}"]}}}}}},
}}
"""


@pytest.fixture
def waiting(start_system: Callable[..., Any], tmp_path: Path) -> Iterator[System]:
    """A system whose index `away` has a provider that cannot be reached, and a folder with one text."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("Words.")
    (tmp_path / "ours.py").write_text(SETTINGS.format(folder=tmp_path / "docs"))
    variables = {
        "VECTOR_INDEX_SETTINGS": str(tmp_path / "ours.py"),
        "OPENAI_API_KEY": "geheim",
        "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
    }
    with start_system(tmp_path, {"all": ["worker"]}, **variables) as system:
        yield system


def interrupt(system: System, told: str, *arguments: str) -> str:
    """Run a command until it says why it waits, then press Ctrl-C; return what it prints after that."""
    process = subprocess.Popen(
        [VECTOR_INDEX, *arguments],
        env=dict(system.environment),
        cwd=system.folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("waiting: ")
    assert told in line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    return rest.strip()  # click ends the line of the ^C


def test_commands_say_why_documents_wait_and_that_they_go_on_after_ctrl_c(waiting: System) -> None:
    folder = str(waiting.folder / "docs")
    rest = interrupt(waiting, "the provider does not answer", "index", folder, "--index", "away")
    assert rest == (
        "stopped waiting: the workers go on with 1 document: see `vector-index status`; run it again for the others"
    )
    rest = interrupt(waiting, "the provider does not answer", "reindex", "--index", "away")
    assert rest.startswith("stopped waiting: the workers go on with this run: see `vector-index schedule`")

    waiting.call("tasks.index_documents", documents=[], index="paused")
    assert waiting.command("pause", "--index", "paused").returncode == 0
    time.sleep(BUILDS_SECONDS)  # until then, a worker may still embed for it
    rest = interrupt(
        waiting, "index paused is paused: continue embedding", "index", folder, "--index", "paused"
    )
    assert waiting.command("resume", "--index", "paused").returncode == 0
    eventually(lambda: waiting.call("tasks.status", CHAT, index="paused")["documents"]["live"] == 1)


def test_search_and_ask_tell_an_empty_index_from_one_without_a_match(waiting: System) -> None:
    assert waiting.command("search", "words").stdout == "default holds no documents\n"
    assert waiting.command("ask", "words?").stdout == "The index 'default' holds no documents.\n"
    waiting.call("tasks.index_documents", documents=[{"id": 1, "text": "Words."}])
    assert waiting.command("search", "words", "--filter", '{"a": 1}').stdout == "no results in default\n"
    waiting.send("tasks.index_documents", documents=[{"id": 1, "text": "Words."}], index="away")
    eventually(lambda: waiting.call("tasks.status", CHAT, index="away")["documents"]["pending"])
    found = waiting.command("search", "words", "--mode", "text", "--index", "away").stdout
    assert found == "no results in away, whose documents are 1 pending\n"


def test_index_without_an_embed_worker_says_so(start_system: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("Words.")
    with start_system(tmp_path, PROCESSES) as system:
        system.kill("embed")
        done = system.command("index", str(tmp_path / "a.md"))
    assert "no worker consumes the queue vector_index.embed: start one" in done.stderr
    assert done.returncode == 3
