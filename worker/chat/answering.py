"""Answer: passages become a prompt, the prompt an answer with citations, as a whole or as a stream."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import redis
import stamina

from worker import keyspace
from worker.backends.budgets import Budget
from worker.chat import prompting
from worker.configuration.addresses import redis_url
from worker.documents import Passage, clean
from worker.errors import (
    InvalidQuery,
    ProviderUnavailable,
    ServiceUnreachable,
    TemporaryError,
    VectorIndexError,
)
from worker.observability import events
from worker.protocols import ChatBackend

STREAM_SECONDS = 600
MAX_STREAM_ENTRIES = 200_000  # above the tokens of the longest answer of any known model

# A caller waits: three attempts, begun within ten seconds.
ATTEMPTS, ATTEMPTS_SECONDS = 3, 10.0
LONGEST_WAIT_SECONDS = 5.0

ROLES = ("user", "assistant")
NOTHING_FOUND = f"This question {prompting.NO_ANSWER}."


class Revoked(VectorIndexError):
    """The caller has withdrawn the question."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """The arguments of a chat, checked. Raises InvalidQuery naming the argument and the mend."""

    text: str
    history: Sequence[Mapping[str, str]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InvalidQuery("question must be a string with at least one word")
        if not isinstance(self.history, Sequence) or isinstance(self.history, str):
            raise InvalidQuery(
                f'history must be a list of {{"role", "content"}}, not {type(self.history).__name__}'
            )
        for at, message in enumerate(self.history):
            if not isinstance(message, Mapping) or message.keys() != {"role", "content"}:
                raise InvalidQuery(
                    f'history[{at}] must be an object with "role" and "content", and nothing else'
                )
            if message["role"] not in ROLES:
                raise InvalidQuery(
                    f"history[{at}] has the role {message['role']!r:.40}: give {' or '.join(ROLES)}"
                )
            if not isinstance(message["content"], str):
                raise InvalidQuery(
                    f"history[{at}] has a content of type {type(message['content']).__name__}: give a string"
                )
        object.__setattr__(self, "text", clean(self.text))
        past = [{"role": m["role"], "content": clean(m["content"])} for m in self.history]
        object.__setattr__(self, "history", past)


class Stream:
    """An answer as it comes, in the Redis stream keyspace.STREAM + id: entries of `event` and `data` (JSON).

    `sources` (rows as of search), `token` (a string) as often as the model says something, then `done` (the whole
    result) or `error` (a sentence). Kept for STREAM_SECONDS after the last entry. A task that runs again starts the
    stream anew. Used as a context, it ends with `error` when an exception passes.
    """

    def __init__(self, url: str, id: str) -> None:
        self._client = redis.Redis.from_url(redis_url(url), socket_timeout=10, socket_connect_timeout=5)
        self._key = keyspace.STREAM + id
        self.begun = False  # whether a reader has seen tokens

    def write(self, event: str, data: object) -> None:
        """Raises ServiceUnreachable."""
        self.begun = self.begun or event == "token"
        entry = {"event": event, "data": json.dumps(data, ensure_ascii=False)}
        try:
            with self._client.pipeline() as pipe:
                pipe.xadd(self._key, entry, maxlen=MAX_STREAM_ENTRIES, approximate=True)  # type: ignore[arg-type]
                pipe.expire(self._key, STREAM_SECONDS)
                pipe.execute()
        except redis.RedisError as error:
            raise _unreachable(error) from None

    def __enter__(self) -> Self:
        try:
            self._client.delete(self._key)
        except redis.RedisError as error:
            raise _unreachable(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            known = isinstance(error, VectorIndexError)
            with suppress(ServiceUnreachable):  # which may be the very error
                self.write("error", str(error) if known else f"{type(error).__name__}: see the worker's log")
        self._client.close()


def answer(
    backend: ChatBackend,
    question: Question,
    passages: Sequence[Passage],
    *,
    system: str | None = None,
    stream: Stream | None = None,
    revoked: Callable[[], bool] = lambda: False,
    budget: Budget | None = None,  # of the backend; None: no limits
) -> dict[str, Any]:
    """The result of a chat: answer, answered, sources with `cited`, model, usage.

    Sources are the passages that the model was given: those that fit, in their order. Without passages nothing is
    sent. `system`: of the index, unless the backend has its own. `revoked` is looked at between two tokens of a
    streamed answer. A TemporaryError is tried again while nothing was streamed, see `attempts`.
    Raises InvalidQuery for a question that does not fit, Revoked, and what the backend raises.
    """
    if not passages:
        if stream:
            stream.write("sources", [])
        return _done(stream, NOTHING_FOUND, [], backend.model_id, input_tokens=0, output_tokens=0)
    prompt = prompting.compose(
        question.text,
        passages,
        history=question.history,
        system=backend.system if backend.system is not None else system,
        max_tokens=backend.prompt_tokens,
        count=backend.count_tokens,
    )
    given = passages[: prompt.passages]
    if stream:
        stream.write("sources", [passage.as_json() for passage in given])

    def say(piece: str) -> None:
        assert stream is not None
        if revoked():
            raise Revoked("the question was revoked: the answer ends here")
        stream.write("token", piece)

    budget = budget or Budget("", backend.model_id)
    room = backend.token_limit - backend.prompt_tokens  # for the answer
    tokens = room + sum(backend.count_tokens(message["content"]) for message in prompt.messages)
    for attempt in attempts(unless=lambda: stream is not None and stream.begun):
        with attempt, budget.first(tokens), events.ProviderRequest(budget.name, "answer") as request:
            sent = time.monotonic()
            reply = backend.reply(prompt.messages, say if stream else None)
            request.tokens, request.answer_tokens = reply.input_tokens, reply.output_tokens
    used = reply.input_tokens + reply.output_tokens
    budget.give_back(tokens=tokens - used, held_seconds=time.monotonic() - sent)
    return _done(
        stream,
        reply.text,
        given,
        backend.model_id,
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
    )


def attempts(unless: Callable[[], bool] = lambda: False) -> Iterator[stamina.Attempt]:
    """Try again what a TemporaryError ended, twice at most and within seconds: a caller is waiting."""

    def again(error: Exception) -> bool | float:
        if not isinstance(error, TemporaryError) or unless():
            return False
        told = error.retry_after_seconds if isinstance(error, ProviderUnavailable) else None
        return True if told is None else told <= LONGEST_WAIT_SECONDS and told

    return iter(
        stamina.retry_context(
            on=again,
            attempts=ATTEMPTS,
            timeout=ATTEMPTS_SECONDS,
            wait_initial=0.5,
            wait_max=LONGEST_WAIT_SECONDS,
        )
    )


def _done(
    stream: Stream | None,
    text: str,
    passages: Sequence[Passage],
    model: str,
    *,
    input_tokens: int,
    output_tokens: int,
) -> dict[str, Any]:
    cited = prompting.cited(text, len(passages))
    sources = enumerate((passage.as_json() for passage in passages), start=1)
    result = {
        "answer": text,
        "answered": not prompting.declines(text),
        "sources": [{**row, "cited": number in cited} for number, row in sources],
        "model": model,
        "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens},
    }
    if stream:
        stream.write("done", result)
    return result


def _unreachable(error: redis.RedisError) -> ServiceUnreachable:
    said = str(error).rpartition("caused error: ")[
        2
    ]  # before that redis-py quotes the command, with the text
    return ServiceUnreachable(
        f"the stream of the answer cannot be written ({said}): start the server of RESULT_BACKEND, or mend its address"
    )
