"""Requests of every kind of chat model of `llm`, with PROMPT_KWARGS, as the provider receives them."""

import gc
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llm
import pytest
from llm.models import Conversation, Model, Options, Prompt, Response
from llm.plugins import pm
from pydantic import Field

from tests.fixtures.system import eventually
from tests.provider import Provider
from worker.backends import load_plugins
from worker.backends.llm import LLMChatBackend
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge, VectorIndexError

CHAT, RESPONSES, COMPLETIONS = "gpt-4o-mini", "gpt-5-mini", "gpt-3.5-turbo-instruct"
MODELS = (CHAT, RESPONSES, COMPLETIONS)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Why do owls hunt at night?"},
]
TRANSCRIPT = "Be brief.\n\nUser: Hello\n\nAssistant: Hi\n\nUser: Why do owls hunt at night?\n\nAssistant:"
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}


class Fake(Model):
    """A model of a plugin that streams its prompt back."""

    can_stream = True

    class Options(Options):
        warmth: int | None = Field(default=None, ge=0)

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self.asked: list[Any] = []
        self.silent = threading.Event()
        self.supports_conversation = model_id != "forgetful"

    def execute(
        self, prompt: Prompt, stream: bool, response: Response, conversation: Conversation | None
    ) -> Iterator[str]:
        turns = conversation.responses if conversation else []
        self.asked.append(
            (prompt.system, [(r.prompt.prompt, "".join(r._chunks)) for r in turns], prompt.prompt)
        )
        yield "One "
        if self.model_id == "silent":
            self.silent.wait(60)
        yield "two."


@pytest.fixture
def plugin() -> Iterator[dict[str, Fake]]:
    """Models registered through the plugin system of `llm`."""
    load_plugins()
    models = {name: Fake(name) for name in ("old", "silent", "forgetful")}

    class Plugin:
        @llm.hookimpl
        def register_models(self, register: Any) -> None:
            for model in models.values():
                register(model)

    registered = Plugin()
    pm.register(registered)
    yield models
    pm.unregister(registered)
    models["silent"].silent.set()


def make(provider: Provider, model_id: str = CHAT, **settings: Any) -> LLMChatBackend:
    init = {"key": "sk-of-the-stand-in", "api_base": provider.url, **settings.pop("init_kwargs", {})}
    return LLMChatBackend(name="default", model_id=model_id, init_kwargs=init, token_limit=8_000, **settings)


def make_of_plugin(model_id: str, **settings: Any) -> LLMChatBackend:
    return LLMChatBackend(name="default", model_id=model_id, token_limit=8_000, **settings)


@pytest.mark.parametrize("model_id", MODELS)
def test_each_openai_class_sends_the_whole_conversation_and_returns_the_answer(
    provider: Provider, model_id: str
) -> None:
    backend = make(provider, model_id, prompt_kwargs={"temperature": 0.5, "max_tokens": 99})
    pieces: list[str] = []
    reply = backend.reply(MESSAGES, pieces.append)
    (request,) = provider.requests
    body = request.body
    assert request.key == "sk-of-the-stand-in"
    assert (body["model"], body["temperature"]) == (model_id, 0.5)
    match model_id:
        case "gpt-4o-mini":
            assert (request.path, body["messages"], body["max_tokens"]) == (
                "/chat/completions",
                MESSAGES,
                99,
            )
        case "gpt-5-mini":
            assert (request.path, body["instructions"]) == ("/responses", "Be brief.")
            assert (body["input"], body["max_output_tokens"]) == (MESSAGES[1:], 99)
        case _:
            assert (request.path, body["prompt"], body["max_tokens"]) == ("/completions", TRANSCRIPT, 99)
    assert "".join(pieces) == reply.text == provider.answer
    assert len(pieces) == (1 if model_id == COMPLETIONS else 8)
    assert reply.output_tokens == 10
    assert reply.input_tokens > sum(
        backend.count_tokens(m["content"]) for m in MESSAGES
    )  # the provider counts more


@pytest.mark.parametrize("model_id", MODELS)
def test_an_answer_without_usage_is_counted_here_streamed_or_not(provider: Provider, model_id: str) -> None:
    provider.inject("no_usage", times=None)
    for stream in (True, False):
        backend = make(provider, model_id, prompt_kwargs={"stream": stream})
        reply = backend.reply(MESSAGES)
        assert (reply.text, reply.output_tokens) == (provider.answer, 10)
        assert reply.input_tokens == sum(backend.count_tokens(m["content"]) for m in MESSAGES)
    assert [bool(body.get("stream")) for body in provider.prompts] == [model_id != COMPLETIONS, False]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model_id", MODELS)
