"""Read a reply of a chat model: its reasoning apart, and what is no answer told as what it is."""

from collections.abc import Sequence
from dataclasses import replace

from worker.chat.declining import may_be_marked, unmarked
from worker.chat.reasoning import Piece, Separator, separate
from worker.chat.stream import AnswerStream
from worker.chat_results import FinishReason
from worker.errors import ProviderUnavailable, Refused, SettingsError, VectorIndexError
from worker.passages import Passage, bounded_result
from worker.protocols import Reasoning, Reply

# models whose prompt opens the tag of their reasoning, as their answers of this process have shown
_opened: set[str] = set()


class Listener:
    """Writes the pieces of a model to the stream of an answer, its reasoning as such."""

    def __init__(
        self, stream: AnswerStream, model_id: str, sources: Sequence[Passage], *, marked: bool = True
    ) -> None:
        """`marked`: whether the answer may begin with the mark of declining, which is not shown."""
        self._stream = stream
        self._marked = marked
        self._sources = sources
        self._separator = Separator(opened=model_id in _opened)
        # of the answer, until it is clear whether it begins with the mark of declining
        self._start: str | None = "" if marked else None

    def __call__(self, piece: str) -> None:
        """Write a piece. Raises Revoked, ServiceUnreachable."""
        self._stream.check()
        if isinstance(piece, Reasoning):
            self._stream.write_reasoning(piece)
            return
        for found in self._separator.feed(piece):
            self._write(found)

    def finish(self) -> None:
        """Write what was held back."""
        for found in self._separator.feed("", final=True):
            self._write(found)
        if start := self._start:
            self._stream.write_token(unmarked(start))

    def _write(self, found: Piece) -> None:
        kind, text = found
        if kind == "again":
            self._start = "" if self._marked else None
            self._stream.write("sources", bounded_result(self._sources))
        elif kind == "reasoning":
            self._stream.write_reasoning(text)
        elif text := self._unmarked(text):
            self._stream.write_token(text)

    def _unmarked(self, text: str) -> str:
        if self._start is None:
            return text
        self._start += text
        if may_be_marked(self._start):
            return ""
        text, self._start = unmarked(self._start), None
        return text


def read(reply: Reply, model_id: str) -> Reply:
    """Return the reply with its reasoning apart. Raises the error of a finish reason without an answer."""
    found = separate(reply.text, opened=model_id in _opened)
    if found.closed_unopened:
        _opened.add(model_id)
    elif not found.reasoning:
        _opened.discard(model_id)
    if not found.answer.strip():
        raise _no_answer(reply.finish_reason, model_id)
    reasoning = "\n\n".join(filter(None, [reply.reasoning.strip(), found.reasoning.strip()]))
    return replace(reply, text=found.answer, reasoning=reasoning)


def _no_answer(reason: FinishReason, model_id: str) -> VectorIndexError:
    match reason:
        case "content_filter":
            return Refused(
                f"{model_id}: the provider's content filter stopped the answer before its first word; change the "
                "question or the documents, or the filter"
            )
        case "refusal":
            return Refused(f"{model_id}: the model refuses to answer; change the question or the documents")
        case "length":
            return SettingsError(
                f"{model_id}: the answer reached the limit of its tokens before its first word; raise max_tokens in "
                "PROMPT_KWARGS, as the model reasons before it answers"
            )
        case "tool_calls":
            return SettingsError(
                f"{model_id}: the model calls a tool instead of answering, and there is none; turn off the tools of "
                "its server, or use another model"
            )
    return ProviderUnavailable(f"{model_id} returned an empty answer; retry later")
