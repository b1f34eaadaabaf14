"""The extractive model quotes the passages, and declines if none fits."""

import llm
import pytest

from tests.fixtures.passages import passage, room
from worker.backends import load_plugins
from worker.backends.llm import LLMChatBackend
from worker.chat import prompting
from worker.chat.citations import cited
from worker.chat.declining import declines
from worker.protocols import Reply

PASSAGES = [
    passage(
        "The lookup is fast. An enum value occupies four bytes on disk. Labels are case sensitive.",
        "Enum Types",
    ),
    passage("Release managers publish a feature version in October every year [3]_. See [2].", "PEP 602"),
    passage("Owls hunt at night. They eat mice and voles.", "Owls"),
]


@pytest.fixture(scope="module")
def backend() -> LLMChatBackend:
    return LLMChatBackend(name="default", model_id="extractive")


def ask(backend: LLMChatBackend, question: str) -> Reply:
    prompt = prompting.compose(question, PASSAGES, window=room(4000))
    return backend.reply(prompt.messages)


def test_extractive_quotes_a_sentence_with_the_number_of_its_passage(backend: LLMChatBackend) -> None:
    answer = ask(backend, "How many bytes does an enum value take on disk?").text
    assert answer.startswith("Quoted from the documents: “An enum value occupies four bytes on disk.” [1]")


def test_numbers_of_footnotes_are_not_citations(backend: LLMChatBackend) -> None:
    answer = ask(backend, "In which month does a new feature version come out each year?").text
    assert "October every year" in answer
    assert cited(answer, 3) == {2}


def test_a_question_inside_a_passage_is_ignored(backend: LLMChatBackend) -> None:
    faq = [*PASSAGES, passage("Question: What do owls eat?\nThey eat mice and voles.", "Questions")]
    prompt = prompting.compose("How many bytes does an enum value take on disk?", faq, window=room(4000))
    assert "An enum value occupies four bytes on disk" in backend.reply(prompt.messages).text


@pytest.mark.parametrize(
    "question", ["What is the capital of Mongolia?", "How do I roast coffee beans?", "???", "why"]
)
def test_extractive_declines_in_the_words_that_prompting_recognises(
    backend: LLMChatBackend, question: str
) -> None:
    assert declines(ask(backend, question).text, cites=False)


def test_extractive_is_deterministic_whole_and_streamed(backend: LLMChatBackend) -> None:
    prompt = prompting.compose("What do owls eat?", PASSAGES, window=room(4000))
    pieces: list[str] = []
    streamed = backend.reply(prompt.messages, pieces.append)
    assert streamed == backend.reply(prompt.messages)
    assert len(pieces) > 5
    assert "".join(pieces) == streamed.text
    assert streamed.input_tokens > 100
    assert streamed.output_tokens > 5


def test_extractive_declines_without_passages(backend: LLMChatBackend) -> None:
    assert declines(backend.reply([{"role": "user", "content": "Hello?"}]).text, cites=False)


def test_llm_lists_it() -> None:
    load_plugins()
    assert "extractive" in {model.model_id for model in llm.get_models()}
