"""Workers whose clocks differ by two minutes do what workers with equal clocks do."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.clocks import needs_compiler, wrong_clock
from tests.fixtures.system import CHAT, EMBED, PATIENCE_SECONDS, PROCESSES, System, eventually
from tests.provider import Provider

pytestmark = [pytest.mark.slow, needs_compiler]

JOBS, QUESTIONS, SWEEPS = 20, 4, 6
AHEAD_SECONDS = 120
LATENCY_SECONDS = 12.0  # longer than the time between two searches for expired leases

SETTINGS = """
CONFIG = {"MODEL_ID": "3-small", "EMBEDDING_OUTPUT_DIMENSIONS": 64, "TIMEOUT_SECONDS": 30, "CONCURRENCY": 4}
CHAT = {"MODEL_ID": "gpt-3.5-turbo", "TOKEN_LIMIT": 2000, "TIMEOUT_SECONDS": 60}
VECTOR_INDEX = {
    "EMBEDDING_BACKENDS": {"default": {"CLASS": "worker.backends.llm.LLMEmbeddingBackend", "CONFIG": CONFIG}},
    "CHAT_BACKENDS": {"default": {"CLASS": "worker.backends.llm.LLMChatBackend", "CONFIG": CHAT}},
}
"""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Counts of one run."""

    staged: int  # messages whose documents were staged
    questions: int  # messages with a question that workers received
    sweeps: int  # sweeps that ran
    prompts: int  # that the model was asked
    repeated: int  # texts that were embedded again


@contextmanager
def second_machine(system: System, variables: Mapping[str, str]) -> Iterator[System]:
    """Run more workers, with their own environment, on the servers of the system."""
    folder = system.folder / "second"
    folder.mkdir()
    second = replace(system, folder=folder, environment={**system.environment, **variables}, processes={})
    try:
        for name in ("staging", "embed", "chat"):
            second.start(name, [*PROCESSES[name], "--name", f"second-{name}"])
        eventually(lambda: second.logs().count('"event": "ready"') == 3)
        yield second
    finally:
        second.stop()


def figures(
    start_system: Callable[..., Any], folder: Path, variables: Mapping[str, str]
) -> tuple[Figures, int]:
    """Index and ask on two machines with an application that sends everything at once."""
    folder.mkdir()
    (folder / "ours.py").write_text(SETTINGS)
    machine = {name: arguments for name, arguments in PROCESSES.items() if name != "beat"}
    with Provider(dimensions=64) as provider:
        settings = {"VECTOR_INDEX_SETTINGS": str(folder / "ours.py"), "VECTOR_INDEX_LOG_FORMAT": "json"}
        key = {"OPENAI_API_KEY": "sk-of-the-stand-in", "OPENAI_BASE_URL": provider.url}
        with start_system(folder, machine, **settings, **key) as system:
            system.call("tasks.index_documents", documents=[{"id": "owl", "text": "The owl sleeps by day."}])
            with second_machine(system, variables) as second:
                load(system, provider)
                return count(system.logs() + second.logs(), provider)


def load(system: System, provider: Provider) -> None:
    provider.reset()
    provider.latency_seconds = LATENCY_SECONDS
    jobs = [
        system.send("tasks.index_documents", documents=[{"id": f"{job}", "text": f"Page {job} of the owl."}])
        for job in range(JOBS)
    ]
    questions = [
        system.send("tasks.chat", CHAT, question=f"When does owl {number} sleep?")
        for number in range(QUESTIONS)
    ]
    for _ in range(SWEEPS):
        system.app.send_task("tasks.sweep", queue=EMBED, expires=60)
    for result in (*jobs, *questions):
        result.get(timeout=PATIENCE_SECONDS)
    assert system.call("tasks.status")["documents"]["live"] == JOBS + 1


def count(logs: str, provider: Provider) -> tuple[Figures, int]:
    """Return the figures, and how many messages workers received; waiting jobs send some every 1.5 s."""
    events = [json.loads(line) for line in logs.splitlines()]
    found = Counter((event["event"], event.get("task")) for event in events)
    received = sum(number for (event, _), number in found.items() if event == "task_received")
    shown = Figures(
        staged=found["documents_staged", None],
        questions=found["task_received", "tasks.chat"],
        sweeps=found["task_succeeded", "tasks.sweep"],
        prompts=len(provider.prompts),
        repeated=provider.stats().repeated,
    )
    return shown, received


@pytest.mark.timeout(4 * PATIENCE_SECONDS)
def test_clocks_two_minutes_apart_give_the_figures_of_equal_clocks(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    equal, received = figures(start_system, tmp_path / "equal", {})
    apart, apart_received = figures(
        start_system, tmp_path / "apart", wrong_clock(tmp_path, ahead_seconds=AHEAD_SECONDS)
    )
    print(f"{equal}, {received} messages; {apart}, {apart_received} messages")
    assert apart == equal
    assert (equal.staged, equal.questions, equal.prompts, equal.repeated) == (
        JOBS + 1,
        QUESTIONS,
        QUESTIONS,
        0,
    )
    assert apart_received < 2 * received  # a longer run of waiting jobs has more messages
