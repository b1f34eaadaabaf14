"""A question becomes an answer with citations: retrieval, retries, and the stream that readers follow."""

import json
from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.fixtures.application import Application, HashBackend, faulty
from tests.fixtures.echo import Echo
from worker import keyspace
from worker.backends.budgets import Budget
from worker.chat.answering import ask
from worker.chat.questions import ChatQuestion
from worker.chat.sending import ChatModel
from worker.chat.stream import AnswerStream, Revoked
from worker.chat_results import FinishReason
from worker.errors import (
    InvalidQuery,
    ProviderUnavailable,
    Refused,
    ServiceUnreachable,
    SettingsError,
    VectorIndexError,
)
from worker.passages import Passage

OWLS = ChatQuestion(text="When do owls hunt?")


@pytest.fixture
def birds(application: Application) -> Application:
    application.put(
        {"id": "owls", "title": "Owls", "text": "Owls hunt at night."},
        {"id": "cats", "title": "Cats", "text": "Cats purr."},
    )
    application.backend.requests.clear()
    return application


@pytest.fixture
def stream(broker_url: str) -> AnswerStream:
    return AnswerStream(broker_url, "task")


def answer(
    application: Application,
    backend: Echo,
    question: ChatQuestion = OWLS,
    stream: AnswerStream | None = None,
) -> dict[str, Any]:
    return ask(application.target, ChatModel(backend=backend, budget=Budget("", "echo")), question, stream)


def found(application: Application) -> list[Passage]:
    return application.passages(OWLS.text)


def away(times: int, message: str = "away") -> list[VectorIndexError]:
    return [ProviderUnavailable(message, retry_after_seconds=0.01)] * times


def fail_embedding(backend: HashBackend, errors: list[VectorIndexError]) -> None:
    """Let the next requests for vectors fail with these errors."""
    faulty(backend, lambda _: errors.pop(0) if errors else None)


def entries(url: str) -> list[tuple[str, Any]]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        rows: Any = client.xrange(keyspace.STREAM + "task")
    return [(entry["event"], json.loads(entry["data"])) for _, entry in rows]


def events(url: str) -> list[str]:
    return [event for event, _ in entries(url)]


def test_a_result_has_the_answer_the_cited_sources_and_the_usage(birds: Application) -> None:
    owls, cats = found(birds)
    assert answer(birds, Echo()) == {
        "answer": "At night [1].",
        "answered": True,
        "reason": None,
        "finish_reason": "stop",
        "reasoning": "",
        "sources": [{**owls.as_json(), "cited": True}, {**cats.as_json(), "cited": False}],
        "grounded": True,
        "groundedness": 1.0,
        "removed_citations": 0,
        "searched": None,
        "model": "echo",
        "usage": {"input_tokens": 100, "output_tokens": 3},
    }


def test_without_passages_the_model_is_not_asked(application: Application) -> None:
    backend = Echo()
    result = answer(application, backend)
    assert backend.prompts == []
    assert result["answer"] == "The index 'default' holds no documents."
    assert (result["answered"], result["sources"]) == (False, [])
    assert result["usage"] == {"input_tokens": 0, "output_tokens": 0}


def test_answered_is_false_when_the_model_declines(birds: Application) -> None:
    declined = "This question cannot be answered from these documents."
    assert not answer(birds, Echo(text=declined))["answered"]


@pytest.mark.parametrize("text", ["[0] Azt nem lehet tudni.", "[0]\n\nAzt nem lehet tudni."])
def test_the_mark_of_a_declined_question_is_never_shown(
    birds: Application, stream: AnswerStream, broker_url: str, text: str
) -> None:
    with stream:
        result = answer(birds, Echo(text=text), stream=stream)
    assert (result["answer"], result["answered"]) == ("Azt nem lehet tudni.", False)
    assert "".join(data for event, data in entries(broker_url) if event == "token") == result["answer"]


def test_sources_are_the_passages_in_the_prompt(application: Application) -> None:
    application.put(*[{"id": n, "text": f"word{n} " * 100} for n in range(20)])
    result = answer(application, Echo(text="Yes [3]."), ChatQuestion(text="Which words?", limit=20))
    assert 3 < len(result["sources"]) < 20
    assert [row["cited"] for row in result["sources"]].index(True) == 2


@pytest.mark.parametrize(("own", "of_index", "sent"), [("A", "B", "A"), (None, "B", "B"), ("", "B", "")])
def test_the_backend_overrides_the_query_prompt_of_the_index(
    birds: Application, own: str | None, of_index: str, sent: str
) -> None:
    birds.index = replace(birds.index, query_prompt=of_index)
    backend = Echo(system=own)
    answer(birds, backend)
    assert backend.prompts[0][0] == {"role": "system", "content": sent}


def test_an_unavailable_model_is_tried_three_times_with_the_same_passages(birds: Application) -> None:
    backend = Echo(failures=away(2))
    assert answer(birds, backend)["answered"]
    assert len(backend.prompts) == 3
    assert len(birds.backend.requests) == 1
    with pytest.raises(ProviderUnavailable, match="away"):
        answer(birds, Echo(failures=away(3)))


