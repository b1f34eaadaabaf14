"""Maintenance commands and tasks against running workers, as an operator and an application use them."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import CHAT, PATIENCE_SECONDS, VECTOR_INDEX, System, eventually
from tests.provider import Provider

pytestmark = pytest.mark.slow

SETTINGS = """
LLM = "worker.backends.llm.LLMEmbeddingBackend"
VECTOR_INDEX = {
    "EMBEDDING_BACKENDS": {
        "default": {"CLASS": LLM, "CONFIG": {"MODEL_ID": "wordllama"}},
        "picky": {"CLASS": "our_source.Picky", "CONFIG": {"MODEL_ID": "wordllama"}},
    },
    "INDEXES": {
        "default": {"SOURCE": "docs"},
        "broken": {"SOURCE": "mine"},
        "refused": {"EMBEDDING_BACKEND": "picky"},
        "plain": {},
    },
    "SOURCES": {
        "docs": {"CLASS": "worker.sources.files.FolderSource", "CONFIG": {"PATHS": [FOLDER]}},
        "mine": {"CLASS": "our_source.Broken", "CONFIG": {"AFTER": 3}},
    },
}
"""

OURS = """
from worker.backends.llm import LLMEmbeddingBackend
from worker.errors import Refused


class Picky(LLMEmbeddingBackend):
    def embed(self, texts):
        if any("poison" in text for text in texts):
            raise Refused("not this one")
        return super().embed(texts)


class Broken:
    def __init__(self, *, after):
        self.after = after

    def documents(self):
        for number in range(self.after):
            yield {"id": number, "text": f"Document {number}."}
        raise ConnectionError("it is gone")
