"""Answers of chat servers in all their shapes: each is read, and asked for once."""

import json
from typing import Any

import pytest

from tests.provider import Provider
from tests.provider.shapes import REFUSALS, THOUGHT
from worker.backends.llm import LLMChatBackend
from worker.chat import replies
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge
from worker.protocols import Reasoning, Reply

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Why do owls hunt at night?"},
]
STREAMS = [
    *("retry_block", "empty_data", "ids", "comments", "crlf", "cr", "byte_order_mark", "data_on_many_lines"),
    *("no_blank_lines", "lines_of_json", "pings", "delta_null", "no_delta", "no_finish_reason"),
    *("finish_reason_empty", "no_done", "null_choices", "whole_object", "parts"),
]
CHAT, RESPONSES = "gpt-4o-mini", "gpt-5-mini"


def make(provider: Provider, model_id: str = CHAT, **prompt_kwargs: Any) -> LLMChatBackend:
    init = {"key": "sk-of-the-stand-in", "api_base": provider.url}
    return LLMChatBackend(
        name="default", model_id=model_id, init_kwargs=init, token_limit=8_000, prompt_kwargs=prompt_kwargs
    )


def asked(backend: LLMChatBackend) -> tuple[Reply, list[str]]:
    pieces: list[str] = []
    return replies.read(backend.reply(MESSAGES, pieces.append), backend.model_id), pieces


@pytest.mark.parametrize("shape", STREAMS)
def test_a_stream_in_the_shape_of_another_server_is_the_answer_and_asked_for_once(
    provider: Provider, shape: str
) -> None:
    provider.answer = "Eulen jagen nachts, ohne Geräusch [1]."
    provider.inject(shape)
    reply, pieces = asked(make(provider))
    assert reply.text == provider.answer
    assert "".join(piece for piece in pieces if not isinstance(piece, Reasoning)) == provider.answer
    assert reply.finish_reason == ("unknown" if shape == "no_finish_reason" else "stop")
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "shape", ["retry_block", "empty_data", "ids", "crlf", "byte_order_mark", "whole_object"]
)
def test_streams_of_the_responses_api_are_read_in_the_same_way(provider: Provider, shape: str) -> None:
    provider.inject(shape)
    reply, _ = asked(make(provider, RESPONSES))
    assert (reply.text, reply.finish_reason) == (provider.answer, "stop")
    assert len(provider.requests) == 1


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/plain"])
def test_one_whole_object_is_taken_for_a_stream_whatever_its_type(
    provider: Provider, kind: str, indent: int | None
) -> None:
    provider.inject("whole_object", kind=kind, indent=indent)
    assert asked(make(provider))[0].text == provider.answer


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("shape", ["parts", "reasoning_content", "reasoning"])
def test_reasoning_beside_the_content_is_kept_apart(provider: Provider, shape: str, stream: bool) -> None:
    provider.inject(shape)
    reply, pieces = asked(make(provider, stream=stream))
    assert reply.text == provider.answer
    assert set(reply.reasoning.split("hm")) <= {"", THOUGHT}
    assert reply.reasoning == "".join(piece for piece in pieces if isinstance(piece, Reasoning)) != ""


def test_an_answer_is_whole_when_the_connection_breaks_after_its_end(provider: Provider) -> None:
    provider.inject("cut", after=7, abruptly=True)
    with pytest.raises(ProviderUnavailable):
        asked(make(provider))  # before its finish reason
    provider.inject("broken_after_end")
    assert asked(make(provider))[0].text == provider.answer


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("stop", "stop"),
        ("end_turn", "stop"),
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "content_filter"),
        ("content_filter: PROHIBITED_CONTENT", "content_filter"),
        ("SAFETY", "content_filter"),
        ("tool_calls", "tool_calls"),
        ("something new", "unknown"),
    ],
)
def test_a_cut_answer_is_returned_with_the_reason(
    provider: Provider, told: str, reason: str, stream: bool
) -> None:
    provider.inject("ended", reason=told, after=1)
    reply, _ = asked(make(provider, stream=stream))
    assert (reply.text, reply.finish_reason) == ("The ", reason)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("told", "kind", "sentence"),
    [
        ("content_filter", Refused, "content filter stopped the answer before its first word"),
        ("length", SettingsError, "raise max_tokens in PROMPT_KWARGS"),
        ("tool_calls", SettingsError, "calls a tool"),
        ("stop", ProviderUnavailable, "empty answer"),
    ],
)
def test_an_answer_without_a_word_is_told_as_what_it_is(
    provider: Provider, told: str, kind: type[Exception], sentence: str, stream: bool
) -> None:
    provider.inject("ended", reason=told, after=0)
    with pytest.raises(kind, match=sentence):
        asked(make(provider, stream=stream))


@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_is_the_text_with_its_reason(provider: Provider, stream: bool) -> None:
    provider.answer = "I can't help with that."
    provider.inject("refusal")
    reply, _ = asked(make(provider, stream=stream))
    assert (reply.text, reply.finish_reason) == (provider.answer, "refusal")


