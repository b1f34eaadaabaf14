"""Answer a question: gather passages, compose a prompt, send it to the model, and judge the reply."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from worker.chat import prompting
from worker.chat.attempts import attempts
from worker.chat.gathering import Rewritten, gather, rewrite
from worker.chat.instructions import Instructions
from worker.chat.judging import Sent, judged, without_passages
from worker.chat.prompting import Prompt
from worker.chat.questions import ChatQuestion
from worker.chat.replies import Listener
from worker.chat.sending import ChatModel, send
from worker.chat.stream import AnswerStream
from worker.chat_results import Answer, Usage
from worker.errors import TemporaryError
from worker.index import Index
from worker.observability import events
from worker.passages import Passage, bounded_result
from worker.protocols import Reply
from worker.search.reranking import Reranker
from worker.search.retrieval import emptiness, unknown_words


def ask(
    index: Index,
    model: ChatModel,
    question: ChatQuestion,
    stream: AnswerStream | None = None,
    reranker: Reranker | None = None,
) -> Answer:
    """Return the result of a chat, see Answer.

    The sources are the passages in the prompt, in their order. Without passages, the model is not asked: the answer
    says that the index holds no documents, or that they do not answer the question.
    A TemporaryError starts another attempt, see `attempts`; it reuses the passages that an earlier one gathered.
    Raises InvalidQuery for a question that leaves no room in the prompt, Revoked for a streamed answer that the caller
    has revoked, and the errors of `gather` and of the backend.
    """
    with events.chat(index.name):
        searched = rewrite(model, question)
        draft: _Draft | None = None
        for attempt in attempts(stream):
            with attempt:
                if draft is None:
                    draft = _draft(index, model, question, searched, reranker)
                    if stream:
                        stream.write("sources", bounded_result(draft.sources))
                listener = Listener(stream, model.backend.model_id, draft.sources) if stream else None
                reply = send(model, draft.prompt.messages, listener) if draft.prompt else None
        assert draft is not None
        result = _result(index, model, draft, reply)
        if not result["answered"] and _names_unknown_words(index, result, searched.text or question.text):
            result["reason"] = "unknown_words"
        result["searched"] = searched.text
        result["usage"] = _sum(result["usage"], searched.usage)
        events.answered(index.name, result)
        if stream:
            stream.write("done", result)
        return result


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """What the attempts at one question have in common."""

    sources: Sequence[Passage]  # in the prompt
    prompt: Prompt | None  # None: without passages, the model is not asked
    instructions: Instructions


def _draft(
    index: Index, model: ChatModel, question: ChatQuestion, searched: Rewritten, reranker: Reranker | None
) -> _Draft:
    settings, own_system = index.settings, model.backend.system
    instructions = Instructions(
        system=settings.query_prompt if own_system is None else own_system,
        template=settings.answer_prompt,
        citations=settings.citations,
        schema=model.schema,
    )
    passages = gather(index, question, searched.text, reranker)
    if not passages:
        return _Draft(sources=[], prompt=None, instructions=instructions)
    prompt = prompting.compose(
        question.text,
        passages,
        window=model.window,
        history=question.history or (),
        instructions=instructions,
    )
    return _Draft(sources=passages[: prompt.passages], prompt=prompt, instructions=instructions)


def _result(index: Index, model: ChatModel, draft: _Draft, reply: Reply | None) -> Answer:
    if reply is None or draft.prompt is None:
        return without_passages(emptiness(index), model.backend.model_id)
    sent = Sent(sources=draft.sources, texts=draft.prompt.texts, instructions=draft.instructions)
    return judged(reply, sent, model.backend.model_id)


def _names_unknown_words(index: Index, result: Answer, question: str) -> bool:
    """Whether nothing was found because the index has none of a rare word; a hint, so its errors end no chat."""
    if result["reason"] not in ("declined", "nothing_found"):
        return False
    with suppress(TemporaryError):
        return bool(unknown_words(index, question))
    return False


def _sum(one: Usage, other: Usage) -> Usage:
    return {
        "input_tokens": one["input_tokens"] + other["input_tokens"],
        "output_tokens": one["output_tokens"] + other["output_tokens"],
    }
