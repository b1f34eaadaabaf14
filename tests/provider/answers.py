"""Answers in the format of Chat Completions, Responses and Completions, whole and streamed."""

import re
from collections.abc import Iterator
from typing import Any

from tests.provider.embeddings import encode
from tests.provider.http import Event, Rejection

DONE = "[DONE]"


def prompt_tokens(body: Any) -> int:
    """Count a chat request's tokens as OpenAI does: 4 extra per message and 3 per request (cl100k)."""
    return sum(len(encode(message["content"])) + 4 for message in body["messages"]) + 3


def words(answer: str) -> list[str]:
    return re.findall(r"\S+\s*", answer)


def chat(body: Any, answer: str) -> dict[str, Any]:
    """A chat completion. Raises Rejection for a missing message, an empty content or an unknown role."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Rejection(400, "Invalid 'messages': empty array. Expected an array with minimum length 1.")
    for message in messages:
        if message.get("role") not in ("system", "user", "assistant") or not message.get("content"):
            raise Rejection(400, "Invalid value for 'messages': expected a known role and some content.")
    message = {"role": "assistant", "content": answer}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 1,
        "model": body.get("model"),
        "choices": [choice],
        "usage": _usage(prompt_tokens(body), answer),
    }


def chat_events(body: Any, answer: str) -> Iterator[Event]:
    whole = chat(body, answer)

    def event(*choices: dict[str, Any], usage: Any = None) -> dict[str, Any]:
        return {**whole, "object": "chat.completion.chunk", "choices": list(choices), "usage": usage}

    yield event({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
    for word in words(answer):
        yield event({"index": 0, "delta": {"content": word}, "finish_reason": None})
    yield event({"index": 0, "delta": {}, "finish_reason": "stop"})
    if (body.get("stream_options") or {}).get("include_usage"):
        yield event(usage=whole["usage"])
    yield DONE


def completion(body: Any, answer: str) -> dict[str, Any]:
    """A completion. Raises Rejection unless the prompt is a non-empty string."""
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise Rejection(400, "Invalid value for 'prompt': expected a string.")
    choice = {"index": 0, "text": answer, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": "completion-1",
        "object": "text_completion",
        "created": 1,
        "model": body.get("model"),
        "choices": [choice],
        "usage": _usage(len(encode(prompt)), answer),
    }


def completion_events(body: Any, answer: str) -> Iterator[Event]:
    whole = completion(body, answer)

    def event(text: str, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {**whole, "choices": [choice], "usage": None}

    for word in words(answer):
        yield event(word)
    yield event("", "stop")
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**whole, "choices": []}
    yield DONE


def response(body: Any, answer: str) -> dict[str, Any]:
    """A response of the Responses API. Raises Rejection for a request without input."""
    items = body.get("input")
    items = [{"role": "user", "content": items}] if isinstance(items, str) else items
    if not isinstance(items, list) or not items:
        raise Rejection(400, "Missing required parameter: 'input'.")
    text = "".join(item["content"] for item in items) + (body.get("instructions") or "")
    count = _usage(len(encode(text)) + 4 * len(items), answer)
    return {
        "id": "resp-1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": body.get("model"),
        "output": [_message(answer)],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": count["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": count["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": count["total_tokens"],
        },
    }


def response_events(body: Any, answer: str) -> Iterator[Event]:
    whole = response(body, answer)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    item = {"output_index": 0, "item_id": "msg-1", "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": {**_message(""), "content": []}},
        *(
            {"type": "response.output_text.delta", **item, "delta": word, "logprobs": []}
            for word in words(answer)
        ),
        {"type": "response.output_text.done", **item, "text": answer, "logprobs": []},
        {"type": "response.output_item.done", "output_index": 0, "item": _message(answer)},
        {"type": "response.completed", "response": whole},
    ]
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


def is_word(event: Event) -> bool:
    """Return whether the event carries a word of the answer."""
    if isinstance(event, (str, bytes)):
        return False
    if "type" in event:
        return bool(event["type"] == "response.output_text.delta")
    return any(choice.get("text") or choice.get("delta", {}).get("content") for choice in event["choices"])


def _message(answer: str) -> dict[str, Any]:
    content = {"type": "output_text", "text": answer, "annotations": [], "logprobs": []}
    return {
        "id": "msg-1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [content],
    }


def _usage(prompt: int, answer: str) -> dict[str, int]:
    answered = len(encode(answer))
    return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}
