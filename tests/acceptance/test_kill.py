"""Nothing accepted is lost, and nothing is embedded twice but what was in flight, while workers are killed."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from tests.fixtures.system import CHAT, PROCESSES, System, eventually, read_json

DOCUMENTS, PER_MESSAGE = 2_000, 100
CONCURRENCY, BATCH_SIZE = 4, 8
LATENCY_SECONDS = 0.2
ROOT = Path(__file__).parents[2]

SETTINGS = f"""
CONFIG = {{
    "MODEL_ID": "3-small",
    "EMBEDDING_OUTPUT_DIMENSIONS": 64,
    "BATCH_SIZE": {BATCH_SIZE},
    "CONCURRENCY": {CONCURRENCY},
    "TIMEOUT_SECONDS": 2,  # a claim of a dead worker is free again a minute later
}}
VECTOR_INDEX = {{
    "EMBEDDING_BACKENDS": {{"default": {{"CLASS": "worker.backends.llm.LLMEmbeddingBackend", "CONFIG": CONFIG}}}},
}}
"""


@pytest.fixture
def provider_url() -> Iterator[str]:
    """The stand-in as a process of its own, as a provider is; its counts outlive the killed."""
    command = [
        sys.executable,
        "-m",
        "tests.provider",
        "--latency",
        str(LATENCY_SECONDS),
        "--dimensions",
        "64",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_kills_under_load_lose_no_document_and_repeat_only_what_was_in_flight(
    start_system: Callable[..., Any], provider_url: str, tmp_path: Path
) -> None:
    (tmp_path / "ours.py").write_text(SETTINGS)
    variables = {
        "VECTOR_INDEX_SETTINGS": str(tmp_path / "ours.py"),
        "OPENAI_API_KEY": "sk-of-the-stand-in",
        "OPENAI_BASE_URL": provider_url,
    }
    numbers = range(0, DOCUMENTS, PER_MESSAGE)
    messages = [[{"id": n, "text": text(n)} for n in range(first, first + PER_MESSAGE)] for first in numbers]
    with start_system(tmp_path, **variables) as system:
        started = time.monotonic()
        sent = [system.send("tasks.index_documents", documents=documents) for documents in messages]
        kill_when(system, "staging", lambda: count(system, STAGED) >= 2 * PER_MESSAGE)
        assert count(system, STAGED) < DOCUMENTS
        kill_when(system, "embed", lambda: count(system, LIVE) > 200)
        kill_when(system, "embed", lambda: count(system, LIVE) > 600)
        assert count(system, LIVE) < DOCUMENTS
        results = [result.get(timeout=200) for result in sent]
        seconds = time.monotonic() - started

        figures = read_json(f"{provider_url}/stats")
        print(
            f"{DOCUMENTS:,} documents, {figures['requests']} requests, {figures['inputs']:,} inputs, "
            f"{figures['repeated']} repeated, 3 kills, {seconds:.0f} s"
        )
        assert sum(result["indexed"] + result["unchanged"] for result in results) == DOCUMENTS
        assert [result["failed"] for result in results] == [[]] * len(messages)
        state = system.call("tasks.status")
        assert state["documents"] == {"pending": 0, "live": DOCUMENTS, "failed": 0}
        assert state["pending_chunks"] == 0
        assert figures["distinct"] == DOCUMENTS
        assert figures["repeated"] <= 2 * CONCURRENCY * BATCH_SIZE
        assert count(system, VISIBLE) == DOCUMENTS
        found = system.call("tasks.search", CHAT, query=text(1234), limit=100)
        assert [row["document_id"] for row in found].count("1234") == 1
        assert found[0]["document_id"] == "1234"


def text(number: int) -> str:
    return " ".join(f"Sentence {line} of document {number} tells of {number * line}." for line in range(20))


def kill_when(system: System, name: str, due: Callable[[], bool]) -> None:
    """SIGKILL a worker in the middle of the load, and start another."""
    eventually(due, 60)
    system.kill(name)
    system.start(name, PROCESSES[name])


STAGED = "SELECT count(*) FROM vector_index.documents"
LIVE = "SELECT count(*) FROM vector_index.served_1 WHERE live_rev IS NOT NULL"
# passages that a search can find: one per document here
VISIBLE = """
SELECT count(*) FROM vector_index.served_1 s
JOIN vector_index.chunks_1 c ON c.rev = s.live_rev
JOIN vector_index.embeddings_1 e ON e.hash = c.hash
"""


def count(system: System, query: LiteralString) -> int:
    """A number out of Postgres; 0 while there is no such table yet."""
    with psycopg.connect(system.environment["DATABASE_URL"]) as connection:
        try:
            row = connection.execute(query).fetchone()
        except psycopg.errors.UndefinedTable:
            return 0
    assert row is not None
    return int(row[0])
