"""`rebuild --sample` tries other settings on a part of an index, and changes nothing."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.system import STAGING, VECTOR_INDEX, System, eventually
from tests.provider import Provider
from worker.recipes import PROBE

pytestmark = pytest.mark.slow  # it starts a whole system

DOCUMENTS = [
    {"id": str(number), "text": f"Shelf {number} holds the books of the year {1900 + number}."}
    for number in range(40)
]
QUESTIONS = [
    {"question": "Which shelf holds the books of the year 1907?", "documents": ["7"]},
    {"question": "What is in shelf 31?", "documents": {"31": 2}},
    {"question": "Who painted the ceiling?", "documents": []},
]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in QUESTIONS))
    return path


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """The provider of the new settings alone."""
    with Provider(dimensions=64) as provider:
        yield provider


@pytest.fixture
def new_settings(provider: Provider, index: str) -> dict[str, str]:
    """Variables of a command whose settings name another model for the index, and a price."""
    provider.reset()
    provider.latency_seconds = 0.0
    backend = {"CONFIG": {"MODEL_ID": "3-small", "EMBEDDING_OUTPUT_DIMENSIONS": 64, "TIMEOUT_SECONDS": 60}}
    settings = {"EMBEDDING_BACKENDS": {"default": backend}, "INDEXES": {index: {}, "default": {}}}
    return {
        "VECTOR_INDEX_SETTINGS": "",
        "VECTOR_INDEX": json.dumps(settings),
        "OPENAI_BASE_URL": provider.url,
        "PRICE_PER_MILLION_TOKENS": "20",
    }


@pytest.fixture
def books(system: System, index: str) -> str:
    system.call("tasks.index_documents", STAGING, documents=DOCUMENTS, index=index)
    return index


def builds(system: System) -> list[Any]:
    with psycopg.connect(system.environment["DATABASE_URL"]) as conn:
        return conn.execute("SELECT build, state, recipe FROM vector_index.builds ORDER BY build").fetchall()


def test_a_sample_compares_both_settings_and_changes_nothing(
    system: System, books: str, questions: Path, provider: Provider, new_settings: dict[str, str]
) -> None:
    before = builds(system)
    arguments = ("rebuild", "--sample", "10", "--eval", str(questions), "--index", books)
    done = system.command(*arguments, **new_settings)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    for line in (
        "MODEL_ID is 'wordllama' in the index and 'text-embedding-3-small' in the settings",
        f"{books}: the whole rebuild, estimated from 10 documents of 40",
        "requests   about 1",
        "at 20 per million tokens",
        "2 questions with an answer, over the same documents",
        f"nothing has changed; `vector-index rebuild --index {books}` applies the settings",
    ):
        assert line in done.stdout
    assert all(mode in done.stdout for mode in ("hybrid", "vector", "text"))
    # ten documents, two of them expected; three questions; the word of the probe
    assert provider.stats().inputs == 10 + 3 + 1
    assert builds(system) == before

    found = json.loads(system.command(*arguments, "--json", **new_settings).stdout)
    assert (found["sampled"], found["questions"], found["absent"], found["failed"]) == (10, 3, [], [])
    assert found["modes"]["text"]["old"]["hit@1"] == found["modes"]["text"]["new"]["hit@1"] == 1.0
    assert found["modes"]["hybrid"]["old"]["mrr@10"] == 1.0
    estimate = found["estimate"]
    assert (estimate["documents"], estimate["reused"]) == (40, 0.0)
    assert estimate["price"] == pytest.approx(estimate["tokens"] * 20 / 1e6)
    assert estimate["seconds"] > 0


def test_a_sample_without_questions_sends_no_text(
    system: System, books: str, provider: Provider, new_settings: dict[str, str]
) -> None:
    done = system.command("rebuild", "--sample", "100", "--index", books, **new_settings)
    assert done.returncode == 0
    assert f"{books} has 40 searchable documents: the sample has all of them" in done.stderr
    assert "estimated from 40 documents of 40" in done.stdout
    assert "time       depends on the model: --eval measures it" in done.stdout
    assert "nothing was embedded: add --eval QUESTIONS" in done.stdout
    assert provider.stats().requests == 0


def test_a_killed_sample_leaves_nothing(
    system: System, books: str, questions: Path, provider: Provider, new_settings: dict[str, str]
) -> None:
    before = builds(system)
    arguments = [VECTOR_INDEX, "rebuild", "--sample", "10", "--eval", str(questions), "--index", books]
    temporary = "SELECT count(*) FROM pg_class WHERE relname = 'chunks_2' AND relpersistence = 't'"
    with psycopg.connect(system.environment["DATABASE_URL"], autocommit=True) as conn:
        for end in (subprocess.Popen.kill, lambda process: process.send_signal(2)):
            provider.inject("hang", path="/embeddings", times=None, but_for=PROBE)
            process = subprocess.Popen(
                arguments,
                cwd=system.folder,
                env={**system.environment, **new_settings},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                eventually(lambda: conn.execute(temporary).fetchone() == (1,))
                end(process)
                assert process.wait(30) in (-9, 130)
            finally:
                process.kill()
            eventually(lambda: conn.execute(temporary).fetchone() == (0,))
            provider.reset()
    assert builds(system) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--sample", "5", "--eval", "missing.jsonl"), "File 'missing.jsonl' does not exist"),
        (("--sample", "5", "--eval", "bad.jsonl"), "bad.jsonl, line 1: not JSON"),
        (("--eval", "bad.jsonl"), "--eval measures a sample: add --sample 200"),
        (("--sample", "5", "--cancel"), "--sample changes nothing: combine it with"),
        (("--sample", "0"), "0 is not in the range"),
    ],
)
def test_a_mistake_is_one_sentence(system: System, arguments: tuple[str, ...], sentence: str) -> None:
    (system.folder / "bad.jsonl").write_text("{\n")
    done = system.command("rebuild", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


@pytest.mark.slow
def test_an_index_that_cannot_be_sampled_says_why(
    system: System, books: str, questions: Path, provider: Provider, new_settings: dict[str, str]
) -> None:
    sample = ("rebuild", "--sample", "5", "--index")
    done = system.command(*sample, books)
    assert (done.returncode, done.stdout) == (
        0,
        f"{books}: nothing to do: the index is as the settings ask for\n",
    )
    done = system.command(*sample, "index99")
    assert done.returncode == 2
    assert "index 'index99' has no documents" in done.stderr

    other = system.folder / "other.jsonl"
    other.write_text(json.dumps({"question": "x", "documents": ["absent"]}))
    done = system.command(*sample, books, "--eval", str(other), **new_settings)
    assert done.returncode == 2
    assert f"{books} has none of the documents that" in done.stderr

    system.call("tasks.pause", index=books)
    done = system.command(*sample, books, "--eval", str(questions), **new_settings)
    assert done.returncode == 2
    assert "is paused, so a sample may not be embedded" in done.stderr
    system.call("tasks.resume", index=books)

    done = system.command(
        *sample,
        books,
        "--eval",
        str(questions),
        **{**new_settings, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"},
    )
    assert done.returncode == 3
    assert "text-embedding-3-small" in done.stderr
    assert done.stderr.count("\n") == 1
