"""Chat as an application sees it: answers with sources, streams, errors and a killed worker."""

import json
import os
import pty
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import chain
from celery.exceptions import TaskRevokedError

from tests.fixtures.system import CHAT, PATIENCE_SECONDS, PROCESSES, STAGING, VECTOR_INDEX, System, eventually
from tests.provider import Provider, prompt_tokens

SETTINGS = """
CLASS = "worker.backends.llm.LLMChatBackend"
CONFIG = {"MODEL_ID": "gpt-3.5-turbo", "TOKEN_LIMIT": 2000, "TIMEOUT_SECONDS": 30, "PROMPT_KWARGS": {"max_tokens": 200}}
VECTOR_INDEX = {
    "CHAT_BACKENDS": {
        "default": {"CLASS": CLASS, "CONFIG": {"MODEL_ID": "extractive"}}, "remote": {"CLASS": CLASS, "CONFIG": CONFIG}
    },
    "INDEXES": {"default": {}, "remote": {"CHAT_BACKEND": "remote", "QUERY_PROMPT": "Answer as a poet."}},
}
"""
PETS = [
    {"id": "cats", "title": "Cats", "text": "Cats chase mice in the cellar."},
    {"id": "canaries", "title": "Canaries", "text": "Canaries sing in the morning, and sleep at night."},
    {"id": "ships", "title": "Ships", "text": "Ships cross the sea in seven days."},
]
BIRDS = "When do canaries sing?"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def chats(
    start_system: Callable[..., Any], provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """Workers with two indexes of PETS: the extractive model answers `default`, the provider `remote`."""
    folder = tmp_path_factory.mktemp("chats")
    (folder / "ours.py").write_text(SETTINGS)
    processes = {name: arguments for name, arguments in PROCESSES.items() if name != "beat"}
    variables = {"OPENAI_API_KEY": "sk-of-the-stand-in", "OPENAI_BASE_URL": provider.url}
    settings = str(folder / "ours.py")
    with start_system(folder, processes, VECTOR_INDEX_SETTINGS=settings, **variables) as system:
        for index in ("default", "remote"):
            system.call("tasks.index_documents", documents=PETS, index=index)
        yield system


@pytest.fixture(autouse=True)
def fresh_provider(provider: Provider) -> None:
    provider.reset()
    provider.answer, provider.word_seconds, provider.latency_seconds = "At dawn [1].", 0, 0


def read_stream(
    system: System, task_id: str, seconds: float = PATIENCE_SECONDS
) -> list[tuple[str, str, Any]]:
    """Read a streamed answer to its end; return all its entries."""
    found: list[tuple[str, str, Any]] = []
    deadline = time.monotonic() + seconds
    with redis.Redis.from_url(system.environment["BROKER_URL"], decode_responses=True, protocol=2) as client:
        while not found or found[-1][1] not in ("done", "error"):
            assert time.monotonic() < deadline, found
            last = found[-1][0] if found else "0"
            answer: Any = client.xread({f"vector-index:chat:{task_id}": last}, block=200)
            for _, entries in answer:
                found += [(id, entry["event"], json.loads(entry["data"])) for id, entry in entries]
    return found


def test_sources_of_an_answer_are_the_rows_of_the_same_search(chats: System) -> None:
    result = chats.call("tasks.chat", CHAT, question=BIRDS)
    assert result["answer"] == (
        "Quoted from the documents: “Canaries sing in the morning, and sleep at night.” [1]"
    )
    assert (result["answered"], result["model"]) == (True, "extractive")
    assert [row.pop("cited") for row in result["sources"]] == [True, False, False]
    assert result["sources"] == chats.call("tasks.search", CHAT, query=BIRDS)
    assert result["usage"]["input_tokens"] > result["usage"]["output_tokens"] > 10


def test_question_without_an_answer_in_the_documents_is_declined(chats: System) -> None:
    result = chats.call("tasks.chat", CHAT, question="What is the capital of Mongolia?")
    assert result["answer"] == "This question cannot be answered from these documents."
    assert (result["answered"], {row["cited"] for row in result["sources"]}) == (False, {False})


def test_model_is_not_called_when_search_finds_nothing(chats: System, provider: Provider) -> None:
    result = chats.call("tasks.chat", CHAT, question=BIRDS, filter={"kind": "none"}, index="remote")
    assert (result["answered"], result["sources"], provider.prompts) == (False, [], [])


def test_chat_in_a_chain_answers_from_documents_indexed_by_the_first_task(chats: System) -> None:
    documents = [{"id": "new", "text": "Zebras graze on the savanna."}]
    indexing = chats.app.signature("tasks.index_documents", kwargs={"documents": documents}, immutable=True)
    asking = chats.app.signature("tasks.chat", kwargs={"question": "Where do zebras graze?"}, immutable=True)
    result = (
        chain(indexing.set(queue=STAGING), asking.set(queue=CHAT)).apply_async().get(timeout=PATIENCE_SECONDS)
    )
    assert "savanna" in result["answer"]
    chats.call("tasks.delete_documents", ids=["new"])


def test_prompt_with_history_fits_the_context_window(chats: System, provider: Provider) -> None:
    history = [{"role": ("user", "assistant")[n % 2], "content": f"turn {n} " * 40} for n in range(30)]
    result = chats.call("tasks.chat", CHAT, question=BIRDS, history=history, index="remote")
    (body,) = provider.prompts
    assert body["messages"][0] == {"role": "system", "content": "Answer as a poet."}
    assert body["messages"][-2] == history[-1]
    assert 1_500 < prompt_tokens(body) <= 1_800
    assert body["max_tokens"] == 200
    assert result["usage"] == {"input_tokens": prompt_tokens(body), "output_tokens": 5}
    assert [row["cited"] for row in result["sources"]] == [True, False, False]


def test_late_reader_of_a_stream_reads_the_same_events(chats: System, provider: Provider) -> None:
    provider.answer, provider.word_seconds = "One two three four five [2].", 0.1
    task = chats.send("tasks.chat", CHAT, question=BIRDS, stream=True, index="remote")
    first: list[tuple[str, str, Any]] = []
    reader = threading.Thread(target=lambda: first.extend(read_stream(chats, task.id)))
    reader.start()
    result = task.get(timeout=PATIENCE_SECONDS)
    reader.join()
    late = read_stream(chats, task.id)
    assert first == late
    assert [event for _, event, _ in late] == ["sources", *["token"] * 6, "done"]
    assert "".join(data for _, event, data in late if event == "token") == result["answer"] == provider.answer
    assert late[-1][2] == result


def test_revoke_ends_a_stream_between_two_tokens(chats: System, provider: Provider) -> None:
    provider.answer, provider.word_seconds = "word " * 3_000, 0.05
    task = chats.send("tasks.chat", CHAT, question=BIRDS, stream=True, index="remote")
    with redis.Redis.from_url(chats.environment["BROKER_URL"]) as client:
        eventually(lambda: client.xlen(f"vector-index:chat:{task.id}") > 3)
    chats.app.control.revoke(task.id)
    entries = read_stream(chats, task.id)
    assert entries[-1][1:] == ("error", "the question was revoked: the answer ends here")
    assert len(entries) < 1_500
    with pytest.raises(TaskRevokedError):
        task.get(timeout=PATIENCE_SECONDS)


def test_unavailable_provider_is_tried_three_times_before_the_task_fails(
    chats: System, provider: Provider
) -> None:
    provider.inject("unavailable", times=3)
    task = chats.send("tasks.chat", CHAT, question=BIRDS, stream=True, index="remote")
    with pytest.raises(Exception, match=r"^gpt-3.5-turbo: HTTP 503 .*: retry later$") as error:
        task.get(timeout=PATIENCE_SECONDS)
    assert type(error.value).__name__ == "ProviderUnavailable"
    assert len(provider.prompts) == 3
    assert read_stream(chats, task.id)[-1][1:] == ("error", str(error.value))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"question": ""}, "question must be a string with at least one word"),
        (
            {"question": BIRDS, "chat_backend": "remot"},
            "chat_backend 'remot' is not in CHAT_BACKENDS: choose default, remote",
        ),
        ({"question": BIRDS, "history": [{"role": "system"}]}, r"history\[0\]"),
        ({"question": "Why? " * 4_000, "chat_backend": "remote"}, "TOKEN_LIMIT leaves 1,800 for a prompt"),
    ],
)
def test_invalid_argument_fails_at_once(chats: System, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Exception, match=sentence) as error:
        chats.call("tasks.chat", CHAT, **arguments)
    assert type(error.value).__name__ == "InvalidQuery"


