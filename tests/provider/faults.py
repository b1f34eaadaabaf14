"""Faults of a provider. A fault takes the request and a function for the normal reply, and returns another reply.

`FAULTS` has them by name, for `Provider.inject(name, **arguments)` and `POST /faults`. In a message, `{key}` becomes
the request's API key, `{text}` its first text, and `{json}` that text as a JSON string.
"""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from tests.provider import answers, shapes
from tests.provider.http import Dropped, Event, Hung, Rejection, Reply, Request
from tests.provider.servers import Answer

Fault = Callable[[Request, Callable[[], Reply]], Reply]
Item = dict[str, Any]  # of an embedding response's `data`


def error(
    status: int = 500,
    message: str = "The server had an error while processing your request.",
    *,
    code: str | None = None,
    kind: str = "server_error",
    headers: Mapping[str, str] | None = None,
) -> Fault:
    """Return an error in OpenAI's format, with headers such as {"retry-after": "2"}."""

    def fault(request: Request, normal: Callable[[], Reply]) -> Reply:
        text = _first_text(request.body)
        said = message.replace("{key}", request.key).replace("{json}", json.dumps(text))
        rejected = Rejection(status, said.replace("{text}", text), code=code, kind=kind).reply
        return Reply(status=status, body=rejected.body, headers=headers or {})

    return fault


def said(answer: Answer) -> Fault:
    """Answer with the status and body of a server, as tests/provider/servers.py has them."""
    status, body = answer
    text = body if isinstance(body, str) else json.dumps(body)
    is_page = text.startswith("<")
    return raw(text, status=status, content_type="text/html" if is_page else "application/json")


def too_long(answer: Answer, *, words: int) -> Fault:
    """Refuse requests that contain a text of more words; answer the others normally."""
    refusal = said(answer)
    return lambda request, normal: (
        refusal(request, normal)
        if any(len(text.split()) > words for text in request.body["input"])
        else normal()
    )


def too_many(answer: Answer, *, inputs: int) -> Fault:
    """Refuse requests with more inputs; answer the others normally."""
    refusal = said(answer)
    return lambda request, normal: (
        refusal(request, normal) if len(request.body["input"]) > inputs else normal()
    )


def refused_word(answer: Answer, *, word: str) -> Fault:
    """Refuse requests that contain a text with this word; answer the others normally."""
    refusal = said(answer)
    return lambda request, normal: (
        refusal(request, normal) if any(word in text for text in request.body["input"]) else normal()
    )


def spoiled(how: str, *, word: str) -> Fault:
    """Spoil the vectors of the texts with this word, as SPOILED names it; answer the others normally."""

    def fault(request: Request, normal: Callable[[], Reply]) -> Reply:
        body = normal().body
        assert isinstance(body, dict), "this fault applies to /embeddings only"
        spoil = SPOILED[how]
        rows: list[Item] = []
        for item, text in zip(body["data"], request.body["input"], strict=True):
            rows += spoil(item) if word in text else [item]
        return Reply(body={**body, "data": rows})

    return fault


def raw(body: str, *, status: int = 200, content_type: str = "application/json") -> Fault:
    """Return a body that may be invalid JSON."""
    return lambda request, normal: Reply(
        status=status, body=body.encode(), headers={"Content-Type": content_type}
    )


def without(field: str) -> Fault:
    """Refuse requests with this field; answer the others normally."""

    def fault(request: Request, normal: Callable[[], Reply]) -> Reply:
        if field in request.body:
            raise Rejection(400, f"Unrecognized request argument supplied: {field}")
        return normal()

    return fault


def no_base64() -> Fault:
    """Refuse every encoding format except `float`."""

    def fault(request: Request, normal: Callable[[], Reply]) -> Reply:
        if request.body.get("encoding_format", "float") != "float":
            raise Rejection(400, "Invalid value for 'encoding_format': expected 'float'.")
        return normal()

    return fault


