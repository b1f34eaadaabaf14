"""Two deployments on one database and one broker have the figures of one alone."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import PROCESSES, System
from tests.provider import Provider

DOCUMENTS = 2_000
SETTINGS = """
LOCAL = {{"CLASS": "worker.backends.llm.LLMEmbeddingBackend", "CONFIG": {{"MODEL_ID": "wordllama"}}}}
REMOTE = {{"CLASS": "worker.backends.llm.LLMEmbeddingBackend",
          "CONFIG": {{"MODEL_ID": "3-small", "EMBEDDING_OUTPUT_DIMENSIONS": 64, "TIMEOUT_SECONDS": 10}}}}
VECTOR_INDEX = {{
    "EMBEDDING_BACKENDS": {{"default": {default}, "second": {second}}},
    "INDEXES": {{
        "default": {{}},
        "local": {{"EMBEDDING_BACKEND": "{local}"}},
        "remote": {{"EMBEDDING_BACKEND": "{remote}"}},
    }},
}}
"""
WORKERS = {name: arguments for name, arguments in PROCESSES.items() if name != "beat"}


@pytest.fixture
def deployments(
    start_system: Callable[..., Any], remote: Provider, tmp_path: Path
) -> Iterator[tuple[System, System]]:
    """Each has both indexes; what one calls `default`, the other calls `second`."""
    folders = [tmp_path / "one", tmp_path / "two"]
    names = [
        {"default": "LOCAL", "second": "REMOTE", "local": "default", "remote": "second"},
        {"default": "REMOTE", "second": "LOCAL", "local": "second", "remote": "default"},
    ]
    for folder, fields in zip(folders, names, strict=True):
        folder.mkdir()
        (folder / "settings_of_test.py").write_text(SETTINGS.format(**fields))
    variables = {"OPENAI_API_KEY": "secret-of-the-test", "OPENAI_BASE_URL": remote.url}
    file = {"VECTOR_INDEX_SETTINGS": str(folders[0] / "settings_of_test.py")}
    with start_system(folders[0], WORKERS, **variables, **file) as one:
        home = {"VECTOR_INDEX_HOME": str(folders[1] / "home")}
        file = home | {"VECTOR_INDEX_SETTINGS": str(folders[1] / "settings_of_test.py")}
        two = System(folder=folders[1], environment={**one.environment, **file})
        try:
            yield one, two
        finally:
            two.stop()


@pytest.mark.slow
def test_two_deployments_with_other_names_for_their_backends_take_the_time_of_one(
    deployments: tuple[System, System], record_property: Any
) -> None:
    one, two = deployments
    alone = {index: seconds_to_index(one, index, "alone") for index in ("local", "remote")}
    for name, arguments in WORKERS.items():
        two.start(name, [*arguments, "--name", f"second-{name}"])
    two.inspect("ping", nodes=2 * len(WORKERS))
    both = {index: seconds_to_index(one, index, "both") for index in ("local", "remote")}
    print({"alone": alone, "both": both})
    record_property("seconds", str({"alone": alone, "both": both}))
    for index in ("local", "remote"):
        assert both[index] < 2 * alone[index] + 10
        assert one.call("tasks.status", index=index)["documents"]["live"] == 2 * DOCUMENTS


def seconds_to_index(system: System, index: str, word: str) -> float:
    """Index new documents in messages of 100; the seconds until all are searchable."""
    began = time.monotonic()
    jobs = [
        system.send(
            "tasks.index_documents",
            index=index,
            documents=[{"id": f"{word}-{n}", "text": f"Document {n} of {word} is short."} for n in some],
        )
        for some in (range(at, at + 100) for at in range(0, DOCUMENTS, 100))
    ]
    assert sum(job.get(timeout=300)["indexed"] for job in jobs) == DOCUMENTS
    return round(time.monotonic() - began, 1)