def test_questions_answers_and_documents_are_not_logged(chats: System, provider: Provider) -> None:
    provider.answer = "A rare confidence [1]."
    chats.call("tasks.chat", CHAT, question="What is a rare question about canaries?", index="remote")
    provider.inject("content_policy", path="/chat/completions")
    with pytest.raises(Exception, match="HTTP 400"):
        chats.call("tasks.chat", CHAT, question="What is a rare question about canaries?", index="remote")
    log = chats.log("chat")
    assert "tasks.chat" in log
    assert not [word for word in ("confidence", "rare question", "sing in the morning") if word in log]


def test_ask_prints_the_answer_and_numbered_sources(chats: System) -> None:
    asked = chats.command("ask", BIRDS, "--limit", "2")
    assert asked.returncode == 0, asked.stderr
    answer, *sources = asked.stdout.splitlines()
    assert answer.startswith("Quoted from the documents: “Canaries sing")
    assert sources[0] == "[1] Canaries  canaries, 0-49 *"
    assert len(sources) == 2
    declined = chats.command("ask", "What is the capital of Mongolia?", "--json")
    assert (declined.returncode, json.loads(declined.stdout)["answered"]) == (0, False)


@pytest.mark.slow
def test_ask_streams_the_answer_on_a_terminal(chats: System, provider: Provider) -> None:
    provider.answer, provider.word_seconds = "One two three four five six.", 0.3
    reader, terminal = pty.openpty()
    command = [VECTOR_INDEX, "ask", BIRDS, "--index", "remote"]
    environment = dict(chats.environment)
    process = subprocess.Popen(command, cwd=chats.folder, env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    pieces = []
    with os.fdopen(reader, "rb", buffering=0) as screen:
        while piece := _read(screen):
            pieces.append(piece)
    assert process.wait(PATIENCE_SECONDS) == 0, pieces
    shown = b"".join(pieces).decode()
    assert shown.splitlines()[0] == provider.answer
    assert "[1] Canaries  canaries, 0-49" in shown
    assert len(pieces) >= 3  # a slow reader gets several words at once


def _read(screen: Any) -> bytes:
    try:
        return bytes(screen.read(1000))
    except OSError:  # Linux raises it when the other side of a terminal is closed
        return b""


@pytest.mark.slow
def test_question_of_a_killed_worker_is_answered_by_the_next_worker(
    chats: System, provider: Provider
) -> None:
    """After the visibility timeout (60 s) and the broker's next check. The stream shows one run only."""
    provider.answer, provider.word_seconds = "word " * 100, 0.1
    task = chats.send("tasks.chat", CHAT, question=BIRDS, stream=True, index="remote")
    with redis.Redis.from_url(chats.environment["BROKER_URL"]) as client:
        eventually(lambda: client.xlen(f"vector-index:chat:{task.id}") > 3)
    chats.kill("chat")
    killed = time.monotonic()
    assert task.state == "STARTED"
    provider.answer, provider.word_seconds = "At dawn [1].", 0
    chats.start("chat", PROCESSES["chat"])
    assert task.get(timeout=150)["answer"] == "At dawn [1]."
    seconds = time.monotonic() - killed
    print(f"answered {seconds:.0f} s after the kill")
    assert seconds < 120
    assert [event for _, event, _ in read_stream(chats, task.id)] == ["sources", *["token"] * 3, "done"]
