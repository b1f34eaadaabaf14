"""`vector-index pause`, `resume` and `drop` with real workers and an application that sends documents."""

import json
import subprocess

import pytest

from tests.fixtures.system import CHAT, PATIENCE_SECONDS, VECTOR_INDEX, System, eventually

pytestmark = pytest.mark.slow  # runs eight commands, each in a process of its own


def test_jobs_of_a_paused_index_finish_after_resume(system: System, index: str) -> None:
    system.call("tasks.index_documents", documents=[{"id": "a", "text": "Ships cross the sea."}], index=index)
    paused = system.command("pause", "--index", index)
    assert (paused.returncode, paused.stderr) == (0, "")
    assert paused.stdout.startswith(f"{index}: paused since 20")
    assert system.call("tasks.status", CHAT, index=index)["paused"] in paused.stdout
    # workers notice the pause within two seconds
    eventually(lambda: not system.call("tasks.status", CHAT, index=index)["documents"]["pending"])
    waiting = system.send(
        "tasks.index_documents", documents=[{"id": "b", "text": "Trains cross the land."}], index=index
    )
    eventually(lambda: waiting.state in ("PROGRESS", "SUCCESS"))
    assert "paused since" in system.command("status", "--index", index).stdout
    assert system.call("tasks.search", CHAT, query="ships", index=index)[0]["document_id"] == "a"
    resumed = system.command("resume", "--index", index)
    assert (resumed.returncode, resumed.stdout) == (0, f"{index}: resumed\n")
    assert waiting.get(timeout=PATIENCE_SECONDS)["indexed"] == 1
    assert system.call("tasks.status", CHAT, index=index)["paused"] is None


def test_drop_asks_for_the_name_of_the_index(system: System, index: str) -> None:
    system.call("tasks.index_documents", documents=[{"id": "a", "text": "Ships cross the sea."}], index=index)

    def typed(name: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [VECTOR_INDEX, "drop", index],
            cwd=system.folder,
            env=dict(system.environment),
            input=f"{name}\n",
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    wrong = typed("another")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert f"{index} was not dropped: its name was not typed" in wrong.stderr
    assert system.call("tasks.search", CHAT, query="ships", index=index)
    right = typed(index)
    assert (right.returncode, right.stdout.splitlines()) == (
        0,
        [
            f"{index}: dropped 1 document in 1 build",
            f"the settings still name {index}: its next document creates it again",
        ],
    )
    assert system.call("tasks.search", CHAT, query="ships", index=index) == []
    again = json.loads(system.command("drop", index, "--yes", "--json").stdout)
    assert again == {"index": index, "documents": 0, "builds": 0, "enqueued": 0, "configured": True}
    unknown = system.command("drop", "never", "--yes")
    assert unknown.returncode == 2
    assert (
        "there is no index 'never', in the settings or in the database: nothing was dropped" in unknown.stderr
    )
    missing = system.command("pause", "--index", "never")
    assert (missing.returncode, missing.stderr) == (
        2,
        "vector-index: index 'never' does not exist: it is created with its first document\n",
    )
    done = system.call(
        "tasks.index_documents", documents=[{"id": "a", "text": "Ships cross the sea."}], index=index
    )
    assert done["indexed"] == 1
