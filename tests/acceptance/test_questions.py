"""`questions` writes a file that `eval` takes, of the texts of an index or by a chat model."""

import json
from pathlib import Path

import pytest

from tests.fixtures.system import STAGING, System
from tests.provider import Provider

TOPICS = ["lamp", "bridge", "harbour", "bakery", "library", "orchard"]
DOCUMENTS = [
    {
        "id": topic,
        "title": f"The {topic}",
        "text": f"# Opening hours of the {topic}\n\nVisitors may enter from nine until noon, except on the day number "
        f"{at}.\n\n## How to repair it in winter {at}\n\nA mason needs about {at + 20} dry days and one warm night.",
    }
    for at, topic in enumerate(TOPICS)
]


@pytest.fixture
def town(system: System, index: str) -> str:
    system.call("tasks.index_documents", STAGING, documents=DOCUMENTS, index=index)
    return index


@pytest.mark.slow
def test_questions_of_an_index_find_their_documents(system: System, town: str, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("first.jsonl", "again.jsonl", "other.jsonl")]
    for file, seed in zip(files, ("7", "7", "8"), strict=True):
        done = system.command("questions", str(file), "--index", town, "--count", "4", "--seed", seed)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{town}: wrote 4 questions to {file} (")
    first, again, other = (file.read_text() for file in files)
    assert first == again != other
    assert {id for line in first.splitlines() for id in json.loads(line)["documents"]} <= set(TOPICS)

    measured = system.command(
        "eval", str(files[0]), "--index", town, "--mode", "hybrid", "--fail-below", "hit@10=1"
    )
    assert measured.returncode == 0, measured.stderr
    refused = system.command("questions", str(files[0]), "--index", town)
    assert (refused.returncode, files[0].read_text()) == (2, first)
    assert f"{files[0]} exists: name another file" in refused.stderr


@pytest.mark.slow
def test_a_chat_model_writes_questions_and_may_pass(system: System, town: str, tmp_path: Path) -> None:
    """Given a model that writes the same question for each document, then one that finds no question."""
    file = tmp_path / "questions.jsonl"
    with Provider() as provider:
        backend = {"default": {"CONFIG": {"MODEL_ID": "gpt-4o-mini"}}}
        settings = {"CHAT_BACKENDS": backend, "INDEXES": {town: {}, "default": {}}}
        variables = {
            "VECTOR_INDEX_SETTINGS": "", "VECTOR_INDEX": json.dumps(settings), "OPENAI_BASE_URL": provider.url,
        }  # fmt: skip
        chosen = ("questions", str(file), "--index", town, "--count", "3", "--chat")
        provider.answer = "[0]"
        assert system.command(*chosen, **variables).returncode == 2
        assert not file.exists()

        provider.answer = "When may\nvisitors enter?"
        done = system.command(*chosen, "--json", **variables)
        assert (done.returncode, json.loads(done.stdout)["questions"]) == (0, 3), done.stderr
        sent = [message["content"] for body in provider.prompts for message in body["messages"]]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(row["question"], row["made_of"]) for row in rows} == {("When may visitors enter?", "chat")}
    assert any("<passage>\nThe lamp\n" in content for content in sent)
