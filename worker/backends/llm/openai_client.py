"""The client of the OpenAI classes of `llm`: made once, without retries of its own, and its answers mended."""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from typing import Any

import openai
from llm.default_plugins.openai_models import Chat, Responses
from llm.models import Model
from openai.types import CompletionUsage

OPENAI_CLASSES = (Chat, Responses)  # of llm, and what plugins derive from them

NO_USAGE = CompletionUsage(prompt_tokens=0, completion_tokens=0, total_tokens=0)


def with_lasting_client(model: Model, timeout_seconds: float) -> Model:
    """llm makes a client for each call, which costs 22 ms of CPU, waits for 600 s, and retries inside the call.

    Ours lasts as long as the process and the key; connections of a parent are not for its children. Other plugins
    have their own clients, and are left alone.
    """
    if isinstance(model, OPENAI_CLASSES):
        make = model.get_client
        made = lru_cache(maxsize=4)(lambda pid, key: _mended(make(key), timeout_seconds))
        # the asynchronous one is never asked for
        model.get_client = lambda key, *, async_=False: made(os.getpid(), key)
    return model


def _mended(client: openai.OpenAI, timeout_seconds: float) -> openai.OpenAI:
    client = client.with_options(timeout=timeout_seconds, max_retries=0)
    # the question, and all headers but Authorization, would go along to whatever host it names
    client._client.follow_redirects = False
    client.chat.completions.create = _with_usage(client.chat.completions.create)  # type: ignore[method-assign]
    client.responses.create = _with_end(client.responses.create)  # type: ignore[method-assign]
    return client


def _with_usage(create: Callable[..., Any]) -> Callable[..., Any]:
    """llm 0.36 fails on a whole answer without usage, which has been paid for."""

    @wraps(create)
    def created(**request: Any) -> Any:
        answer = create(**request)
        if request["stream"]:
            return _closed_when_left(answer)
        if answer.usage is None:
            answer.usage = NO_USAGE
        return answer

    return created


def _with_end(create: Callable[..., Any]) -> Callable[..., Any]:
    """llm 0.36 does not see the end of a streamed response that max_output_tokens has cut off."""

    def told(event: Any) -> Any:
        if event.type == "response.incomplete":
            return event.model_copy(update={"type": "response.completed"})
        return event

    @wraps(create)
    def created(**request: Any) -> Any:
        answer = create(**request)
        return map(told, _closed_when_left(answer)) if request["stream"] else answer

    return created


def _closed_when_left(stream: openai.Stream[Any]) -> Iterator[Any]:
    """The stream of the openai package refers to itself: until it is collected, a provider goes on, and is paid."""
    with stream:
        yield from stream
