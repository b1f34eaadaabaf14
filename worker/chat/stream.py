"""Stream an answer through Redis while the model writes it."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

import redis

from worker import keyspace
from worker.configuration.addresses import redis_url
from worker.errors import ServiceUnreachable, VectorIndexError
from worker.reference import Meaning

STREAM_SECONDS = 600
MAX_STREAM_ENTRIES = 200_000  # above the tokens of the longest answer of any known model

Event = Literal["sources", "reasoning", "token", "done", "error"]
# the data of each event, and when it comes
EVENTS: Mapping[Event, Meaning] = {
    "sources": Meaning(
        "first: the passages of the prompt, in their order. It comes again if the answer starts anew: with another "
        "worker, or because the model ended its reasoning late. Forget what came before",
        type="list of [Row](tasks.md#row)",
    ),
    "reasoning": Meaning(
        "as often as the model thinks: the next piece of its reasoning, which is no part of the answer",
        type="string",
    ),
    "token": Meaning("as often as the model sends one: the next piece of the answer", type="string"),
    "done": Meaning("last: the whole result of the task", type="[Answer](tasks.md#answer)"),
    "error": Meaning("last, instead of `done`: what went wrong, and what to do", type="string: one sentence"),
}


class Revoked(VectorIndexError):
    """The caller has revoked the question.

    Do: nothing. The task ends as `REVOKED`, and raises `TaskRevokedError`.
    """


class AnswerStream:
    """Writes an answer to the Redis stream keyspace.STREAM + id, as entries of `event` and `data` (JSON): EVENTS.

    Redis keeps the stream for STREAM_SECONDS after the last entry. Use it as a context manager: entering deletes the
    stream of an earlier run of the task, and an exception writes `error`.
    """

    def __init__(self, url: str, id: str, *, revoked: Callable[[], bool] = lambda: False) -> None:
        self._client = redis.Redis.from_url(redis_url(url), socket_timeout=10, socket_connect_timeout=5)
        self._key = keyspace.STREAM + id
        self._revoked = revoked
        self.can_retry = True  # until a reader may have seen a token, or a write failed

    def write(self, event: Event, data: object) -> None:
        """Append an entry. Raises ServiceUnreachable."""
        entry = {"event": event, "data": json.dumps(data, ensure_ascii=False)}
        try:
            with self._client.pipeline() as pipe:
                pipe.xadd(self._key, entry, maxlen=MAX_STREAM_ENTRIES, approximate=True)  # type: ignore[arg-type]
                pipe.expire(self._key, STREAM_SECONDS)
                pipe.execute()
        except redis.RedisError as error:
            self.can_retry = False
            raise _unreachable(error) from None

    def write_token(self, piece: str) -> None:
        """Append a piece of the answer. Raises ServiceUnreachable."""
        self.can_retry = False
        self.write("token", piece)

    def write_reasoning(self, piece: str) -> None:
        """Append a piece of the reasoning. Raises ServiceUnreachable."""
        self.can_retry = False
        self.write("reasoning", piece)

    def check(self) -> None:
        """Raises Revoked if the caller has revoked the question."""
        if self._revoked():
            raise Revoked("the question was revoked: the answer ends here")

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
            with suppress(ServiceUnreachable):  # which may be this very error
                self.write("error", str(error) if known else f"{type(error).__name__}: see the worker's log")
        self._client.close()


def _unreachable(error: redis.RedisError) -> ServiceUnreachable:
    # redis-py puts the command, with the text of the answer, before these words
    reason = str(error).rpartition("caused error: ")[2]
    return ServiceUnreachable(
        f"the stream of the answer cannot be written ({reason}): start the server of RESULT_BACKEND, or correct its URL"
    )
