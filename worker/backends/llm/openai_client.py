"""Configure the client of llm's OpenAI classes: one per process, without retries, with corrected answers."""

# openai is imported at its first use, so neither annotations nor this module's constants must use it
from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial, wraps
from typing import Any

import openai
from llm.default_plugins.openai_models import Chat, Responses
from llm.models import Model

from worker.backends.llm import chat_completions
from worker.backends.llm.chat_completions import ServerError
from worker.backends.llm.dialect import Dialect
from worker.backends.llm.event_stream import objects
from worker.backends.urls import with_query_behind_path

OPENAI_CLASSES = (Chat, Responses)  # of llm; plugins derive classes from them
# events of the Responses API that llm 0.36 does not read, and those that it takes instead
SHOWN_AS = {
    "response.incomplete": "response.completed",
    "response.refusal.delta": "response.output_text.delta",
}


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


def speaking(model: Model, dialect: Dialect) -> Model:
    """A copy of the model that sends what its server takes, and reads whatever it answers."""
    model = copy.copy(model)
    if isinstance(model, Chat) and type(model).execute is Chat.execute:  # a plugin may have its own
        model.execute = partial(chat_completions.execute, model, dialect)
    return model


def _configured(client: openai.OpenAI, timeout_seconds: float) -> openai.OpenAI:
    client = with_query_behind_path(client.with_options(timeout=timeout_seconds, max_retries=0))
    # a redirect would send the question, and all headers but Authorization, to any host that it names
    client._client.follow_redirects = False
    client.responses.create = _with_every_event(client, client.responses.create)  # type: ignore[method-assign]
    return client


def _with_every_event(client: openai.OpenAI, create: Callable[..., Any]) -> Callable[..., Any]:
    """Read a streamed response as `event_stream` does, and show llm 0.36 the events that it misses as others.

    A response that ended early is completed, a refusal is text, and a failure is an exception.
    """

    def shown(event: Any) -> Any:
        if event.type in ("response.failed", "error"):
            failure = event.response.error if event.type == "response.failed" else event
            raise ServerError(failure.to_dict() if failure else {})
        return event.model_copy(update={"type": SHOWN_AS.get(event.type, event.type)})

    @wraps(create)
    def created(**request: Any) -> Any:
        answer = create(**request)
        return map(shown, _events(client, answer)) if request["stream"] else answer

    return created


def _events(client: openai.OpenAI, stream: openai.Stream[Any]) -> Iterator[Any]:
    """The events of a stream, as regular as openai 3.54 needs them.

    Closes the stream when its reader stops. It refers to itself, so the provider would send, and charge, until it is
    garbage collected.
    """

    import httpx2  # which openai has imported by now

    def lines() -> Iterator[bytes]:
        for item in objects(stream.response.iter_bytes()):
            for event in [item] if isinstance(item, str) else _as_events(item):
                yield f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()

    with stream:
        response = httpx2.Response(200, content=lines(), request=stream.response.request)
        kind: Any = openai.types.responses.ResponseStreamEvent
        yield from openai.Stream(cast_to=kind, response=response, client=client)


def _as_events(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The event itself, or the events of a whole response, which some gateways send for `stream: true`."""
    if item.get("object") != "response":
        yield item
        return
    for output in item.get("output") or []:
        for part in output.get("content") or []:
            if text := part.get("text") or part.get("refusal"):
                yield {"type": "response.output_text.delta", "delta": text}
    yield {"type": "response.completed", "response": item}