def test_an_answer_cut_off_by_max_tokens_is_returned_with_a_warning_in_the_log(
    provider: Provider, model_id: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    provider.inject("truncated")
    with caplog.at_level(logging.WARNING):
        reply = make(provider, model_id, prompt_kwargs={"stream": stream}).reply(MESSAGES)
    assert reply.text == provider.answer
    (told,) = [record for record in caplog.records if record.name == "vector_index.chat"]
    assert told.getMessage() == "answer_cut_off"
    assert told.fields["model"] == model_id  # type: ignore[attr-defined]


@pytest.mark.parametrize("abruptly", [True, False])
@pytest.mark.parametrize("model_id", MODELS)
def test_an_answer_that_breaks_off_is_never_returned_as_complete(
    provider: Provider, model_id: str, abruptly: bool
) -> None:
    provider.inject("cut", after=3, abruptly=abruptly)
    with pytest.raises(ProviderUnavailable, match=r"retry later|does not answer"):
        make(provider, model_id).reply(MESSAGES)


@pytest.mark.slow
@pytest.mark.parametrize("after", [None, 2])
@pytest.mark.parametrize("model_id", MODELS)
def test_a_silent_provider_times_out(provider: Provider, model_id: str, after: int | None) -> None:
    provider.inject("hang", after=after)
    with pytest.raises(ProviderUnavailable):
        make(provider, model_id, timeout_seconds=1.0).reply(MESSAGES)
    assert len(provider.requests) == 1


def test_one_client_serves_all_questions_of_a_process(provider: Provider) -> None:
    """Without streaming, since openai 3.54 closes the connection of a stream at its [DONE]."""
    backend = make(provider, prompt_kwargs={"stream": False})
    for _ in range(5):
        backend.reply(MESSAGES)
    assert provider.stats().connections == 1


@pytest.mark.parametrize("model_id", [CHAT, RESPONSES])
def test_an_abandoned_answer_is_ended_at_the_provider(provider: Provider, model_id: str) -> None:
    """At the next word, and not at garbage collection: until then the provider would continue and charge."""

    def stop(piece: str) -> None:
        raise LookupError

    provider.answer, provider.word_seconds = "word " * 1_000, 0.5  # otherwise it would last for minutes
    backend = make(provider, model_id)
    gc.disable()
    try:
        with pytest.raises(LookupError):
            backend.reply(MESSAGES, stop)
        eventually(lambda: not provider.open_connections)
    finally:
        gc.enable()


def test_a_plugin_with_its_own_client_keeps_it(plugin: dict[str, Fake]) -> None:
    """Other plugins also use the name `get_client`, and they report no finish reason."""
    plugin["old"].get_client = lambda key: None  # type: ignore[attr-defined]
    assert make_of_plugin("old").reply(MESSAGES).text == "One two."


def test_backends_of_one_model_never_mix_up_their_keys(provider: Provider) -> None:
    backends = {
        f"sk-{number}": make(
            provider,
            init_kwargs={"key": f"sk-{number}"},
            prompt_kwargs={"system_fragments": [f"sk-{number}"]},
        )
        for number in range(4)
    }
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: backends[key].reply(MESSAGES), list(backends) * 10))
    assert len(provider.requests) == 40
    for request in provider.requests:
        assert request.body["messages"][0]["content"] == f"{request.key}\n\nBe brief."


def test_all_prompt_kwargs_reach_the_provider(provider: Provider) -> None:
    backend = make(
        provider,
        prompt_kwargs={
            "system": "Mine.",
            "system_fragments": ["Always:"],
            "fragments": ["House rules."],
            "options": {"seed": 7, "stop": "END"},
            "json_object": True,
            "top_p": 0.5,
            "stream": False,
        },
    )
    backend.reply(MESSAGES)
    (body,) = provider.prompts
    assert backend.system == "Mine."
    assert body["messages"][0]["content"] == "Always:\n\nBe brief."
    assert body["messages"][-1]["content"] == f"House rules.\n{MESSAGES[-1]['content']}"
    assert (body["seed"], body["stop"], body["top_p"], body["stream"]) == (7, "END", 0.5, False)
    assert body["response_format"] == {"type": "json_object"}
    assert backend.prompt_tokens < 8_000 - 1_024


