"""Answers come while other work goes on: a question that hangs, and documents that wait."""

import psutil
import pytest

from tests.fixtures.answering import ANSWER, QUESTION
from tests.fixtures.system import CHAT, PATIENCE_SECONDS, System, eventually
from tests.provider import Provider

pytestmark = pytest.mark.slow  # it starts a whole system


def test_question_that_hangs_delays_no_other(answering: System, slow_words: Provider) -> None:
    """Given one worker, and a provider that never answers the first question."""
    slow_words.word_seconds = 0.0
    slow_words.inject("hang", path="/chat/completions")
    hanging = answering.send("tasks.chat", CHAT, question=QUESTION)
    eventually(lambda: slow_words.prompts)
    answers = [answering.send("tasks.chat", CHAT, question=QUESTION) for _ in range(5)]
    assert [task.get(timeout=PATIENCE_SECONDS)["answer"] for task in answers] == [ANSWER] * 5
    assert not hanging.ready()
    answering.app.control.revoke(hanging.id)


@pytest.mark.parametrize(("name", "niceness"), [("staging", 5), ("embed", 5), ("chat", 0)])
def test_processes_that_index_leave_the_processor_to_answers(
    system: System, name: str, niceness: int
) -> None:
    """Their children, too; the tests may themselves run with a niceness."""
    expected = min(19, psutil.Process().nice() + niceness)
    worker = psutil.Process(system.processes[name].pid)
    assert {process.nice() for process in (worker, *worker.children(recursive=True))} == {expected}
