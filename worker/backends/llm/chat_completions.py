"""Chat Completions, as OpenAI and the servers that imitate it answer: whole or streamed, in all their shapes.

llm 0.36 and openai 3.54 take the shapes of OpenAI alone. Others send a chunk without `delta` (Azure), content as a list
of parts (Mistral), reasoning in fields of its own (vLLM, DeepSeek, OpenRouter), one whole object for `stream: true`
(gateways), or no finish reason before `[DONE]`. An answer is paid for, so all of these are read.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import llm
import openai
from llm.default_plugins.openai_models import Chat
from llm.models import Conversation, Prompt, Response
from llm.parts import StreamEvent

from worker.backends.failures import is_filtered
from worker.backends.llm.dialect import Dialect
from worker.backends.llm.event_stream import objects

# fields of reasoning beside the content: vLLM and DeepSeek, OpenRouter and Ollama, some gateways
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
# types of the parts of a content that are reasoning
REASONING_PARTS = ("thinking", "reasoning", "reasoning.text", "reasoning.summary", "thought", "summary_text")

TEXT_FIELDS = ("text", "thinking", "reasoning", "content", "summary", "refusal", "value")


class ServerError(llm.ModelError):
    """An error that a server reports inside of an answer, whose HTTP status is 200."""

    def __init__(self, body: Any) -> None:
        super().__init__("the server reports an error in its answer")
        self.body = body
        # OpenRouter and vLLM put the status that they would have sent into the code
        code = str(body.get("code")) if isinstance(body, Mapping) else ""
        self.status_code = int(code) if re.fullmatch(r"[45]\d\d", code) else None


@dataclass(kw_only=True)
class Answer:
    """What has arrived of an answer."""

    finish_reason: str = ""  # as the server says it; empty: none yet
    complete: bool = False  # whether the server has marked the end
    said: bool = False  # whether there was any text
    refused: bool = False  # whether the text is a refusal of the model
    usage: Mapping[str, Any] = field(default_factory=dict)

    def read(self, received: Mapping[str, Any]) -> Iterator[StreamEvent]:
        """Yield the pieces of one object: a chunk of a stream, or the whole answer. Raises ServerError."""
        choices = received.get("choices") or [{}]
        choice = choices[0] if isinstance(choices, list) and isinstance(choices[0], Mapping) else {}
        if isinstance(usage := received.get("usage"), Mapping):
            self.usage = usage
        if error := _error(received) or choice.get("error"):
            self._fail(error)
            return
        delta, message = choice.get("delta"), choice.get("message")
        # the last chunk of some gateways repeats the whole message
        part = delta if delta or self.said else message or choice.get("text")
        for event in _events(part):
            self.said = self.said or event.type == "text"
            yield event
        self.refused = self.refused or _refuses(part)
        reason = choice.get("finish_reason")
        # some servers send "" or "null" with each chunk
        if isinstance(reason, str) and reason not in ("", "null"):
            self.finish_reason = reason
        self.complete = self.complete or bool(self.finish_reason or message)

    def as_json(self) -> dict[str, Any]:
        """The end of the answer, in the form that `finish_reasons` and the backend read."""
        reason = "refusal" if self.refused else self.finish_reason or ("unknown" if self.complete else None)
        return {"finish_reason": reason, "usage": dict(self.usage)}

    def _fail(self, error: Any) -> None:
        """End the answer at an error. What a filter has cut off keeps its text. Raises ServerError."""
        failure = ServerError(error)
        if not (self.said and is_filtered(str(error))):
            raise failure
        self.finish_reason, self.complete = "content_filter", True


def execute(
    model: Chat,
    dialect: Dialect,
    prompt: Prompt,
    stream: bool,
    response: Response,
    conversation: Conversation | None = None,
    key: str | None = None,
) -> Iterator[StreamEvent]:
    """Replace `Chat.execute`: send one request, and yield the pieces of its answer as text and as reasoning.

    Sets `response.response_json` to the finish reason and the usage. An answer that has reached its end is complete,
    even if the connection then breaks.
    """
    image_detail = getattr(prompt.options, "image_detail", None)
    request = {
        "model": model.model_name or model.model_id,
        "messages": model.build_messages(prompt, conversation, image_detail=image_detail),
        "stream": stream,
        **model.build_kwargs(prompt, stream),  # type: ignore[no-untyped-call]
    }
    if not dialect.stream_options:
        request.pop("stream_options", None)
    if not dialect.max_tokens and "max_tokens" in request:
        request["max_completion_tokens"] = request.pop("max_tokens")
    answer = Answer()
    client: openai.OpenAI = model.get_client(key)  # type: ignore[no-untyped-call]
    with client.chat.completions.with_streaming_response.create(**request) as received:
        try:
            for item in objects(received.iter_bytes()):
                if isinstance(item, str):
                    answer.complete = True
                    break
                yield from answer.read(item)
                response.response_json = answer.as_json()
        except Exception:
            if not answer.complete:
                raise
    response.response_json = answer.as_json()


def _error(received: Mapping[str, Any]) -> Any:
    if received.get("object") == "error":  # vLLM
        return received
    return received.get("error")


def _events(part: Any) -> Iterator[StreamEvent]:
    """The pieces of a delta or message: its reasoning, then its content, then its refusal."""
    if not isinstance(part, Mapping):
        yield from _content(part)
        return
    # the first only: OpenRouter repeats the same words in the others
    if reasoning := next(filter(None, (_text(part.get(name)) for name in REASONING_FIELDS)), ""):
        yield StreamEvent(type="reasoning", chunk=reasoning)
    yield from _content(part.get("content"))
    yield from _content(part.get("refusal"))


def _content(content: Any) -> Iterator[StreamEvent]:
    for item in _parts(content):
        thought = isinstance(item, Mapping) and item.get("type") in REASONING_PARTS
        if text := _text(item):
            yield StreamEvent(type="reasoning" if thought else "text", chunk=text)


def _refuses(part: Any) -> bool:
    if not isinstance(part, Mapping):
        return False
    items = (item for item in _parts(part.get("content")) if isinstance(item, Mapping))
    return bool(_text(part.get("refusal"))) or any(item.get("type") == "refusal" for item in items)


def _parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _text(value: Any) -> str:
    """The text of a string, of a part, or of a list of parts."""
    if isinstance(value, list):
        return "".join(map(_text, value))
    if isinstance(value, Mapping):
        return next(filter(None, (_text(value.get(name)) for name in TEXT_FIELDS)), "")
    return value if isinstance(value, str) else ""
