"""A user's own backend classes, named by dotted path, work like the built-in ones."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import CHAT, STAGING

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_backend.py"


def test_example_backend_indexes_searches_and_answers(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    """Real workers with the settings from the example's docstring. A refused text fails its own document only."""
    shutil.copy(EXAMPLE, tmp_path)
    shown = EXAMPLE.read_text().partition("    VECTOR_INDEX")[2].partition("\n    }\n")[0]
    lines = f"    VECTOR_INDEX{shown}\n    }}".splitlines()
    (tmp_path / "ours.py").write_text("\n".join(line.removeprefix("    ") for line in lines))
    documents = [
        {"id": "birds", "text": "Canaries sing in the morning.\n\nThey sleep at night."},
        {"id": "trains", "text": "Trains leave at noon."},
        {"id": "dots", "text": "..."},
    ]
    variables = {"VECTOR_INDEX_SETTINGS": str(tmp_path / "ours.py")}
    with start_system(tmp_path, {"all": ["worker"]}, **variables) as system:
        result = system.call("tasks.index_documents", STAGING, documents=documents)
        assert result["indexed"] == 2
        assert [failure["id"] for failure in result["failed"]] == ["dots"]
        assert "without a word" in result["failed"][0]["error"]
        rows = system.call("tasks.search", CHAT, query="When do canaries sing?")
        assert rows[0]["document_id"] == "birds"
        rows = system.call("tasks.search", CHAT, query="train leaving", rerank=True)
        assert (rows[0]["document_id"], rows[0]["rerank"]["model"]) == ("trains", "shared-letters")
        assert [row["rerank"]["score"] for row in rows] == sorted(
            (row["score"] for row in rows), reverse=True
        )
        answer = system.call("tasks.chat", CHAT, question="When do trains leave?")
    assert (answer["answer"], answer["model"]) == ("Trains leave at noon. [1]", "first-passage")