def test_retrieval_and_the_model_share_the_three_attempts(birds: Application) -> None:
    fail_embedding(birds.backend, away(1))
    assert answer(birds, Echo(failures=away(1)))["answered"]
    fail_embedding(birds.backend, away(2))
    backend = Echo(failures=away(1, "third failure"))
    another = ChatQuestion(text="Where do owls hunt?")  # the vector of the first one is remembered
    with pytest.raises(ProviderUnavailable, match="third failure"):
        answer(birds, backend, another)
    assert len(backend.prompts) == 1


@pytest.mark.parametrize("error", [Refused("no"), ProviderUnavailable("in a minute", retry_after_seconds=60)])
def test_an_error_that_cannot_pass_within_seconds_is_raised_at_once(
    birds: Application, error: VectorIndexError
) -> None:
    backend = Echo(failures=[error])
    with pytest.raises(type(error)):
        answer(birds, backend)
    assert len(backend.prompts) == 1


def test_a_stream_has_the_sources_the_tokens_and_the_result(
    birds: Application, stream: AnswerStream, broker_url: str
) -> None:
    with stream:
        result = answer(birds, Echo(), stream=stream)
    assert entries(broker_url) == [
        ("sources", [row.as_json() for row in found(birds)]),
        ("token", "At"),
        ("token", " night"),
        ("token", " [1]."),
        ("done", result),
    ]
    with redis.Redis.from_url(broker_url) as client:
        assert 590 < client.ttl(keyspace.STREAM + "task") <= 600


def test_the_last_event_has_the_answer_without_numbers_that_were_not_sent(
    birds: Application, stream: AnswerStream, broker_url: str
) -> None:
    """The tokens are sent before the answer is whole, so they have what the model wrote."""
    with stream:
        result = answer(birds, Echo(text="At night [1, 9]."), stream=stream)
    assert "".join(data for event, data in entries(broker_url) if event == "token") == "At night [1, 9]."
    assert result["answer"] == "At night [1]."
    assert entries(broker_url)[-1] == ("done", result)


def test_a_stream_without_passages_has_no_token(
    application: Application, stream: AnswerStream, broker_url: str
) -> None:
    with stream:
        result = answer(application, Echo(), stream=stream)
    assert entries(broker_url) == [("sources", []), ("done", result)]


THOUGHTFUL = "<think>\nCats [2] purr.\n</think>\n\nAt night [1]."


@pytest.mark.parametrize(
    "model",
    [
        Echo(text=THOUGHTFUL),
        Echo(reasoning=["Cats ", "[2] purr."]),
        Echo(text=THOUGHTFUL.removeprefix("<think>\n"), model_id="opened in its prompt"),
    ],
)
def test_reasoning_is_no_part_of_the_answer_and_cites_nothing(birds: Application, model: Echo) -> None:
    result = answer(birds, model)
    assert (result["answer"], result["reasoning"]) == ("At night [1].", "Cats [2] purr.")
    assert [row["cited"] for row in result["sources"]] == [True, False]


@pytest.mark.parametrize("model", [Echo(text=THOUGHTFUL), Echo(reasoning=["Cats ", "[2] purr."])])
def test_a_stream_has_the_reasoning_as_events_of_its_own(
    birds: Application, stream: AnswerStream, broker_url: str, model: Echo
) -> None:
    with stream:
        answer(birds, model, stream=stream)
    found = entries(broker_url)
    assert "".join(data for event, data in found if event == "token") == "At night [1]."
    assert "".join(data for event, data in found if event == "reasoning").strip() == "Cats [2] purr."


def test_a_stream_starts_anew_when_its_text_turns_out_to_be_reasoning(
    birds: Application, broker_url: str
) -> None:
    """The first time; the next answer of the model begins as reasoning."""
    model = Echo(text="Cats purr.</think>At night [1].", model_id="thinks in its prompt")
    for expected in (
        ["sources", "token", "token", "sources", "reasoning", "token", "token", "token", "done"],
        ["sources", "reasoning", "reasoning", "token", "token", "token", "done"],
    ):
        with AnswerStream(broker_url, "task") as stream:
            result = answer(birds, model, stream=stream)
        assert events(broker_url) == expected
        assert (result["answer"], result["reasoning"]) == ("At night [1].", "Cats purr.")


@pytest.mark.parametrize(
    ("text", "reason", "answered"),
    [
        ("At night [1]", "length", True),
        ("At night [1] the", "content_filter", False),
        ("I can't help with that.", "refusal", False),
    ],
)
def test_what_a_filter_stopped_or_the_model_refused_is_no_answer(
    birds: Application, text: str, reason: FinishReason, answered: bool
) -> None:
    backend = Echo(text=text, finish_reason=reason)
    result = answer(birds, backend)
    assert (result["answer"], result["finish_reason"], result["answered"]) == (text, reason, answered)


