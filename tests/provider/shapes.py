"""The shapes in which servers other than OpenAI send a chat completion: each a fault that changes the normal answer.

The answer stays the same, unless a docstring says otherwise. Most forms follow the documentation and public bug reports
of the servers named; the others are variants of them. docs/how-to/chat.md lists the servers.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

from tests.provider.http import Dropped, Event, Reply, Request

Shape = Callable[[Request, Callable[[], Reply]], Reply]
Chunk = dict[str, Any]

THOUGHT = "Passage [2] is about fees. It cannot be answered from these documents."


def chunks(change: Callable[[Chunk], Iterable[Event]]) -> Shape:
    """Replace each chunk of a stream by others; a whole answer stays as it is."""

    def shape(request: Request, normal: Callable[[], Reply]) -> Reply:
        body = normal().body
        if isinstance(body, (Mapping, bytes)):
            return Reply(body=body)
        return Reply(body=_changed(body, change))

    return shape


def message(change: Callable[[Chunk], Chunk]) -> Shape:
    """Change the message of a whole answer, and the delta of each chunk."""

    def changed(event: Chunk) -> Chunk:
        return {
            **event,
            "choices": [
                {
                    name: change(part) if name in ("delta", "message") else part
                    for name, part in choice.items()
                }
                for choice in event["choices"]
            ],
        }

    def shape(request: Request, normal: Callable[[], Reply]) -> Reply:
        body = normal().body
        if isinstance(body, Mapping):
            return Reply(body=changed(dict(body)))
        assert not isinstance(body, bytes)
        return Reply(body=_changed(body, lambda chunk: [changed(chunk)]))

    return shape


def written(write: Callable[[str], bytes], *, first: bytes = b"") -> Shape:
    """Write each event of a stream in another way, after these bytes."""

    def shape(request: Request, normal: Callable[[], Reply]) -> Reply:
        body = normal().body
        if isinstance(body, (Mapping, bytes)):
            return Reply(body=body)
        return Reply(body=_written(body, write, first))

    return shape


def whole(*, kind: str = "application/json", indent: int | None = None) -> Shape:
    """Answer with one object, also to a request for a stream (gateways)."""

    def shape(request: Request, normal: Callable[[], Reply]) -> Reply:
        request.body.pop("stream_options", None)
        request.body["stream"] = False
        body = json.dumps(normal().body, indent=indent).encode()
        return Reply(body=body, headers={"Content-Type": kind})

    return shape


def refusing(needed: Callable[[Mapping[str, Any]], bool], status: int, body: Any) -> Shape:
    """Refuse the requests that `needed` picks, with this body; answer the others normally."""

    def shape(request: Request, normal: Callable[[], Reply]) -> Reply:
        return Reply(status=status, body=json.dumps(body).encode()) if needed(request.body) else normal()

    return shape


def ended(reason: str | None, *, after: int | None = None, error: Any = None) -> Shape:
    """End the answer with a finish reason, or with an error inside of the stream, after some of its words."""

    def shape(request: Request, normal: Callable[[], Reply]) -> Reply:
        body = normal().body
        if isinstance(body, Mapping):
            return Reply(body=_cut(dict(body), reason, after))
        assert not isinstance(body, bytes)
        return Reply(body=_ended(body, reason, after, error))

    return shape


def _changed(events: Iterator[Event], change: Callable[[Chunk], Iterable[Event]]) -> Iterator[Event]:
    for event in events:
        yield from change(dict(event)) if isinstance(event, Mapping) else [event]


def _written(events: Iterator[Event], write: Callable[[str], bytes], first: bytes) -> Iterator[Event]:
    texts = (json.dumps(event) if isinstance(event, Mapping) else str(event) for event in events)
    # an empty chunk would end the answer
    yield from filter(None, chain([first], map(write, texts)))


def broken_after_end() -> Shape:
    """Reset the connection after the last chunk, before [DONE]."""

    def shape(request: Request, normal: Callable[[], Reply]) -> Reply:
        body = normal().body
        assert not isinstance(body, (Mapping, bytes))
        return Reply(body=_dropped(body))

    return shape


def _dropped(events: Iterator[Event]) -> Iterator[Event]:
    for event in events:
        yield event
        if isinstance(event, Mapping) and _is_end(dict(event)):
            raise Dropped


def _cut(body: Chunk, reason: str | None, after: int | None) -> Chunk:
    (choice,) = body["choices"]
    content = choice["message"]["content"]
    text = content if after is None else "".join(content.partition(" ")[:2]) * bool(after)
    message = {**choice["message"], "content": text or None}
    return {**body, "choices": [{**choice, "message": message, "finish_reason": reason}]}


def _ended(events: Iterator[Event], reason: str | None, after: int | None, error: Any) -> Iterator[Event]:
    said = 0
    for event in events:
        if not isinstance(event, Mapping) or not event["choices"]:
            yield event
            continue
        (choice,) = event["choices"]
        said += bool(choice["delta"].get("content"))
        if choice["finish_reason"] or (after is not None and said > after):
            if error:
                yield {"error": error}
            else:
                yield {**event, "choices": [{**choice, "delta": {}, "finish_reason": reason}]}
                yield "[DONE]"
            return
        yield event


def _is_end(chunk: Chunk) -> bool:
    return any(choice["finish_reason"] for choice in chunk["choices"])


def _empty(chunk: Chunk, **fields: Any) -> Chunk:
    """A chunk without text beside the given one."""
    return {**chunk, "choices": [{"index": 0, "finish_reason": None, **fields}], "usage": None}


def _azure(chunk: Chunk) -> Iterable[Event]:
    """Results of the filter: before the answer without a choice, and within it without a delta."""
    if chunk["choices"] and chunk["choices"][0]["delta"].get("role"):
        yield {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": []}
    yield chunk
    yield {**_empty(chunk, content_filter_results={"hate": {"filtered": False}}), "id": ""}


def _parts(part: Chunk) -> Chunk:
    if not part.get("content"):
        return part
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    text = {"type": "text", "text": part["content"]}
    return {**part, "content": [thinking, text, {"type": "reference", "reference_ids": [2]}]}


def _thinking(name: str) -> Shape:
    def change(part: Chunk) -> Chunk:
        return {**part, name: THOUGHT} if part.get("role") else {**part, name: None}

    return message(change)


def _refusal(part: Chunk) -> Chunk:
    return {**part, "content": None, "refusal": part.get("content")}


def _split(event: str) -> bytes:
    """One event with its data on several lines."""
    lines = event if event == "[DONE]" else json.dumps(json.loads(event), indent=1)
    return "".join(f"data: {line}\n" for line in lines.split("\n")).encode() + b"\n"


def _line(end: str) -> Callable[[str], bytes]:
    return lambda event: f"event: message{end}id: 7{end}data:{event}{end}{end}".encode()


def _plain_line(event: str) -> bytes:
    return b"" if event == "[DONE]" else f"{event}\n".encode()


def _has_system(body: Mapping[str, Any]) -> bool:
    return any(message["role"] == "system" for message in body["messages"])


def _mistral() -> Any:
    place = ["body", "stream_options", "include_usage"]
    detail = [
        {"type": "extra_forbidden", "loc": place, "msg": "Extra inputs are not permitted", "input": True}
    ]
    return {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "param": None}


def _openai(message: str, param: str | None = None, code: str = "unsupported_parameter") -> Any:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


# for each part of a request: which requests have it, and how servers refuse it, with the status
REFUSALS: list[tuple[str, Callable[[Mapping[str, Any]], bool], int, Any]] = [
    ("stream_options", lambda body: "stream_options" in body, 422, _mistral()),
    *(
        ("stream_options", lambda body: "stream_options" in body, status, told)
        for status, told in (
            (400, _openai("Unknown parameter: 'stream_options'.", "stream_options", "unknown_parameter")),
            (
                400,
                {
                    "detail": "Extra parameters ['stream_options'] are not allowed when extra-parameters is not set"
                },
            ),
            (500, {"error": "extraneous key [include_usage] is not permitted"}),
            (422, {"detail": [{"loc": ["body", "stream_options"], "msg": "extra fields not permitted"}]}),
            (400, "json: unknown field stream_options"),
        )
    ),
    *(
        ("stream", lambda body: bool(body.get("stream")), status, told)
        for status, told in (
            (
                400,
                _openai(
                    "Your organization must be verified to stream this model.", "stream", "unsupported_value"
                ),
            ),
            (400, {"object": "error", "message": "Streaming is not supported for this model", "code": 400}),
            (
                422,
                {
                    "detail": [
                        {"type": "literal_error", "loc": ["body", "stream"], "msg": "Input should be False"}
                    ]
                },
            ),
            (501, {"error": "stream: not implemented"}),
        )
    ),
    *(
        ("system", _has_system, status, told)
        for status, told in (
            (
                400,
                {
                    "object": "error",
                    "message": "System role not supported",
                    "type": "BadRequestError",
                    "code": 400,
                },
            ),
            (
                400,
                _openai("Unsupported value: 'messages[0].role' does not support 'system' with this model."),
            ),
            (
                400,
                {"error": {"message": "Conversation roles must alternate user/assistant/user/assistant/..."}},
            ),
            (
                500,
                {
                    "error": {
                        "code": 500,
                        "message": "Only user, assistant and tool roles are supported, got system",
                    }
                },
            ),
            (
                400,
                [
                    {
                        "error": {
                            "code": 400,
                            "message": "Developer instruction is not enabled for models/gemma-3",
                        }
                    }
                ],
            ),
            (
                400,
                {
                    "message": "This model doesn't support system messages. Try again without a system message."
                },
            ),
            (
                400,
                {
                    "error": 'messages: Unexpected role "system". The API accepts a top-level `system` parameter'
                },
            ),
        )
    ),
    (
        "max_tokens",
        lambda body: "max_tokens" in body,
        400,
        _openai(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "max_tokens",
        ),
    ),
]


SHAPES: dict[str, Callable[..., Shape]] = {
    # lines of the stream
    "retry_block": partial(written, lambda event: f"data: {event}\n\n".encode(), first=b"retry: 3000\n\n"),
    "empty_data": partial(written, lambda event: f"data: \n\ndata: {event}\n\n".encode()),
    "ids": partial(written, lambda event: f"id: 1\n\n\ndata: {event}\n\n".encode()),
    "comments": partial(written, lambda event: f": OPENROUTER PROCESSING\n\ndata: {event}\n\n".encode()),
    "crlf": partial(written, _line("\r\n")),
    "cr": partial(written, _line("\r")),
    "byte_order_mark": partial(written, lambda event: f"data: {event}\n\n".encode(), first=b"\xef\xbb\xbf"),
    "data_on_many_lines": partial(written, _split),
    "no_blank_lines": partial(written, lambda event: f"data: {event}\n".encode()),
    "lines_of_json": partial(written, _plain_line),
    "pings": partial(written, lambda event: f"event: ping\ndata: ping\n\ndata: {event}\n\n".encode()),
    # chunks
    "delta_null": partial(chunks, lambda chunk: [_empty(chunk, delta=None), chunk]),
    "no_delta": partial(chunks, _azure),
    "no_finish_reason": partial(chunks, lambda chunk: [] if _is_end(chunk) else [chunk]),
    "finish_reason_empty": partial(chunks, lambda chunk: [_empty(chunk, delta={}, finish_reason=""), chunk]),
    "no_done": partial(written, lambda event: b"" if event == "[DONE]" else f"data: {event}\n\n".encode()),
    "null_choices": partial(chunks, lambda chunk: [{**chunk, "choices": None}, chunk]),
    "whole_object": whole,
    # messages
    "parts": partial(message, _parts),
    "reasoning_content": partial(_thinking, "reasoning_content"),
    "reasoning": partial(_thinking, "reasoning"),
    "refusal": partial(message, _refusal),
    # requests: number `at` of REFUSALS
    "refusing": lambda at: refusing(*REFUSALS[at][1:]),
    # ends: `reason`, and `after` how many words (whole: one), or with an `error` inside of the stream
    "ended": ended,
    "broken_after_end": broken_after_end,
}
