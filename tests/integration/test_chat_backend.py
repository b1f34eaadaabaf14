"""The chat backend over OpenAI's HTTP API: requests, answers and failures."""

from typing import Any

import pytest

from tests.provider import Provider
from worker.backends.llm import LLMChatBackend
from worker.errors import ProviderUnavailable, SettingsError, TooLarge

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Why do owls hunt at night?"},
]


def make(provider: Provider, **settings: Any) -> LLMChatBackend:
    init = {"key": "sk-of-the-stand-in", "api_base": provider.url}
    defaults = {"name": "default", "model_id": "gpt-4o-mini", "init_kwargs": init}
    return LLMChatBackend(**{**defaults, **settings})


@pytest.fixture
def backend(provider: Provider) -> LLMChatBackend:
    return make(provider)


def test_messages_arrive_with_their_roles_and_options(provider: Provider) -> None:
    backend = make(
        provider, prompt_kwargs={"temperature": 0.2, "max_tokens": 50, "system": "Mine.", "seed": None}
    )
    reply = backend.reply(MESSAGES)
    (body,) = provider.prompts
    assert body["messages"] == MESSAGES
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0.2, 50, True)
    assert backend.system == "Mine."
    assert (reply.text, reply.output_tokens) == (provider.answer, 10)


def test_a_streamed_answer_arrives_word_by_word_with_its_usage(
    backend: LLMChatBackend, provider: Provider
) -> None:
    words: list[str] = []
    reply = backend.reply(MESSAGES, words.append)
    assert provider.prompts[0]["stream"] is True
    assert len(words) == 8
    assert "".join(words) == reply.text == provider.answer
    assert reply == backend.reply(MESSAGES)


def test_missing_usage_is_counted_here(backend: LLMChatBackend, provider: Provider) -> None:
    provider.inject("no_usage")
    reply = backend.reply(MESSAGES, lambda piece: None)
    assert (reply.input_tokens, reply.output_tokens) == (
        sum(backend.count_tokens(m["content"]) for m in MESSAGES),
        10,
    )


def test_a_model_that_cannot_stream_gets_no_streaming_request(provider: Provider) -> None:
    """The library llm would ask it to stream."""
    init = {"key": "sk-x", "api_base": provider.url, "can_stream": False}
    pieces: list[str] = []
    make(provider, init_kwargs=init).reply(MESSAGES, pieces.append)
    assert provider.prompts[0]["stream"] is False
    assert pieces == [provider.answer]


@pytest.mark.parametrize("words", [0, 3])
def test_a_stream_that_breaks_off_raises_a_temporary_error(
    backend: LLMChatBackend, provider: Provider, words: int
) -> None:
    provider.inject("cut", after=words)
    with pytest.raises(ProviderUnavailable, match="broke off"):
        backend.reply(MESSAGES, lambda piece: None)


def test_an_exception_of_the_reader_ends_the_request_and_passes_unchanged(
    backend: LLMChatBackend, provider: Provider
) -> None:
    def stop(piece: str) -> None:
        raise LookupError(piece)

    with pytest.raises(LookupError, match="The"):
        backend.reply(MESSAGES, stop)
    assert len(provider.prompts) == 1


def test_a_failure_is_raised_at_once_without_the_prompt_in_its_message(
    backend: LLMChatBackend, provider: Provider
) -> None:
    """The client library would wait and retry inside the call."""
    provider.inject("server_error")
    with pytest.raises(ProviderUnavailable, match="gpt-4o-mini: HTTP 500") as error:
        backend.reply(MESSAGES)
    assert len(provider.prompts) == 1
    assert "owls" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_prompt_over_the_limit_raises_too_large(backend: LLMChatBackend, provider: Provider) -> None:
    provider.inject("payload_too_large")
    with pytest.raises(TooLarge):
        backend.reply(MESSAGES)


def test_a_request_ends_after_its_timeout(provider: Provider) -> None:
    provider.latency_seconds = 600.0
    with pytest.raises(ProviderUnavailable):
        make(provider, timeout_seconds=1.0).reply(MESSAGES)
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"model_id": "gpt-4o-minni"},
            "MODEL_ID 'gpt-4o-minni' of chat backend 'default' is unknown .*gpt-4o-mini",
        ),
        ({"init_kwargs": {"api_key": "sk-secret"}}, "INIT_KWARGS of chat backend 'default' has 'api_key'"),
        (
            {"prompt_kwargs": {"temprature": 1}},
            "PROMPT_KWARGS .* has 'temprature', .* use system, .*temperature",
        ),
        ({"prompt_kwargs": {"temperature": 9}}, "PROMPT_KWARGS .* has 'temperature'"),
        ({"prompt_kwargs": {"system": 3}}, "has a system of type int"),
        ({"prompt_kwargs": {"max_tokens": 500}, "token_limit": 400}, "reserve 500 tokens for the answer"),
    ],
)
def test_invalid_settings_are_reported_when_the_backend_is_made(
    provider: Provider, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence) as error:
        make(provider, **settings)
    assert "sk-secret" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "prompt_tokens"),
    [
        ({}, 128_000 - 1_024),
        ({"token_limit": 2_000}, 1_500),
        ({"prompt_kwargs": {"max_tokens": 300}}, 127_700),
    ],
)
def test_room_for_the_answer_is_reserved(
    provider: Provider, settings: dict[str, Any], prompt_tokens: int
) -> None:
    assert make(provider, **settings).prompt_tokens == prompt_tokens
