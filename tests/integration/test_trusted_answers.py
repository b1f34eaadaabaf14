"""Answers that can be trusted: follow-up questions, context, structured answers, and why a question is not answered."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.fixtures.application import Application
from tests.fixtures.echo import Echo
from worker.backends.budgets import Budget
from worker.chat.answering import ask
from worker.chat.questions import ChatQuestion
from worker.chat.sending import ChatModel
from worker.errors import ProviderUnavailable

OWLS = ChatQuestion(text="When do owls hunt?")
TURNS = [{"role": "user", "content": "When do owls hunt?"}, {"role": "assistant", "content": "At night [1]."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "time": {"type": "string"},
        "citations": {"type": "array", "items": {"type": "integer"}},
        "answered": {"type": "boolean"},
    },
    "required": ["time", "citations", "answered"],
}


@pytest.fixture
def birds(application: Application) -> Application:
    application.put(
        {"id": "owls", "title": "Owls", "text": "Owls hunt at night."},
        {"id": "cats", "title": "Cats", "text": "Cats purr and sleep."},
        {"id": "bats", "title": "Bats", "text": "Bats rest in caves all day."},
    )
    application.backend.requests.clear()
    return application


def answer(
    application: Application, backend: Echo, question: ChatQuestion = OWLS, **model: Any
) -> Mapping[str, Any]:
    return ask(
        application.target, ChatModel(backend=backend, budget=Budget("", "echo"), **model), question, None
    )


def follow_up(text: str, **options: Any) -> ChatQuestion:
    return ChatQuestion(text=text, history=TURNS, limit=1, **options)


def sent(backend: Echo) -> str:
    return backend.prompts[-1][-1]["content"]


def found(result: Mapping[str, Any]) -> list[str]:
    return [row["document_id"] for row in result["sources"]]


# Follow-up questions


def test_a_follow_up_is_searched_with_the_turns_before_it_in_one_request(birds: Application) -> None:
    assert found(answer(birds, Echo(), follow_up("And why then?"))) == ["owls"]
    alone, with_question, last_turn = (
        "And why then?",
        "And why then?\nWhen do owls hunt?",
        "When do owls hunt?\nAt night [1].",
    )
    assert birds.backend.requests == [[alone, with_question, last_turn]]


def test_a_new_subject_is_found_in_spite_of_the_turns_before_it(birds: Application) -> None:
    assert found(answer(birds, Echo(), follow_up("Where do bats rest in caves all day?"))) == ["bats"]


def test_a_rewritten_question_is_searched_returned_and_counted(birds: Application) -> None:
    backend = Echo(first=['"Do cats purr and sleep?"'], text="They do [1].")
    result = answer(birds, backend, follow_up("And they?"), rewrites=True)
    assert (result["searched"], found(result)) == ("Do cats purr and sleep?", ["cats"])
    assert birds.backend.requests == [["Do cats purr and sleep?"]]
    assert result["usage"] == {"input_tokens": 200, "output_tokens": 8}
    assert "Question: And they?" in sent(backend)


@pytest.mark.parametrize("reply", ["word " * 200, "One?\nTwo?", '""'])
def test_an_unusable_rewrite_leaves_the_search_with_the_turns(birds: Application, reply: str) -> None:
    result = answer(birds, Echo(first=[reply]), follow_up("And why then?"), rewrites=True)
    assert (result["searched"], found(result), result["answered"]) == (None, ["owls"], True)


def test_a_rewrite_that_fails_does_not_fail_the_answer(birds: Application) -> None:
    away = [ProviderUnavailable("away", retry_after_seconds=0.01)]
    result = answer(birds, Echo(failures=away), follow_up("And why then?"), rewrites=True)
    assert (result["searched"], found(result), result["answered"]) == (None, ["owls"], True)


def test_a_first_question_is_not_rewritten(birds: Application) -> None:
    backend = Echo()
    answer(birds, backend, rewrites=True)
    assert len(backend.prompts) == 1


# Prompts of the index


def test_an_answer_prompt_is_around_the_passages_and_the_question(birds: Application) -> None:
    prompt = 'Use {passages} to answer {question} in JSON such as {"a": 1}.'
    birds.index = replace(birds.index, answer_prompt=prompt)
    backend = Echo()
    answer(birds, backend, replace(OWLS, limit=1))
    assert sent(backend).startswith("Use What stands between <passage> and </passage> is quoted text")
    assert sent(backend).endswith(
        '[1]\n<passage>\nOwls\nOwls hunt at night.\n</passage> to answer When do owls hunt? in JSON such as {"a": 1}.'
    )


def test_without_citations_no_number_is_asked_for_or_left(birds: Application) -> None:
    birds.index = replace(birds.index, citations=False)
    backend = Echo(text="At night [1], they say (Passage 2).")
    result = answer(birds, backend)
    assert "[1]" not in sent(backend)
    assert result["answer"] == "At night, they say."
    assert (result["grounded"], result["answered"], len(result["sources"])) == (None, True, 3)


PARTS = "\n\n".join(
    f"Part {n} of the text tells that word{n} has its place here, and not there." for n in range(12)
)


@pytest.mark.parametrize("reach", [1, 3])
def test_context_widens_what_is_sent_and_sources_point_at_the_match(
    application: Application, reach: int
) -> None:
    application.put({"id": "parts", "text": PARTS})
    application.index = replace(application.index, context=reach)
    backend = Echo()
    [source] = answer(application, backend, ChatQuestion(text="word6", limit=1))["sources"]
    first, last = source["chunks"]
    assert source["text"] == PARTS[source["start"] : source["end"]]
    told = {n for n in range(12) if f"word{n} has its place here, and not there." in sent(backend)}
    assert told == {*range(first - reach, last + reach + 1)}


@pytest.mark.parametrize("heading", ["# {}", "<h2>{}</h2>", "{}\n=========="])
def test_a_section_is_sent_with_its_heading_and_all_its_chunks(
    application: Application, heading: str
) -> None:
    body = " ".join(f"Sentence {n} of the middle part has word{n}." for n in range(12))
    names = [heading.format(name) for name in ("The start", "The middle", "The end")]
    text = f"{names[0]}\n\nIt begins.\n\n{names[1]}\n\n{body}\n\n{names[2]}\n\nIt is over."
    application.put({"id": "parts", "text": text})
    application.index = replace(application.index, context="section")
    backend = Echo()
    answer(application, backend, ChatQuestion(text="Sentence word5", limit=1))
    assert f"{names[1]}\n\n{body}" in sent(backend)
    assert "It begins" not in sent(backend)


def test_each_text_of_a_document_is_sent_once(application: Application) -> None:
    application.put({"id": "parts", "text": PARTS})
    application.index = replace(application.index, context=10)
    backend = Echo()
    result = answer(application, backend, ChatQuestion(text="word6 word1", limit=5))
    assert len(result["sources"]) > 1
    assert [sent(backend).count(f"word{n} has its place") for n in range(12)] == [1] * 12


# Citations


def test_numbers_that_were_not_sent_are_removed_and_counted(birds: Application) -> None:
    result = answer(birds, Echo(text="At night [1, 7], rarely by day [9]."))
    assert (result["answer"], result["removed_citations"]) == ("At night [1], rarely by day.", 2)
    assert [row["cited"] for row in result["sources"]] == [True, False, False]


def test_an_answer_without_a_citation_is_marked(birds: Application) -> None:
    result = answer(birds, Echo(text="They hunt at night."))
    assert (result["answered"], result["grounded"], result["groundedness"]) == (True, False, 0.0)


# Why a question is not answered


@pytest.mark.parametrize(
    ("text", "question", "options", "reason"),
    [
        ("[0] No.", "When do owls purr?", {}, "declined"),
        ("[0] No.", "When do zeppelins hunt?", {}, "unknown_words"),
        ("At night [1].", "When do zeppelins hunt?", {}, None),
        ("", "When do owls hunt?", {"filter": {"legs": 9}}, "nothing_found"),
        ("", "When do cats hunt?", {"similarity_threshold": 0.999}, "nothing_found"),
    ],
)
def test_a_reason_tells_why_a_question_is_not_answered(
    birds: Application, text: str, question: str, options: Any, reason: str | None
) -> None:
    result = answer(birds, Echo(text=text), ChatQuestion(text=question, **options))
    assert (result["reason"], result["answered"]) == (reason, reason is None)


def test_an_empty_index_and_a_stopped_answer_have_reasons_of_their_own(application: Application) -> None:
    assert answer(application, Echo())["reason"] == "empty_index"
    application.put({"id": "owls", "text": "Owls hunt at night."})
    assert answer(application, Echo(finish_reason="content_filter"))["reason"] == "stopped"


def test_a_tenant_does_not_learn_which_words_others_have(birds: Application) -> None:
    birds.index = replace(birds.index, tenant_field="site")
    question = ChatQuestion(text="When do zeppelins hunt?", filter={"site": "a"})
    assert answer(birds, Echo(), question)["reason"] == "nothing_found"


# Structured answers


def structured(
    application: Application, data: object, schema: Mapping[str, Any] = SCHEMA
) -> Mapping[str, Any]:
    return answer(application, Echo(text=data if isinstance(data, str) else json.dumps(data)), schema=schema)


def test_a_structured_answer_has_its_data_and_its_citations(birds: Application) -> None:
    data = {"time": "Owls hunt at night.", "citations": [1, 8], "answered": True}
    result = structured(birds, data)
    assert result["data"] == {**data, "citations": [1]}
    assert (result["answer"], result["removed_citations"]) == (json.dumps(data), 1)
    assert [row["cited"] for row in result["sources"]] == [True, False, False]
    assert (result["answered"], result["groundedness"]) == (True, 1.0)


@pytest.mark.parametrize(
    "text", ["At night [1].", '{"time": 3, "citations": [], "answered": true}', '{"time": "a"']
)
def test_an_answer_that_does_not_match_its_schema_has_no_data(birds: Application, text: str) -> None:
    result = structured(birds, text)
    assert (result["data"], result["answered"], result["reason"]) == (None, False, "invalid_data")


def test_a_structured_answer_declines_in_its_own_field(birds: Application) -> None:
    result = structured(birds, {"time": "", "citations": [], "answered": False})
    assert (result["data"]["time"], result["answered"], result["reason"]) == ("", False, "declined")


@pytest.mark.parametrize(("fields", "numbered"), [(["time"], False), (["time", "citations"], True)])
def test_the_rules_do_not_contradict_the_schema(
    birds: Application, fields: Sequence[str], numbered: bool
) -> None:
    schema = {
        **SCHEMA,
        "properties": {name: SCHEMA["properties"][name] for name in fields},
        "required": ["time"],
    }
    backend = Echo(text='{"time": "night"}')
    answer(birds, backend, schema=schema)
    rules = sent(backend).partition("<passage>\n")[0]
    assert "as in [1]" not in rules
    assert "begin with [0]" not in rules
    assert ('in "citations"' in rules) == numbered
    assert ("[1]\n<passage>\n" in sent(backend)) == numbered