"""


@pytest.fixture(scope="module")
def reader(start_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Start one worker for all queues, an index whose source is a folder, and one whose source fails."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "docs").mkdir()
    (folder / "ours.py").write_text(f"FOLDER = {str(folder / 'docs')!r}\n{SETTINGS}")
    (folder / "our_source.py").write_text(OURS)
    worker = {"all": ["worker"]}
    with start_system(folder, worker, VECTOR_INDEX_SETTINGS=str(folder / "ours.py")) as system:
        yield system


@pytest.fixture
def docs(reader: System) -> Path:
    """Return the source folder, with four texts that are indexed."""
    for name in ("cats", "dogs", "ships", "trees"):
        (reader.folder / f"docs/{name}.md").write_text(f"# {name}\n\nThis is about {name}.\n")
    assert reader.command("reindex", "--allow-shrink").returncode == 0
    return reader.folder / "docs"


def test_reindex_syncs_the_index_with_a_folder(reader: System, docs: Path) -> None:
    (docs / "cats.md").unlink()
    (docs / "dogs.md").write_text("# dogs\n\nThis is about wolves.\n")
    done = reader.command("reindex", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["indexed"], result["unchanged"], result["deleted"]) == (0, 1, 2, 1)
    assert reader.call("tasks.search", CHAT, query="wolves", limit=1)[0]["document_id"] == "dogs.md"


def test_reindex_of_an_emptied_folder_warns_and_exits_1(reader: System, docs: Path) -> None:
    for file in docs.iterdir():
        file.unlink()
    done = reader.command("reindex")
    assert done.returncode == 1
    assert (
        f"{docs}: is empty, as if its disk were not mounted; mount it, or remove it from PATHS" in done.stdout
    )
    assert "0 deleted" in done.stdout


def test_reindex_of_a_failing_source_prints_one_line_and_exits_3(reader: System) -> None:
    done = reader.command("reindex", "--index", "broken")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert (
        "source 'mine' failed after 3 documents (ConnectionError: it is gone): nothing was deleted"
        in done.stderr
    )


def test_reindex_of_an_index_without_a_source_names_the_setting(reader: System) -> None:
    done = reader.command("reindex", "--index", "plain")
    assert done.returncode == 2
    assert "index 'plain' has no SOURCE" in done.stderr


def test_find_similar_by_name(reader: System, docs: Path) -> None:
    rows = reader.call("tasks.find_similar", CHAT, document_id="cats.md", limit=2)
    assert len(rows) == 2
    assert "cats.md" not in {row["document_id"] for row in rows}
    [itself, *_] = reader.call("tasks.find_similar", CHAT, document_id="cats.md", include_self=True)
    assert (itself["document_id"], itself["similarity"]) == ("cats.md", pytest.approx(1, abs=1e-5))
    with pytest.raises(Exception, match="there is no document 'cows' in index 'default'"):
        reader.call("tasks.find_similar", CHAT, document_id="cows")


def test_failures_lists_and_retry_retries(reader: System) -> None:
    bad = {"id": "bad", "text": "A poison."}
    reader.call("tasks.index_documents", documents=[bad], index="refused")
    done = reader.command("failures", "--index", "refused")
    assert done.returncode == 0
    assert done.stdout.startswith("bad: not this one (since ")
    retried = json.loads(reader.command("retry", "--index", "refused", "--json").stdout)
    assert retried == {"index": "refused", "retried": 1, "chunks": 1}
    eventually(lambda: reader.call("tasks.failures", CHAT, index="refused")["failures"])
    assert json.loads(reader.command("retry", "other", "--index", "refused", "--json").stdout)["retried"] == 0


def test_failures_and_retry_without_failed_documents(reader: System) -> None:
    assert reader.command("failures", "--index", "plain").stdout == "no failed documents in plain\n"
    assert "retrying 0 documents" in reader.command("retry", "--index", "plain").stdout


def test_status_watch_prints_a_line_per_refresh_and_exits_0_on_ctrl_c(reader: System, docs: Path) -> None:
    watching = subprocess.Popen(
        [VECTOR_INDEX, "status", "--watch", "--index", "default", "--interval", "0.2"],
        cwd=reader.folder,
        env=dict(reader.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    at_rest = "documents/s 0.0, chunks/s 0.0"
    lines = [watching.stdout.readline() for _ in range(3)]
    while at_rest not in lines[-1]:  # Postgres reports its statistics with a delay
        lines.append(watching.stdout.readline())
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=PATIENCE_SECONDS)
    assert (watching.returncode, errors) == (0, "")
    assert all(line.startswith("default: pending 0, live ") for line in lines)


def test_status_watch_shows_a_table_per_index_on_a_terminal(reader: System, docs: Path) -> None:
    ours, theirs = pty.openpty()
    watching = subprocess.Popen(
        [VECTOR_INDEX, "status", "--watch", "--interval", "0.2"],
        cwd=reader.folder,
        env={**reader.environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    seen = b""
    try:
        while seen.count(b"pending chunks") < 8:
            seen += os.read(ours, 10_000)
    finally:
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=PATIENCE_SECONDS)
        os.close(ours)
    assert (watching.returncode, errors) == (0, b"")
    assert b"time left" in seen
    assert all(name in seen for name in (b"default", b"broken", b"refused", b"plain"))


def test_status_works_without_a_staging_worker(reader: System) -> None:
    """It uses the chat queue, so that a backlog of documents does not delay it."""
    reader.kill("all")
    reader.start("chat", ["worker", "--queues", "chat"])
    reader.await_queues(CHAT)
    assert reader.command("status").returncode == 0
    reader.start("all", ["worker"])
    reader.await_queues("vector_index")


def test_plan_matches_the_requests_of_index(system: System, remote: Provider, tmp_path: Path) -> None:
    """Chunks, distinct chunks, and tokens as the provider counts them."""
    words = [f"{number} nails hold {number * 7} boards." for number in range(2_000)]
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.md").write_text(f"# Boards\n\n{' '.join(words[len(name) :])}\n")
    arguments = [str(tmp_path), "--index", "remote", "--json"]
    planned = json.loads(system.command("plan", *arguments).stdout)
    before = remote.stats()
    indexed = json.loads(system.command("index", *arguments).stdout)
    after = remote.stats()
    assert (planned["documents"], planned["chunks"]) == (indexed["indexed"], indexed["chunks"])
    assert (planned["distinct"], planned["tokens"]) == (indexed["embedded"], indexed["tokens"])
    # a probe for the length of a vector is an input of one token
    probes = after.inputs - before.inputs - planned["distinct"]
    assert 0 <= probes <= 3
    assert after.tokens - before.tokens == planned["tokens"] + probes
    assert 0 < planned["requests"] <= after.requests - before.requests
