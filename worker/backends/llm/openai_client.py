"""Configure the client of llm's OpenAI classes: one per process, without retries, with corrected answers."""

# openai is imported at its first use, so neither annotations nor this module's constants must use it
from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from typing import Any

import openai
from llm.default_plugins.openai_models import Chat, Responses
from llm.models import Model

OPENAI_CLASSES = (Chat, Responses)  # of llm; plugins derive classes from them


def with_persistent_client(model: Model, timeout_seconds: float) -> Model:
    """Let a model of OpenAI keep one client per process and key, with our timeout and without retries.

    llm makes a client for each call, which costs 22 ms of CPU, waits for 600 s, and retries inside the call. A child
    process makes its own client, since it cannot share connections. Models of other plugins stay as they are.
    """
    if isinstance(model, OPENAI_CLASSES):
        make = model.get_client
        made = lru_cache(maxsize=4)(lambda pid, key: _configured(make(key), timeout_seconds))
        # the asynchronous client is never used
        model.get_client = lambda key, *, async_=False: made(os.getpid(), key)
    return model


def _configured(client: openai.OpenAI, timeout_seconds: float) -> openai.OpenAI:
    client = client.with_options(timeout=timeout_seconds, max_retries=0)
    # a redirect would send the question, and all headers but Authorization, to any host that it names
    client._client.follow_redirects = False
    client.chat.completions.create = _with_usage(client.chat.completions.create)  # type: ignore[method-assign]
    client.responses.create = _with_end(client.responses.create)  # type: ignore[method-assign]
    return client


def _with_usage(create: Callable[..., Any]) -> Callable[..., Any]:
    """Add the usage to an answer without one, on which llm 0.36 fails although the answer has been paid for."""

    @wraps(create)
    def created(**request: Any) -> Any:
        answer = create(**request)
        if request["stream"]:
            return _closing(answer)
        if answer.usage is None:
            none = openai.types.CompletionUsage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
            answer.usage = none
        return answer

    return created


def _with_end(create: Callable[..., Any]) -> Callable[..., Any]:
    """Report a streamed response that max_output_tokens has cut off as completed, since llm 0.36 misses its end."""

    def completed(event: Any) -> Any:
        if event.type == "response.incomplete":
            return event.model_copy(update={"type": "response.completed"})
        return event

    @wraps(create)
    def created(**request: Any) -> Any:
        answer = create(**request)
        return map(completed, _closing(answer)) if request["stream"] else answer

    return created


def _closing(stream: openai.Stream[Any]) -> Iterator[Any]:
    """Close a stream when its reader stops. It refers to itself, so the provider would send, and charge, until it is
    garbage collected.
    """
    with stream:
        yield from stream
