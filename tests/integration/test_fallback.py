"""A second chat backend answers while the first one is away, and no answer is a mixture of both."""

import json
import logging
from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.fixtures.application import Application, faulty
from tests.fixtures.echo import Echo
from worker import configuration, keyspace
from worker.backends.budgets import Budget
from worker.celery import startup_checks
from worker.chat.answering import ask
from worker.chat.questions import ChatQuestion
from worker.chat.sending import ChatModel
from worker.chat.stream import AnswerStream
from worker.errors import ProviderUnavailable, Refused, SettingsError, VectorIndexError

OWLS = ChatQuestion(text="When do owls hunt?")
BUSY = ProviderUnavailable("busy", retry_after_seconds=20.0, rate_limited=True)


@pytest.fixture
def birds(application: Application) -> Application:
    application.put(
        {"id": "owls", "title": "Owls", "text": "Owls hunt at night."},
        {"id": "cats", "title": "Cats", "text": "Cats purr. " * 12},
    )
    return application


def away(times: int = 3) -> list[VectorIndexError]:
    return [ProviderUnavailable("away", retry_after_seconds=0.01)] * times


def model(backend: Echo, fallback: ChatModel | None = None, **limits: int) -> ChatModel:
    return ChatModel(
        backend=backend, budget=Budget("", f"chat:{backend.model_id}", **limits), fallback=fallback
    )


def second(**options: Any) -> Echo:
    return Echo(model_id="second", text="In the dark [1].", **options)


def entries(url: str) -> list[tuple[str, Any]]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        rows: Any = client.xrange(keyspace.STREAM + "task")
    return [(entry["event"], json.loads(entry["data"])) for _, entry in rows]