@pytest.mark.parametrize("model_id", [CHAT, RESPONSES])
def test_a_schema_reaches_the_provider(provider: Provider, model_id: str) -> None:
    make(provider, model_id, prompt_kwargs={"schema": SCHEMA}).reply(MESSAGES)
    (body,) = provider.prompts
    found = body["response_format"]["json_schema"] if model_id == CHAT else body["text"]["format"]
    assert found["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("model_id", "kwargs", "sentence"),
    [
        (CHAT, {"key": "sk-secret"}, "has 'key': set it in INIT_KWARGS"),
        (CHAT, {"prompt": "Hello"}, "has 'prompt': remove it"),
        (CHAT, {"messages": []}, "has 'messages': remove it"),
        (CHAT, {"tools": []}, "has 'tools': remove it"),
        (CHAT, {"stream": "no"}, "a stream of type str: set it to true or false"),
        (CHAT, {"fragments": "Hello"}, "'fragments', which is not a list of strings"),
        (CHAT, {"options": {"temperature": 9}}, "has 'temperature'"),
        (CHAT, {"options": {"seed": 1}, "seed": 2}, "seed"),
        (CHAT, {"max_completion_tokens": 9}, "has 'max_completion_tokens', .* use system, .*max_tokens"),
        ("gpt-4", {"schema": SCHEMA}, "does not support schemas"),
        (COMPLETIONS, {"schema": SCHEMA}, "does not support schemas"),
        (COMPLETIONS, {"json_object": True}, "has 'json_object'"),
        (RESPONSES, {"options": {"stop": "END"}}, "has 'stop', which the Responses API of gpt-5-mini"),
    ],
)
def test_an_option_that_a_model_does_not_support_is_reported_before_a_request(
    provider: Provider, model_id: str, kwargs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(
        SettingsError, match=f"^PROMPT_KWARGS of chat backend 'default' .*{sentence}"
    ) as error:
        make(provider, model_id, prompt_kwargs=kwargs)
    assert "sk-secret" not in str(error.value)
    assert not provider.requests


VALUES = {
    "temperature": 1,
    "max_tokens": 9,
    "top_p": 1,
    "frequency_penalty": 1,
    "presence_penalty": 1,
    "stop": "END",
    "logit_bias": {"1712": -100},
    "seed": 1,
    "json_object": True,
    "reasoning_effort": "low",
    "reasoning_summary": "auto",
    "verbosity": "low",
    "image_detail": "low",
    "service_tier": "flex",
    "chat_completions": True,
}


@pytest.mark.parametrize("model_id", MODELS)
def test_every_option_is_refused_at_start_or_reaches_the_provider(provider: Provider, model_id: str) -> None:
    """llm 0.36 accepts some options for the Responses API and fails when they are used."""
    refused = set()
    for name in llm.get_model(model_id).Options.model_fields:
        if name == "logprobs":
            continue  # only for completions
        try:
            backend = make(provider, model_id, prompt_kwargs={name: VALUES[name]})
        except SettingsError:
            refused.add(name)
        else:
            assert backend.reply(MESSAGES).text == provider.answer
    assert refused == (
        {"seed", "stop", "frequency_penalty", "presence_penalty", "logit_bias"}
        if model_id == RESPONSES
        else set()
    )


def test_a_model_of_the_responses_api_can_use_chat_completions(provider: Provider) -> None:
    """It keeps our client and key. llm would make another client, which waits for 600 s."""
    backend = make(provider, RESPONSES, prompt_kwargs={"chat_completions": True, "seed": 7, "stream": False})
    backend.reply(MESSAGES)
    backend.reply(MESSAGES)
    (request, _) = provider.requests
    assert (request.path, request.body["seed"], request.key) == (
        "/chat/completions",
        7,
        "sk-of-the-stand-in",
    )
    assert "chat_completions" not in request.body
    assert provider.stats().connections == 1


def test_a_model_without_system_messages_gets_one_prompt_text(provider: Provider) -> None:
    make(provider, init_kwargs={"allows_system_prompt": False}).reply(MESSAGES)
    assert provider.prompts[0]["messages"] == [{"role": "user", "content": TRANSCRIPT}]


def test_a_plugin_older_than_messages_finds_the_whole_conversation(plugin: dict[str, Fake]) -> None:
    """llm-cohere and llm-echo read `prompt.prompt`; llm-gemini reads the system message from `prompt.system` only."""
    make_of_plugin("old").reply(MESSAGES)
    assert plugin["old"].asked == [("Be brief.", [("Hello", "Hi")], "Why do owls hunt at night?")]


def test_a_plugin_without_conversations_gets_one_prompt_text(plugin: dict[str, Fake]) -> None:
    backend = make_of_plugin("forgetful")
    backend.reply(MESSAGES)
    backend.reply(MESSAGES[::3])
    assert plugin["forgetful"].asked == [
        ("", [], TRANSCRIPT),
        ("Be brief.", [], "Why do owls hunt at night?"),
    ]


def test_options_of_a_plugin_are_checked(plugin: dict[str, Fake]) -> None:
    make_of_plugin("old", prompt_kwargs={"warmth": 3})
    with pytest.raises(SettingsError, match=r"has 'temperature', which old does not accept .*warmth"):
        make_of_plugin("old", prompt_kwargs={"temperature": 1})


def test_a_plugin_without_a_timeout_times_out_and_is_called_again(plugin: dict[str, Fake]) -> None:
    pieces: list[str] = []
    with pytest.raises(ProviderUnavailable, match=r"^silent: nothing arrived for 0\.5 s; retry later"):
        make_of_plugin("silent", timeout_seconds=0.5).reply(MESSAGES, pieces.append)
    assert pieces == ["One "]
    plugin["silent"].silent.set()
    assert make_of_plugin("silent", timeout_seconds=60).reply(MESSAGES).text == "One two."


def test_an_unknown_context_window_must_be_set(plugin: dict[str, Fake]) -> None:
    with pytest.raises(SettingsError, match="TOKEN_LIMIT of chat backend 'default' is missing"):
        LLMChatBackend(name="default", model_id="old")
    assert LLMChatBackend(name="default", model_id="old", token_limit=1000).prompt_tokens == 750


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("unauthorized", SettingsError),
        ("forbidden", SettingsError),
        ("unknown_model", SettingsError),
        ("out_of_quota", SettingsError),
        ("too_large", TooLarge),
        ("payload_too_large", TooLarge),
        ("content_policy", Refused),
        ("unprocessable", Refused),
        ("rate_limited", ProviderUnavailable),
        ("server_error", ProviderUnavailable),
        ("unavailable", ProviderUnavailable),
        ("overloaded", ProviderUnavailable),
        ("bad_gateway", ProviderUnavailable),
        ("malformed_json", ProviderUnavailable),
        ("plain_text", ProviderUnavailable),
        ("empty_object", ProviderUnavailable),
    ],
)
def test_a_failure_has_the_same_meaning_for_every_model_and_is_not_retried_here(
    provider: Provider, fault: str, kind: type[VectorIndexError]
) -> None:
    for model_id in MODELS:
        for stream in (True, False):
            provider.reset()
            provider.inject(fault)
            with pytest.raises(kind) as error:
                make(provider, model_id, prompt_kwargs={"stream": stream}).reply(MESSAGES)
            assert type(error.value) is kind
            assert str(error.value).startswith(model_id)
            assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "20"}, 20.0), ({"retry-after-ms": "250"}, 0.25), ({}, None)],
)
def test_a_rate_limit_is_raised_at_once_with_its_time(
    provider: Provider, headers: dict[str, str], seconds: float | None
) -> None:
    provider.inject("rate_limited", headers=headers)
    began = time.monotonic()
    with pytest.raises(ProviderUnavailable) as error:
        make(provider).reply(MESSAGES)
    assert len(provider.requests) == 1
    assert time.monotonic() - began < 20
    assert (error.value.rate_limited, error.value.retry_after_seconds) == (True, seconds)


@pytest.mark.parametrize("model_id", MODELS)
def test_quotations_of_a_provider_are_hidden(provider: Provider, model_id: str) -> None:
    provider.inject("error", status=400, message="cannot take {json} from {key}", path=None)
    with pytest.raises(Refused, match="HTTP 400") as error:
        make(provider, model_id).reply([{"role": "user", "content": "Grüße an\nalle Eulen dieser Wälder"}])
    assert not [
        leak for leak in ("Gr", "Eulen", "W\\u00e4lder", "sk-of") if leak in str(error.value).split(":", 1)[1]
    ]
