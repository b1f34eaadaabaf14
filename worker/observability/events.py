"""Events of a worker process: each function writes one log line and counts in the metrics.

The name of an event and its fields are stable: worker/observability/log_events.py lists them.
worker/observability/logs.py says which values a line may hold; the metrics are defined in
worker/observability/metrics.py.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING, Self

from worker.chat_results import Answer
from worker.errors import (
    InputError,
    ProviderUnavailable,
    SettingsError,
    TemporaryError,
    TooLarge,
    VectorIndexError,
)
from worker.observability import metrics
from worker.observability.logs import document_fields, log_fields
from worker.observability.metrics import Families, Purpose

if TYPE_CHECKING:
    from prometheus_client import Histogram

DIED = "died"  # reason of a document that killed worker processes; state of a task whose process died

REFUSED = "refused"  # reason of a document that could not be taken

logger = logging.getLogger("vector_index.events")


@dataclass
class ProviderRequest:
    """Context of one request to a provider; set inside it what only the answer tells."""

    backend: str  # kind and name, as its budget has them: embedding:default
    purpose: Purpose
    _: KW_ONLY
    inputs: int = 1
    tokens: int = 0  # sent
    answer_tokens: int = 0
    fill: float | None = None  # share of what one request may carry, from 0 to 1; None: it need not be full
    _began: float = field(init=False, default=0.0)

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._began
        sent = {
            "backend": self.backend,
            "purpose": self.purpose,
            "inputs": self.inputs,
            "tokens": self.tokens,
        }
        logger.info("request", extra=log_fields(**sent, outcome=outcome(error), seconds=round(seconds, 3)))
        if families := metrics.counting():
            self._count(families, error, seconds)

    def _count(self, families: Families, error: BaseException | None, seconds: float) -> None:
        families.request_seconds.labels(self.backend, self.purpose).observe(seconds)
        families.requests.labels(self.backend, self.purpose, outcome(error)).inc()
        if self.fill is not None:
            families.fill.labels(self.backend).observe(min(self.fill, 1.0))
        if error is None:
            families.request_inputs.labels(self.backend, self.purpose).inc(self.inputs)
            families.request_tokens.labels(self.backend, self.purpose).inc(self.tokens)
            if self.answer_tokens:
                families.answer_tokens.labels(self.backend).inc(self.answer_tokens)


def search(index: str, mode: str) -> AbstractContextManager[None]:
    """Context of a search, with the request that embeds its question."""
    return _timed(
        "search",
        {"index": index, "mode": mode},
        lambda families, outcome: families.search_seconds.labels(index, mode, outcome),
    )


def chat(index: str) -> AbstractContextManager[None]:
    """Context of a question and its answer, with the search for its passages."""
    return _timed(
        "chat", {"index": index}, lambda families, outcome: families.chat_seconds.labels(index, outcome)
    )


def answered(index: str, answer: Answer) -> None:
    """A question got its result."""
    if families := metrics.counting():
        families.answers.labels(index, answer["reason"] or "answered").inc()
        families.removed_citations.labels(index).inc(answer["removed_citations"])
        if answer["groundedness"] is not None:
            families.groundedness.labels(index).observe(answer["groundedness"])


def question_vectors(backend: str, *, hits: int, misses: int) -> None:
    """The vectors of questions were found in the memory of the process, or made by the provider."""
    if families := metrics.counting():
        families.question_vectors.labels(backend, "hit").inc(hits)
        families.question_vectors.labels(backend, "miss").inc(misses)


def rerank_failed(index: str, backend: str, error: Exception) -> None:
    """A search kept its order; the message of an unknown exception may quote a passage, so only its type is logged."""
    said = str(error) if isinstance(error, VectorIndexError) else type(error).__name__
    fields = log_fields(index=index, backend=backend, reason=outcome(error), error=said)
    logger.warning("rerank_failed", extra=fields)
    if families := metrics.counting():
        families.rerank_failures.labels(backend, outcome(error)).inc()


def fallback(backend: str, other: str, error: Exception) -> None:
    """A question goes to another chat backend, because of this error of the first one."""
    logger.warning("fallback", extra=log_fields(backend=backend, fallback=other, error=str(error)))
    if families := metrics.counting():
        families.fallbacks.labels(backend).inc()


def budget_wait(backend: str, seconds: float) -> None:
    """The next request waits `seconds` for the rate limits of its backend or for a pause."""
    if families := metrics.counting():
        families.budget_wait_seconds.labels(backend).inc(seconds)


def pause(backend: str, seconds: float) -> None:
    """The provider asked all workers of the backend to wait."""
    logger.warning("provider_pause", extra=log_fields(backend=backend, seconds=round(seconds, 3)))
    if families := metrics.counting():
        families.pauses.labels(backend).inc()
        families.pause_seconds.labels(backend).inc(seconds)


@cache
def unknown_language(index: str, field: str) -> None:
    """Documents name an unknown language in this metadata field; logged once per process."""
    logger.warning("unknown_language", extra=log_fields(index=index, field=field))


def staged(index: str, owners: Mapping[str, str | None], accepted: Sequence[str]) -> None:
    """Documents were staged, given by id with the task id of their message; a line for each message.

    `accepted` are the ids of those that are new, changed or unchanged; the others are stale.
    """
    taken = set(accepted)
    for task_id, brought in groupby(owners, key=owners.__getitem__):
        ids = list(brought)
        counts = {**document_fields(ids), "accepted": len(taken.intersection(ids))}
        logger.info("documents_staged", extra=log_fields(index=index, task_id=task_id, **counts))
    if families := metrics.counting():
        families.staged.labels(index).inc(len(taken))


def embedded(index: str, chunks: int) -> None:
    """The provider returned the vectors of contents."""
    if families := metrics.counting():
        families.embedded.labels(index).inc(chunks)


def published(index: str, ids: Sequence[str]) -> None:
    """New revisions of documents became searchable."""
    if ids:
        logger.info("documents_published", extra=log_fields(index=index, **document_fields(ids)))
    if families := metrics.counting():
        families.published.labels(index).inc(len(ids))


def failed(index: str, ids: Sequence[str], error: VectorIndexError | None) -> None:
    """Documents failed; `error` is `None` for documents that killed worker processes."""
    reason = DIED if error is None else outcome(error)
    if ids:
        fields = log_fields(index=index, **document_fields(ids), reason=reason, error=error and str(error))
        logger.warning("documents_failed", extra=fields)
    if families := metrics.counting():
        families.failed.labels(index, reason).inc(len(ids))


def refused(index: str, task_id: str | None, refusals: Sequence[tuple[str, str]]) -> None:
    """Documents could not be taken, given as id and error; the line has the error of the first one."""
    if refusals:
        ids = [id for id, _ in refusals]
        fields = log_fields(index=index, task_id=task_id, **document_fields(ids), error=refusals[0][1])
        logger.warning("documents_refused", extra=fields)
    if families := metrics.counting():
        families.failed.labels(index, REFUSED).inc(len(refusals))


def retried(index: str, chunks: int, error: VectorIndexError) -> None:
    """A request failed; its contents return to the queue, or fail if this was their last attempt."""
    fields = log_fields(index=index, inputs=chunks, reason=outcome(error), error=str(error))
    logger.warning("request_failed", extra=fields)
    if families := metrics.counting():
        families.retried.labels(index, outcome(error)).inc(chunks)


def expired(index: str, chunks: int) -> None:
    """Contents were claimed again because their lease expired: a worker died or took too long."""
    if chunks:
        logger.warning("leases_expired", extra=log_fields(index=index, inputs=chunks))
    if families := metrics.counting():
        families.expired.labels(index).inc(chunks)


def task(name: str, state: str | None, seconds: float) -> None:
    """A run of a task ended in a state of Celery; `ignored`: another run continues under its id. Writes no log line."""
    if families := metrics.counting():
        families.tasks.labels(name, DIED if state is None else state.lower()).inc()
        families.task_seconds.labels(name).observe(seconds)


def outcome(error: BaseException | None) -> str:
    """Classify an error by what the caller can do about it; `ok` for `None`."""
    match error:
        case None:
            return "ok"
        case TooLarge():
            return "too_large"
        case InputError():
            return "input"
        case SettingsError():
            return "settings"
        case ProviderUnavailable(rate_limited=True):
            return "rate_limited"
        case TemporaryError():
            return "unavailable"
        case VectorIndexError():
            return "revoked"
        case _:
            return "bug"


@contextmanager
def _timed(
    event: str, fields: Mapping[str, str], histogram: "Callable[[Families, str], Histogram]"
) -> Iterator[None]:
    error: BaseException | None = None
    began = time.perf_counter()
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        seconds = time.perf_counter() - began
        logger.info(event, extra=log_fields(**fields, outcome=outcome(error), seconds=round(seconds, 3)))
        if families := metrics.counting():
            histogram(families, outcome(error)).observe(seconds)