def test_fallback_answers_after_the_attempts_at_the_first_model(
    birds: Application, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = Echo(failures=away()), second()
    result = ask(birds.target, model(first, model(other)), OWLS)
    assert (len(first.prompts), len(other.prompts)) == (3, 1)
    assert (result["model"], result["answer"]) == ("second", "In the dark [1].")
    (record,) = [record for record in caplog.records if record.message == "fallback"]
    assert record.levelno == logging.WARNING
    assert record.fields == {"backend": "chat:echo", "fallback": "chat:second", "error": "away"}  # type: ignore[attr-defined]


def test_prompt_of_the_fallback_fits_its_own_window_and_has_its_own_system_message(
    birds: Application,
) -> None:
    """The passages were retrieved once."""
    first, other = Echo(failures=[BUSY], system="You are the first."), second(system="You are the second.")
    other.prompt_tokens = 165
    requests = len(birds.backend.requests)
    result = ask(birds.target, model(first, model(other)), OWLS)
    assert [prompts[0][0]["content"] for prompts in (first.prompts, other.prompts)] == [
        "You are the first.",
        "You are the second.",
    ]
    long, short = first.prompts[0][-1]["content"], other.prompts[0][-1]["content"]
    assert (long.count("purr"), len(result["sources"])) == (12, short.count("<passage>\n"))
    assert short.count("purr") < 12
    assert sum(other.count_tokens(message["content"]) for message in other.prompts[0]) <= 165
    assert len(birds.backend.requests) == requests + 1


def test_long_wait_of_the_first_model_is_left_to_it_at_once(birds: Application) -> None:
    first = Echo(failures=[BUSY])
    assert ask(birds.target, model(first, model(second())), OWLS)["model"] == "second"
    assert len(first.prompts) == 1


def test_exhausted_budget_of_the_first_model_costs_no_request(birds: Application) -> None:
    first, other = Echo(), second()
    both = model(first, model(other), requests_per_minute=1)
    assert [ask(birds.target, both, OWLS)["model"] for _ in range(3)] == ["echo", "second", "second"]
    assert len(first.prompts) == 1


def test_first_model_rests_after_an_outage_and_is_asked_again(
    birds: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it rests, nobody waits for attempts that fail."""
    first = Echo(failures=[ProviderUnavailable("away")] * 3)
    both = model(first, model(second()))
    assert [ask(birds.target, both, OWLS)["model"] for _ in range(3)] == ["second"] * 3
    assert len(first.prompts) == 3
    monkeypatch.setattr(both.budget, "_times", [0.0, 0.0, 0.0])  # the rest has passed
    assert ask(birds.target, both, OWLS)["model"] == "echo"


def test_chain_of_fallbacks_ends_with_the_error_of_the_last(birds: Application) -> None:
    last = second(failures=[ProviderUnavailable("the last is busy", retry_after_seconds=20.0)])
    chain = model(Echo(failures=[BUSY]), model(Echo(model_id="b", failures=[BUSY]), model(last)))
    with pytest.raises(ProviderUnavailable, match=r"^the last is busy$"):
        ask(birds.target, chain, OWLS)


def test_answer_that_has_begun_stays_with_its_model(birds: Application, broker_url: str) -> None:
    first, other = Echo(failures=away(1), fail_after=2), second()
    with AnswerStream(broker_url, "task") as stream, pytest.raises(ProviderUnavailable, match=r"^away$"):
        ask(birds.target, model(first, model(other)), OWLS, stream)
    assert other.prompts == []


def test_readers_see_the_answer_of_the_fallback_alone(birds: Application, broker_url: str) -> None:
    with AnswerStream(broker_url, "task") as stream:
        result = ask(birds.target, model(Echo(failures=[BUSY]), model(second())), OWLS, stream)
    seen = entries(broker_url)
    assert [event for event, _ in seen] == ["sources", "sources", "token", "token", "token", "token", "done"]
    assert "".join(data for event, data in seen if event == "token") == result["answer"] == "In the dark [1]."


def test_provider_of_the_vectors_has_no_fallback(birds: Application) -> None:
    faulty(birds.backend, lambda _: ProviderUnavailable("no vectors"))
    first, other = Echo(), second()
    with pytest.raises(ProviderUnavailable, match=r"^no vectors$"):
        ask(birds.target, model(first, model(other)), OWLS)
    assert (first.prompts, other.prompts) == ([], [])


@pytest.mark.parametrize(
    "other",
    [
        second(prompt_tokens=20),  # too small for the question
        second(failures=[Refused("refused")]),
        second(failures=[SettingsError("wrong key")]),
    ],
)
def test_fallback_that_cannot_answer_leaves_the_error_of_the_first(birds: Application, other: Echo) -> None:
    """The question can be sent again when the first provider is back."""
    with pytest.raises(ProviderUnavailable, match=r"^busy$"):
        ask(birds.target, model(Echo(failures=[BUSY]), model(other)), OWLS)


@pytest.mark.parametrize("error", [Refused("refused"), SettingsError("wrong key")])
def test_error_that_is_no_outage_is_raised_at_once(birds: Application, error: VectorIndexError) -> None:
    other = second()
    with pytest.raises(type(error)):
        ask(birds.target, model(Echo(failures=[error]), model(other)), OWLS)
    assert other.prompts == []


def test_question_without_retrieval_goes_to_the_model_alone(birds: Application) -> None:
    """No passage, no rule on citing, no request for a vector."""
    history = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
    backend = Echo(system="Answer as a poet.", text="[0] is the first item [7].")
    requests = len(birds.backend.requests)
    result = ask(birds.target, model(backend), replace(OWLS, retrieve=False, history=history))
    assert backend.prompts == [
        [
            {"role": "system", "content": "Answer as a poet."},
            *history,
            {"role": "user", "content": OWLS.text},
        ]
    ]
    assert len(birds.backend.requests) == requests
    assert (result["answer"], result["answered"], result["sources"]) == (backend.text, True, [])
    assert (result["grounded"], result["removed_citations"]) == (None, 0)
    assert result.keys() == ask(birds.target, model(Echo()), OWLS).keys()


def test_model_that_declines_without_passages_has_not_answered(birds: Application) -> None:
    backend = Echo(text="This question cannot be answered from these documents.")
    result = ask(birds.target, model(backend), replace(OWLS, retrieve=False))
    assert (result["answered"], result["reason"]) == (False, "declined")


def test_question_without_retrieval_has_no_system_message_of_ours(birds: Application) -> None:
    backend = Echo()
    ask(birds.target, model(backend), replace(OWLS, retrieve=False))
    assert backend.prompts == [[{"role": "user", "content": OWLS.text}]]


def test_streamed_answer_without_retrieval_is_shown_as_it_comes(birds: Application, broker_url: str) -> None:
    backend = Echo(text="[0] is first.")
    with AnswerStream(broker_url, "task") as stream:
        ask(birds.target, model(backend), replace(OWLS, retrieve=False), stream)
    seen = entries(broker_url)
    assert seen[0] == ("sources", [])
    assert "".join(data for event, data in seen if event == "token") == backend.text


def test_history_of_a_question_without_retrieval_fits_the_window(birds: Application) -> None:
    history = [{"role": ("user", "assistant")[at % 2], "content": f"turn {at} " * 20} for at in range(60)]
    backend = Echo()
    ask(birds.target, model(backend), replace(OWLS, retrieve=False, history=history))
    (prompt,) = backend.prompts
    assert 1 < len(prompt) < 60
    assert prompt[-2]["content"] == history[-1]["content"]
    assert prompt[0]["role"] == "user"
    assert sum(backend.count_tokens(message["content"]) + 4 for message in prompt) + 3 <= 1_000


def test_fallback_answers_a_question_without_retrieval(birds: Application) -> None:
    result = ask(birds.target, model(Echo(failures=[BUSY]), model(second())), replace(OWLS, retrieve=False))
    assert result["model"] == "second"


def test_start_names_a_fallback_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any service runs: `vector-index up` checks the models first."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("BROKER_URL", raising=False)
    backends = {
        "speaks": {"CONFIG": {"MODEL_ID": "extractive", "FALLBACK": "is mute"}},
        "is mute": {"CONFIG": {"MODEL_ID": "no-such-model", "TOKEN_LIMIT": 100}},
    }
    sections = {
        "EMBEDDING_BACKENDS": {"embeds": {"CONFIG": {"MODEL_ID": "wordllama"}}},
        "CHAT_BACKENDS": backends,
        "INDEXES": {"default": {"EMBEDDING_BACKEND": "embeds", "CHAT_BACKEND": "speaks"}},
    }
    known = configuration.load({"VECTOR_INDEX": json.dumps(sections), "VECTOR_INDEX_HOME": "/nowhere"})
    monkeypatch.setattr(configuration, "current", lambda: known)
    with pytest.raises(
        SettingsError, match=r"^MODEL_ID 'no-such-model' of chat backend 'is mute' is unknown"
    ):
        startup_checks.check_models()