def vectors(change: Callable[[list[Item]], Iterable[Item]]) -> Fault:
    """Change the `data` of an embedding response."""

    def fault(request: Request, normal: Callable[[], Reply]) -> Reply:
        body = normal().body
        assert isinstance(body, dict), "this fault applies to /embeddings only"
        return Reply(body={**body, "data": list(change(body["data"]))})

    return fault


def numbers(change: Callable[[list[float]], list[float]], *, at: int = 0, plain: bool = False) -> Fault:
    """Change vector number `at` of an embedding response; with `plain`, return all as lists of floats."""

    def changed(data: list[Item]) -> Iterator[Item]:
        for number, item in enumerate(data):
            packed = isinstance(item["embedding"], str)
            values = _floats(item["embedding"])
            values = change(values) if number == at else values
            yield {**item, "embedding": values if plain or not packed else _packed(values)}

    return vectors(changed)


def garbled() -> Fault:
    """Return base64 whose length is no multiple of a float's 4 bytes."""

    def shortened(embedding: str) -> str:
        return base64.b64encode(base64.b64decode(embedding)[:-3]).decode()

    return vectors(lambda data: [{**item, "embedding": shortened(item["embedding"])} for item in data])


def cut(*, after: int = 3, abruptly: bool = False) -> Fault:
    """End a stream after some words, orderly or abruptly by a reset; reset all other requests at once."""
    return _broken(after, Dropped if abruptly else None)


def hang(*, after: int | None = None, but_for: str | None = None) -> Fault:
    """Send nothing, or nothing after some words of a stream. `but_for`: a text that is embedded nevertheless."""
    silent = _broken(after, Hung)
    return lambda request, normal: (
        normal() if request.body.get("input") == [but_for] else silent(request, normal)
    )