@pytest.mark.parametrize(
    ("text", "reason", "kind", "requests"),
    [
        ("", "content_filter", Refused, 1),
        ("", "refusal", Refused, 1),
        ("", "length", SettingsError, 1),
        ("<think>Cats purr, and", "length", SettingsError, 1),
        ("", "tool_calls", SettingsError, 1),
    ],
)
def test_an_answer_without_a_word_is_asked_for_once(
    birds: Application, text: str, reason: FinishReason, kind: type[Exception], requests: int
) -> None:
    backend = Echo(text=text, finish_reason=reason)
    with pytest.raises(kind, match=r"^echo: "):
        answer(birds, backend)
    assert len(backend.prompts) == requests


def test_an_answer_is_never_retried_after_its_first_token(
    birds: Application, stream: AnswerStream, broker_url: str
) -> None:
    backend = Echo(failures=away(1, "broke off"), fail_after=1)
    with pytest.raises(ProviderUnavailable), stream:
        answer(birds, backend, stream=stream)
    assert events(broker_url) == ["sources", "token", "error"]
    assert entries(broker_url)[-1] == ("error", "broke off")


def test_a_stream_is_retried_before_its_first_token_and_has_its_sources_once(
    birds: Application, stream: AnswerStream, broker_url: str
) -> None:
    with stream:
        answer(birds, Echo(failures=away(1)), stream=stream)
    assert events(broker_url) == ["sources", "token", "token", "token", "done"]


def test_a_stream_that_cannot_be_written_is_not_retried(birds: Application) -> None:
    backend = Echo()
    with pytest.raises(ServiceUnreachable, match="RESULT_BACKEND"):
        answer(birds, backend, stream=AnswerStream("redis://127.0.0.1:1/0", "task"))
    assert (len(birds.backend.requests), backend.prompts) == (1, [])


def test_a_revoked_question_ends_between_two_tokens(birds: Application, broker_url: str) -> None:
    asked = iter([False, True])
    stream = AnswerStream(broker_url, "task", revoked=lambda: next(asked))
    with pytest.raises(Revoked), stream:
        answer(birds, Echo(), stream=stream)
    assert events(broker_url) == ["sources", "token", "error"]
    assert "revoked" in entries(broker_url)[-1][1]


def test_a_second_run_of_the_task_starts_the_stream_anew(birds: Application, broker_url: str) -> None:
    for text in ("First run.", "Second."):
        with AnswerStream(broker_url, "task") as stream:
            answer(birds, Echo(text=text), stream=stream)
    assert [data for event, data in entries(broker_url) if event == "token"] == ["Second."]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ServiceUnreachable("Postgres is away"), "Postgres is away"),
        (RuntimeError("with a secret"), "RuntimeError: see the worker's log"),
    ],
)
def test_every_exception_ends_the_stream_with_an_error(
    stream: AnswerStream, broker_url: str, error: Exception, told: str
) -> None:
    with pytest.raises(type(error)), stream:
        raise error
    assert entries(broker_url) == [("error", told)]


def test_an_unreachable_stream_server_is_reported_with_its_setting() -> None:
    stream = AnswerStream("redis://127.0.0.1:1/0", "task")
    with pytest.raises(ServiceUnreachable, match="RESULT_BACKEND"), stream:
        pass


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"text": " "}, "question must be a string with at least one word"),
        ({"text": 3}, "question must be a string"),
        ({"limit": 0}, "limit must be a whole number from 1 to 100, not 0"),
        ({"history": {"role": "user"}}, 'history must be a list of {"role", "content"}, not dict'),
        ({"history": "Hello"}, "history must be a list"),
        ({"history": ["Hello"]}, r"history\[0\] must be an object"),
        (
            {"history": [{"role": "system", "content": "x"}]},
            r"history\[0\] has the role 'system': use user or assistant",
        ),
        ({"history": [{"role": "user", "content": None}]}, r"history\[0\] has a content of type NoneType"),
        ({"history": [{"role": ["user"], "content": "x"}]}, r"history\[0\] has the role"),
    ],
)
def test_an_invalid_argument_is_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidQuery, match=sentence):
        ChatQuestion(**{"text": "Why?", **arguments})


def test_an_empty_index_is_told_from_one_without_an_answer(birds: Application) -> None:
    """The documents of a filter that matches none do not answer; an index without documents says so."""
    unmatched = ChatQuestion(text="When do owls hunt?", filter={"legs": 9})
    assert (
        answer(birds, Echo(), unmatched)["answer"] == "This question cannot be answered from these documents."
    )
    birds.delete("owls", "cats")
    result = answer(birds, Echo())
    assert (result["answer"], result["answered"]) == ("The index 'default' holds no documents.", False)
    birds.stage({"id": "owls", "text": "Owls hunt at night."})
    result = answer(birds, Echo())
    assert (result["answer"], result["answered"]) == (
        "The index 'default' holds no searchable documents yet.",
        False,
    )
