"""Answer a question: retrieve passages, compose a prompt, ask the model, and mark the passages that it cites."""

import time
from collections.abc import Iterator, Sequence

import stamina

from worker.backends.budgets import Budget
from worker.chat import prompting, replies
from worker.chat.citations import cited
from worker.chat.declining import declines, unmarked
from worker.chat.prompting import Prompt
from worker.chat.questions import ChatQuestion
from worker.chat.replies import Listener
from worker.chat.stream import AnswerStream
from worker.documents import Passage, bounded_result
from worker.errors import ProviderUnavailable, TemporaryError
from worker.index import Index
from worker.observability import events
from worker.protocols import ChatBackend, Reply
from worker.results import Answer
from worker.search.retrieval import emptiness, retrieve

# A caller waits: three attempts for the whole question, all begun within ten seconds.
ATTEMPTS, ATTEMPTS_SECONDS = 3, 10.0
LONGEST_WAIT_SECONDS = 5.0  # between two attempts

STOPPED = ("content_filter", "refusal")  # finish reasons of a text that is no whole answer

NOTHING_FOUND = f"This question {prompting.NO_ANSWER}."


def ask(
    index: Index,
    backend: ChatBackend,
    budget: Budget,  # of the chat backend
    question: ChatQuestion,
    stream: AnswerStream | None = None,
) -> Answer:
    """Return the result of a chat, see Answer.

    The sources are the passages in the prompt, in their order. Without passages, the model is not asked: the answer
    says that the index holds no documents, or that they do not answer the question.
    A TemporaryError starts another attempt, see `_attempts`; it reuses the passages that an earlier one retrieved.
    Raises InvalidQuery for a question that leaves no room in the prompt, Revoked for a streamed answer that the caller
    has revoked, and the errors of `retrieve` and of the backend.
    """
    with events.chat(index.name):
        sources: Sequence[Passage] | None = None
        for attempt in _attempts(stream):
            with attempt:
                if sources is None:
                    prompt, sources = _prepare(index, backend, question)
                    if stream:
                        stream.write("sources", bounded_result(sources))
                listener = Listener(stream, backend.model_id, sources) if stream else None
                reply = _send(backend, budget, prompt, listener) if prompt else None
        assert sources is not None
        result = (
            _result(reply, sources, backend.model_id) if reply else _without_passages(index, backend.model_id)
        )
        if stream:
            stream.write("done", result)
        return result


def _attempts(stream: AnswerStream | None) -> Iterator[stamina.Attempt]:
    """Retry after a TemporaryError, twice at most, until a reader may have seen a token.

    A Retry-After above LONGEST_WAIT_SECONDS ends the attempts: the caller can wait better.
    """

    def is_retried(error: Exception) -> bool | float:
        if not isinstance(error, TemporaryError) or (stream is not None and not stream.can_retry):
            return False
        seconds = error.retry_after_seconds if isinstance(error, ProviderUnavailable) else None
        return True if seconds is None else seconds <= LONGEST_WAIT_SECONDS and seconds

    return iter(
        stamina.retry_context(
            on=is_retried,
            attempts=ATTEMPTS,
            timeout=ATTEMPTS_SECONDS,
            wait_initial=0.5,
            wait_max=LONGEST_WAIT_SECONDS,
        )
    )


def _prepare(
    index: Index, backend: ChatBackend, question: ChatQuestion
) -> tuple[Prompt | None, Sequence[Passage]]:
    """Retrieve the passages and compose the prompt: `None` without passages. Returns the passages in the prompt."""
    passages = retrieve(index, question.query)
    if not passages:
        return None, []
    prompt = prompting.compose(
        question.text,
        passages,
        history=question.history or (),
        system=index.settings.query_prompt if backend.system is None else backend.system,
        max_tokens=backend.prompt_tokens,
        count=backend.count_tokens,
    )
    return prompt, passages[: prompt.passages]


def _without_passages(index: Index, model_id: str) -> Answer:
    return {
        "answer": emptiness(index) or NOTHING_FOUND,
        "answered": False,
        "finish_reason": None,
        "reasoning": "",
        "sources": [],
        "model": model_id,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _send(backend: ChatBackend, budget: Budget, prompt: Prompt, listener: Listener | None) -> Reply:
    """Send one request within the budget, and return the tokens that it left unused."""
    answer_tokens = backend.token_limit - backend.prompt_tokens
    tokens = answer_tokens + sum(backend.count_tokens(message["content"]) for message in prompt.messages)
    with budget.reserve(tokens), events.ProviderRequest(budget.name, "answer") as request:
        sent = time.monotonic()
        reply = backend.reply(prompt.messages, listener)
        request.tokens, request.answer_tokens = reply.input_tokens, reply.output_tokens
    used = reply.input_tokens + reply.output_tokens
    budget.refund(tokens=tokens - used, held_seconds=time.monotonic() - sent)
    if listener:
        listener.finish()
    return replies.read(reply, backend.model_id)


def _result(reply: Reply, sources: Sequence[Passage], model_id: str) -> Answer:
    numbers = cited(reply.text, len(sources))
    rows = enumerate(bounded_result(sources), start=1)
    return {
        "answer": unmarked(reply.text),
        "answered": reply.finish_reason not in STOPPED and not declines(reply.text, cites=bool(numbers)),
        "finish_reason": reply.finish_reason,
        "reasoning": reply.reasoning,
        "sources": [{**row, "cited": number in numbers} for number, row in rows],
        "model": model_id,
        "usage": {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens},
    }