def changed_events(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Fault:
    """Change each object of the answer, whole or streamed."""

    def fault(request: Request, normal: Callable[[], Reply]) -> Reply:
        body = normal().body
        if isinstance(body, Mapping):
            return Reply(body=change(dict(body)))
        assert not isinstance(body, bytes)
        return Reply(body=(change(dict(event)) if isinstance(event, Mapping) else event for event in body))

    return fault


def _no_usage(event: dict[str, Any]) -> dict[str, Any]:
    if "response" in event:
        event = {**event, "response": {**event["response"], "usage": None}}
    return {name: value for name, value in event.items() if name != "usage"}


def _truncated(event: dict[str, Any]) -> dict[str, Any]:
    """Mark an answer as cut at its token limit: finish_reason `length` or status `incomplete`."""
    if event.get("type") == "response.completed":
        return {**event, "type": "response.incomplete", "response": _truncated(event["response"])}
    if event.get("object") == "response":
        details = {"reason": "max_output_tokens"}
        return {**event, "status": "incomplete", "incomplete_details": details}
    choices = [
        {**choice, "finish_reason": choice["finish_reason"] and "length"}
        for choice in event.get("choices", [])
    ]
    return {**event, "choices": choices} if choices else event


def _broken(after: int | None, end: type[Exception] | None) -> Fault:
    def fault(request: Request, normal: Callable[[], Reply]) -> Reply:
        if after is None or not request.streams:
            raise end or Dropped
        body = normal().body
        assert not isinstance(body, (Mapping, bytes))
        return Reply(body=_until(body, after, end))

    return fault


def _until(events: Iterator[Event], after: int, end: type[Exception] | None) -> Iterator[Event]:
    said = 0
    for event in events:
        said += answers.is_word(event)
        if said > after:
            break
        yield event
    if end:
        raise end


def _first_text(body: Any) -> str:
    for field in ("input", "prompt", "messages"):
        value = body.get(field)
        if isinstance(value, list) and value:
            value = value[-1] if field != "input" else value[0]
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            return value
    return ""


def _floats(embedding: str | list[float]) -> list[float]:
    if isinstance(embedding, list):
        return embedding
    return list(map(float, np.frombuffer(base64.b64decode(embedding), "<f4")))


def _packed(values: list[float]) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def _with_values(change: Callable[[list[float]], Any]) -> Callable[[Item], list[Item]]:
    return lambda item: [{**item, "embedding": change(_floats(item["embedding"]))}]


# what becomes of an item of an embedding response
SPOILED: dict[str, Callable[[Item], list[Item]]] = {
    "short": _with_values(lambda values: values[: len(values) // 2]),
    "short base64": _with_values(lambda values: _packed(values[: len(values) // 2])),
    "empty": _with_values(lambda values: []),
    "null": _with_values(lambda values: None),
    "nulls": _with_values(lambda values: [None] * len(values)),
    "NaN": _with_values(lambda values: [float("nan"), *values[1:]]),
    "zeros": _with_values(lambda values: [0.0] * len(values)),
    "words": _with_values(lambda values: "not a vector"),
    "nested": _with_values(lambda values: [values, values]),
    "missing": lambda item: [],
    "twice": lambda item: [item, item],
    "number of its neighbour": lambda item: [{**item, "index": max(0, item["index"] - 1)}],
    "no number": lambda item: [{**item, "index": 4_711}],
}


FAULTS: dict[str, Callable[..., Fault]] = {
    "error": error,
    "raw": raw,
    "said": said,
    "too_long": too_long,
    "too_many": too_many,
    "refused_word": refused_word,
    "spoiled": spoiled,
    # errors of the settings
    "unauthorized": partial(error, 401, "Incorrect API key provided: {key}.", code="invalid_api_key"),
    "forbidden": partial(error, 403, "You are not allowed to sample from this model."),
    "unknown_model": partial(error, 404, "The model does not exist.", code="model_not_found"),
    "out_of_quota": partial(error, 429, "You exceeded your current quota.", code="insufficient_quota"),
    # input or request too large
    "too_large": partial(
        error, 400, "This model's maximum context length is 8191 tokens.", code="context_length_exceeded"
    ),
    "request_too_large": partial(
        error, 400, "Requested 400000 tokens, max 300000 tokens per request", code="max_tokens_per_request"
    ),
    "payload_too_large": partial(error, 413, "Payload too large"),
    # errors of the input
    "content_policy": partial(
        error, 400, "The input was rejected by our content policy.", code="content_policy_violation"
    ),
    "unprocessable": partial(error, 422, "Input should be a valid string"),
    # temporary errors: rate_limited takes headers={"retry-after": "2"} or {"retry-after-ms": "250"}
    "rate_limited": partial(error, 429, "Rate limit reached for requests", code="rate_limit_exceeded"),
    "server_error": partial(error, 500),
    "unavailable": partial(error, 503, "The server is overloaded or not ready yet."),
    "overloaded": partial(error, 529, "Overloaded", code="overloaded_error"),
    "bad_gateway": partial(raw, "<html>502 Bad Gateway</html>", status=502, content_type="text/html"),
    "malformed_json": partial(raw, '{"object": "list", "data": ['),
    "plain_text": partial(raw, "OK", content_type="text/plain"),
    "empty_object": partial(raw, "{}"),
    "cut": cut,
    "hang": hang,
    # faults of embedding responses
    "no_base64": no_base64,
    "no_dimensions": partial(without, "dimensions"),
    "reversed": partial(vectors, lambda data: data[::-1]),
    "one_missing": partial(vectors, lambda data: data[:-1]),
    "floats": partial(numbers, lambda values: values, plain=True),
    "garbled_base64": garbled,
    "not_a_number": partial(numbers, lambda values: [float("nan"), *values[1:]]),
    "zeros": partial(numbers, lambda values: [0.0] * len(values)),
    "wrong_dimension": partial(numbers, lambda values: values[:-1]),
    # faults of answers
    "no_usage": partial(changed_events, _no_usage),
    "truncated": partial(changed_events, _truncated),
    **shapes.SHAPES,
}
