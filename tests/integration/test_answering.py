"""From passages to an answer: citations, attempts, and the stream that any number of readers reads."""

import json
from typing import Any

import pytest
import redis

from tests.fixtures.echo import Echo
from tests.fixtures.passages import passage
from worker import keyspace
from worker.chat.answering import Question, Revoked, Stream, answer
from worker.errors import InvalidQuery, ProviderUnavailable, Refused, ServiceUnreachable, VectorIndexError

PASSAGES = [passage("Owls hunt at night.", "Owls"), passage("Cats purr.", "Cats")]
OWLS = Question(text="When do owls hunt?")


@pytest.fixture
def stream(broker_url: str) -> Stream:
    return Stream(broker_url, "task")


def entries(url: str) -> list[tuple[str, Any]]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        found: Any = client.xrange(keyspace.STREAM + "task")
    return [(entry["event"], json.loads(entry["data"])) for _, entry in found]


def test_the_result_names_what_was_cited_and_what_it_cost() -> None:
    assert answer(Echo(), OWLS, PASSAGES) == {
        "answer": "At night [1].",
        "answered": True,
        "sources": [{**PASSAGES[0].as_json(), "cited": True}, {**PASSAGES[1].as_json(), "cited": False}],
        "model": "echo",
        "usage": {"input_tokens": 100, "output_tokens": 3},
    }


def test_without_passages_nothing_is_sent() -> None:
    backend = Echo()
    result = answer(backend, OWLS, [])
    assert backend.prompts == []
    assert result["answer"] == "This question cannot be answered from these documents."
    assert (result["answered"], result["sources"]) == (False, [])
    assert result["usage"] == {"input_tokens": 0, "output_tokens": 0}


def test_a_model_that_declines_has_not_answered() -> None:
    assert not answer(Echo(text="This question cannot be answered from these documents."), OWLS, PASSAGES)[
        "answered"
    ]


def test_sources_are_the_passages_that_the_model_was_given() -> None:
    result = answer(Echo(text="Yes [3]."), OWLS, [passage("word " * 300)] * 20)
    assert 1 < len(result["sources"]) < 20
    assert [row["cited"] for row in result["sources"]].index(True) == 2


@pytest.mark.parametrize(("own", "of_index", "sent"), [("A", "B", "A"), (None, "B", "B"), ("", "B", "")])
def test_the_system_message_of_the_backend_wins_over_the_index(
    own: str | None, of_index: str, sent: str
) -> None:
    backend = Echo(system=own)
    answer(backend, OWLS, PASSAGES, system=of_index)
    assert backend.prompts[0][0] == {"role": "system", "content": sent}


def test_a_provider_that_is_away_is_tried_three_times() -> None:
    backend = Echo(failures=[ProviderUnavailable("away", retry_after_seconds=0.01)] * 2)
    assert answer(backend, OWLS, PASSAGES)["answered"]
    assert len(backend.prompts) == 3
    with pytest.raises(ProviderUnavailable, match="away"):
        answer(Echo(failures=[ProviderUnavailable("away", retry_after_seconds=0.01)] * 3), OWLS, PASSAGES)


@pytest.mark.parametrize("error", [Refused("no"), ProviderUnavailable("in a minute", retry_after_seconds=60)])
def test_what_cannot_succeed_soon_is_reported_at_once(error: VectorIndexError) -> None:
    backend = Echo(failures=[error])
    with pytest.raises(type(error)):
        answer(backend, OWLS, PASSAGES)
    assert len(backend.prompts) == 1


def test_a_stream_is_sources_tokens_and_the_whole_result(stream: Stream, broker_url: str) -> None:
    with stream:
        result = answer(Echo(), OWLS, PASSAGES, stream=stream)
    assert entries(broker_url) == [
        ("sources", [row.as_json() for row in PASSAGES]),
        ("token", "At"),
        ("token", " night"),
        ("token", " [1]."),
        ("done", result),
    ]
    with redis.Redis.from_url(broker_url) as client:
        assert 590 < client.ttl(keyspace.STREAM + "task") <= 600


def test_a_stream_without_passages_has_no_token(stream: Stream, broker_url: str) -> None:
    with stream:
        result = answer(Echo(), OWLS, [], stream=stream)
    assert entries(broker_url) == [("sources", []), ("done", result)]


def test_an_answer_that_broke_off_after_its_first_token_is_not_begun_again(
    stream: Stream, broker_url: str
) -> None:
    backend = Echo(failures=[ProviderUnavailable("broke off", retry_after_seconds=0.01)], fail_after=1)
    with pytest.raises(ProviderUnavailable), stream:
        answer(backend, OWLS, PASSAGES, stream=stream)
    assert [event for event, _ in entries(broker_url)] == ["sources", "token", "error"]
    assert entries(broker_url)[-1] == ("error", "broke off")


def test_before_its_first_token_it_is_tried_again(stream: Stream, broker_url: str) -> None:
    backend = Echo(failures=[ProviderUnavailable("away", retry_after_seconds=0.01)])
    with stream:
        answer(backend, OWLS, PASSAGES, stream=stream)
    assert [event for event, _ in entries(broker_url)] == ["sources", "token", "token", "token", "done"]


def test_a_revoked_question_ends_between_two_tokens(stream: Stream, broker_url: str) -> None:
    asked = iter([False, True])
    with pytest.raises(Revoked), stream:
        answer(Echo(), OWLS, PASSAGES, stream=stream, revoked=lambda: next(asked))
    assert [event for event, _ in entries(broker_url)] == ["sources", "token", "error"]
    assert "revoked" in entries(broker_url)[-1][1]


def test_a_task_that_runs_again_starts_the_stream_anew(broker_url: str) -> None:
    for text in ("First run.", "Second."):
        with Stream(broker_url, "task") as stream:
            answer(Echo(text=text), OWLS, PASSAGES, stream=stream)
    assert [data for event, data in entries(broker_url) if event == "token"] == ["Second."]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ServiceUnreachable("Postgres is away"), "Postgres is away"),
        (RuntimeError("with a secret"), "RuntimeError: see the worker's log"),
    ],
)
def test_whatever_ends_an_answer_ends_its_stream(
    stream: Stream, broker_url: str, error: Exception, told: str
) -> None:
    with pytest.raises(type(error)), stream:
        raise error
    assert entries(broker_url) == [("error", told)]


def test_a_server_of_streams_that_is_away_is_told_with_the_setting() -> None:
    with pytest.raises(ServiceUnreachable, match="RESULT_BACKEND"), Stream("redis://127.0.0.1:1/0", "task"):
        pass


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"text": " "}, "question must be a string with at least one word"),
        ({"text": 3}, "question must be a string"),
        ({"history": {"role": "user"}}, 'history must be a list of {"role", "content"}, not dict'),
        ({"history": "Hello"}, "history must be a list"),
        ({"history": ["Hello"]}, r"history\[0\] must be an object"),
        (
            {"history": [{"role": "system", "content": "x"}]},
            r"history\[0\] has the role 'system': give user or assistant",
        ),
        ({"history": [{"role": "user", "content": None}]}, r"history\[0\] has a content of type NoneType"),
        ({"history": [{"role": ["user"], "content": "x"}]}, r"history\[0\] has the role"),
    ],
)
def test_wrong_arguments_are_told_in_a_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidQuery, match=sentence):
        Question(**{"text": "Why?", **arguments})
