"""Answer a question: gather passages, compose a prompt, send it to the model or its fallback, and judge the reply."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from worker.chat import prompting
from worker.chat.attempts import REST_SECONDS, attempts
from worker.chat.gathering import Rewritten, gather, rewrite
from worker.chat.instructions import Instructions
from worker.chat.judging import Sent, judged, judged_plain, without_passages
from worker.chat.prompting import Prompt
from worker.chat.questions import ChatQuestion
from worker.chat.replies import Listener
from worker.chat.sending import ChatModel, send
from worker.chat.stream import AnswerStream
from worker.chat_results import Answer, Usage
from worker.errors import InputError, ProviderUnavailable, SettingsError, TemporaryError
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
    A TemporaryError starts another attempt, see `attempts`; it reuses the passages that an earlier one gathered. Where
    the provider is away, the fallback of the model is asked.
    Raises InvalidQuery for a question that leaves no room in the prompt, Revoked for a streamed answer that the caller
    has revoked, and the errors of `gather` and of the backend.
    """
    with events.chat(index.name):
        searched = rewrite(model, question) if question.retrieve else Rewritten()
        asked = _Asked(
            index=index, question=question, searched=searched.text, stream=stream, reranker=reranker
        )
        result = asked.answer(model)
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
    """What the attempts at one model have in common."""

    sources: Sequence[Passage]  # in the prompt
    prompt: Prompt | None  # None: without passages, the model is not asked
    instructions: Instructions | None  # None: an answer without passages was asked for


@dataclass(kw_only=True)
class _Asked:
    """One question, which the model and its fallbacks try to answer."""

    index: Index
    question: ChatQuestion
    searched: str | None  # the question that the model wrote for the search
    stream: AnswerStream | None
    reranker: Reranker | None
    _passages: Sequence[Passage] | None = None  # None: not gathered yet

    def answer(self, model: ChatModel) -> Answer:
        """Ask the model, and its fallback when the provider is away; the error of the first one is the one raised."""
        try:
            return self._attempt(model)
        except ProviderUnavailable as error:
            if model.fallback is None or self._passages is None or not self._is_silent:
                raise
            events.fallback(model.budget.name, model.fallback.budget.name, error)
            if error.retry_after_seconds is None:  # otherwise the budget pauses by itself
                model.budget.rest(REST_SECONDS)
            try:
                return self.answer(model.fallback)
            except (InputError, SettingsError):
                # of the fallback alone, such as a question too long for it: the first model can take it later
                if not self._is_silent:
                    raise
                raise error from None

    @property
    def _is_silent(self) -> bool:
        """Whether no reader can have seen a token yet."""
        return self.stream is None or self.stream.can_retry

    def _attempt(self, model: ChatModel) -> Answer:
        draft: _Draft | None = None
        for attempt in attempts(self.stream):
            with attempt:
                if draft is None:
                    draft = self._draft(model)
                    if self.stream:
                        self.stream.write("sources", bounded_result(draft.sources))
                reply = (
                    send(model, draft.prompt.messages, self._listener(model, draft)) if draft.prompt else None
                )
        assert draft is not None
        return _result(self.index, model, draft, reply)

    def _listener(self, model: ChatModel, draft: _Draft) -> Listener | None:
        marked = draft.instructions is not None
        model_id = model.backend.model_id
        return Listener(self.stream, model_id, draft.sources, marked=marked) if self.stream else None

    def _draft(self, model: ChatModel) -> _Draft:
        """Compose the prompt for the window and the system message of this model, from the same passages."""
        if self._passages is None:
            self._passages = self._gathered() if self.question.retrieve else ()
        text, history = self.question.text, self.question.history or ()
        if not self.question.retrieve:
            prompt = prompting.compose_plain(
                text, window=model.window, history=history, system=model.backend.system
            )
            return _Draft(sources=(), prompt=prompt, instructions=None)
        instructions = _instructions(self.index, model)
        if not self._passages:
            return _Draft(sources=(), prompt=None, instructions=instructions)
        prompt = prompting.compose(
            text, self._passages, window=model.window, history=history, instructions=instructions
        )
        sources = self._passages[: prompt.passages]
        return _Draft(sources=sources, prompt=prompt, instructions=instructions)

    def _gathered(self) -> Sequence[Passage]:
        return gather(self.index, self.question, self.searched, self.reranker)


def _instructions(index: Index, model: ChatModel) -> Instructions:
    settings, own_system = index.settings, model.backend.system
    return Instructions(
        system=settings.query_prompt if own_system is None else own_system,
        template=settings.answer_prompt,
        citations=settings.citations,
        schema=model.schema,
    )


def _result(index: Index, model: ChatModel, draft: _Draft, reply: Reply | None) -> Answer:
    if reply is None or draft.prompt is None:
        return without_passages(emptiness(index), model.backend.model_id)
    if draft.instructions is None:
        return judged_plain(reply, model.schema, model.backend.model_id)
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