AZURE = {
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    "type": None,
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
}


@pytest.mark.parametrize("where", ["status", "stream"])
def test_a_filtered_question_is_refused_and_not_asked_again(provider: Provider, where: str) -> None:
    if where == "status":
        provider.inject("raw", body=json.dumps({"error": AZURE}), status=400)
    else:
        provider.inject("ended", reason=None, after=0, error=AZURE)
    with pytest.raises(Refused, match="content filter of the provider"):
        asked(make(provider))
    assert len(provider.requests) == 1


def test_a_filter_inside_of_a_stream_keeps_the_text_before_it(provider: Provider) -> None:
    provider.inject("ended", reason=None, after=2, error=AZURE)
    reply, _ = asked(make(provider))
    assert (reply.text, reply.finish_reason) == ("The answer ", "content_filter")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 502, "message": "Provider disconnected"}, ProviderUnavailable),
        ({"code": 429, "message": "Rate limit"}, ProviderUnavailable),
        ({"code": 401, "message": "No auth credentials found"}, SettingsError),
        ("out of memory", ProviderUnavailable),
    ],
)
def test_an_error_inside_of_a_stream_means_what_its_code_means(
    provider: Provider, error: Any, kind: type[Exception]
) -> None:
    provider.inject("ended", reason=None, after=1, error=error)
    with pytest.raises(kind) as raised:
        asked(make(provider))
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    "at", range(len(REFUSALS)), ids=[f"{part}-{at}" for at, (part, *_) in enumerate(REFUSALS)]
)
def test_a_server_gets_its_requests_without_what_it_refuses_and_loses_nothing(
    provider: Provider, at: int
) -> None:
    provider.inject("refusing", at=at, times=None)
    backend = make(provider, max_tokens=50)
    for _ in range(2):
        assert asked(backend)[0].text == provider.answer
    _, *others = provider.prompts
    assert len(others) == 2  # learnt from one refusal
    body = others[-1]
    match REFUSALS[at][0]:
        case "stream_options":
            assert "stream_options" not in body
            assert body["stream"]
        case "stream":
            assert body["stream"] is False
        case "system":
            assert body["messages"] == [{"role": "user", "content": f"Be brief.\n\n{MESSAGES[1]['content']}"}]
        case _:
            assert (body.get("max_tokens"), body["max_completion_tokens"]) == (None, 50)


def test_a_server_may_refuse_several_parts(provider: Provider) -> None:
    for at in (0, 6, 10):
        provider.inject("refusing", at=at)
    reply, pieces = asked(make(provider))
    assert (reply.text, pieces) == (provider.answer, [provider.answer])
    assert len(provider.requests) == 4


@pytest.mark.parametrize(
    ("kwargs", "status", "body", "named"),
    [
        (
            {"temperature": 0.2},
            400,
            {
                "error": {
                    "message": "Unsupported value: 'temperature' does not support 0.2.",
                    "param": "temperature",
                }
            },
            "temperature",
        ),
        (
            {"seed": 1},
            422,
            {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            "seed",
        ),
        ({"top_p": 0.5}, 400, {"message": "top_p is not supported by this model"}, "top_p"),
        (
            {"max_tokens": 50_000},
            400,
            {"error": {"message": "max_tokens is too large: 50000. This model supports at most 4096"}},
            "max_tokens",
        ),
        ({"json_object": True}, 400, {"error": "unknown parameter response_format"}, "json_object"),
    ],
)
def test_an_option_that_the_server_refuses_is_named_with_its_setting(
    provider: Provider, kwargs: dict[str, Any], status: int, body: Any, named: str
) -> None:
    provider.inject("raw", body=json.dumps(body), status=status, times=None)
    init = {"key": "sk-of-the-stand-in", "api_base": provider.url}
    backend = LLMChatBackend(
        name="careful", model_id=CHAT, init_kwargs=init, token_limit=100_000, prompt_kwargs=kwargs
    )
    with pytest.raises(SettingsError, match=f"refuses '{named}' in PROMPT_KWARGS of chat backend 'careful'"):
        asked(backend)
    assert len(provider.requests) == 1


@pytest.mark.parametrize("fault", ["content_policy", "unprocessable", "server_error", "too_large"])
def test_another_refusal_is_not_sent_again(provider: Provider, fault: str) -> None:
    provider.inject(fault, times=None)
    with pytest.raises((Refused, ProviderUnavailable, TooLarge)):
        asked(make(provider, temperature=0.5))
    assert len(provider.requests) == 1


def test_words_of_the_question_in_a_refusal_are_no_names_of_parameters(provider: Provider) -> None:
    detail = {
        "loc": ["body", "messages"],
        "msg": "Input is wrong",
        "input": "Unsupported: stream_options, system role",
    }
    provider.inject("raw", body=json.dumps({"detail": [detail]}), status=422, times=None)
    with pytest.raises(Refused):
        asked(make(provider))
    assert len(provider.requests) == 1
