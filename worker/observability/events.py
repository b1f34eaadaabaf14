"""What happens in a worker process: a line of the log, and counted for Prometheus.

Each function says one thing that happened, in the words of the place that calls it. Until `start` nobody counts, and
`prometheus_client` is not even imported. Labels are names of the settings and the few words below, never anything of
a document, a task or an error: the number of series is bounded. What stands in Postgres and in the broker is not
counted but read, in worker/observability/scraping.py.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from worker.errors import (
    InputError,
    ProviderUnavailable,
    SettingsError,
    TemporaryError,
    TooLarge,
    VectorIndexError,
)
from worker.observability.logs import documents, keys

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram

OUTCOMES = ("ok", "too_large", "input", "settings", "unavailable", "rate_limited", "revoked", "bug")
DOCUMENTS, PROBE, SEARCH, ANSWER = "documents", "probe", "search", "answer"  # what a request was for
DIED = "died"  # of a document: worker processes died of it; of a task: with its process

# seconds: a local model answers in 5 ms, a chat or a job of many documents takes minutes
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SHARES = tuple(tenths / 10 for tenths in range(1, 11))


@dataclass(frozen=True, kw_only=True)
class Families:
    """What is counted; labels in the order of the names behind each."""

    requests: "Counter"  # backend, purpose, outcome
    request_seconds: "Histogram"  # backend, purpose
    request_inputs: "Counter"  # backend, purpose
    request_tokens: "Counter"  # backend, purpose
    answer_tokens: "Counter"  # backend
    fill: "Histogram"  # backend
    budget_wait_seconds: "Counter"  # backend
    pauses: "Counter"  # backend
    pause_seconds: "Counter"  # backend
    staged: "Counter"  # index
    embedded: "Counter"  # index
    published: "Counter"  # index
    failed: "Counter"  # index, reason
    retried: "Counter"  # index, reason
    expired: "Counter"  # index
    search_seconds: "Histogram"  # index, mode, outcome
    chat_seconds: "Histogram"  # index, outcome
    tasks: "Counter"  # task, state
    task_seconds: "Histogram"  # task


logger = logging.getLogger("vector_index.events")
_families: Families | None = None


def start(folder: str | None = None, process: Callable[[], object] = os.getpid) -> "CollectorRegistry":
    """Count from now on; the registry that a scrape reads.

    Where tasks run in forked processes, `folder` is an empty one, in which each keeps its counts in a file of the
    name that `process` gives: one that takes the place of another goes on with its counts. The environment has to
    name the folder in PROMETHEUS_MULTIPROC_DIR, too.
    """
    import prometheus_client as prometheus  # 70 ms, which a process that is not scraped does not pay
    from prometheus_client import values

    global _families
    registry = prometheus.CollectorRegistry()
    prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
    prometheus.ProcessCollector(registry=registry)
    if folder is None:
        values.ValueClass = values.MutexValue
        _families = _define(registry)
    else:
        values.ValueClass = values.MultiProcessValue(process)  # type: ignore[no-untyped-call]
        _families = _define(None)
        _collect_files(registry, folder)
    return registry


def _collect_files(registry: "CollectorRegistry", folder: str) -> None:
    """Let the registry read what the processes count into files of a folder."""
    from prometheus_client.multiprocess import MultiProcessCollector

    class Files(MultiProcessCollector):
        def collect(self) -> Any:
            try:
                return super().collect()  # type: ignore[no-untyped-call]
            except FileNotFoundError:  # this process ends, and has just removed its folder
                return []

    Files(registry, path=folder)  # type: ignore[no-untyped-call]


def expect(indexes: Sequence[str], embedding: Sequence[str], chat: Sequence[str]) -> None:
    """Begin at 0 what will be counted for these indexes and backends: else a rate would miss the first of each."""
    if _families is None:
        return
    purposes = [(backend, (DOCUMENTS, PROBE, SEARCH)) for backend in embedding]
    for backend, of in purposes + [(backend, (ANSWER,)) for backend in chat]:
        for purpose in of:
            for outcome in OUTCOMES:
                _families.requests.labels(backend, purpose, outcome)
        for family in (_families.budget_wait_seconds, _families.pauses, _families.pause_seconds):
            family.labels(backend)
    for index in indexes:
        for family in (_families.staged, _families.embedded, _families.published, _families.expired):
            family.labels(index)
        for reason in ("input", "too_large", "unavailable", DIED):
            _families.failed.labels(index, reason)
        for reason in ("settings", "unavailable", "rate_limited"):
            _families.retried.labels(index, reason)


@dataclass
class Request:
    """Around one request to a provider; what is known only from its answer is set inside."""

    backend: str  # kind and name, as of its budget: embedding:default
    purpose: str  # DOCUMENTS, PROBE, SEARCH or ANSWER
    _: KW_ONLY
    inputs: int = 1
    tokens: int = 0  # that were sent
    answer_tokens: int = 0
    fill: float | None = None  # of what one request may carry, from 0 to 1; None: it is not to be full
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
        logger.info("request", extra=keys(**sent, outcome=outcome(error), seconds=round(seconds, 3)))
        if _families is None:
            return
        _families.request_seconds.labels(self.backend, self.purpose).observe(seconds)
        _families.requests.labels(self.backend, self.purpose, outcome(error)).inc()
        if self.fill is not None:
            _families.fill.labels(self.backend).observe(min(self.fill, 1.0))
        if error is None:
            _families.request_inputs.labels(self.backend, self.purpose).inc(self.inputs)
            _families.request_tokens.labels(self.backend, self.purpose).inc(self.tokens)
            if self.answer_tokens:
                _families.answer_tokens.labels(self.backend).inc(self.answer_tokens)


def search(index: str, mode: str) -> AbstractContextManager[None]:
    """Around a search, with the request for the vector of its question."""
    return _timed(
        "search",
        {"index": index, "mode": mode},
        lambda families, outcome: families.search_seconds.labels(index, mode, outcome),
    )


def chat(index: str) -> AbstractContextManager[None]:
    """Around a question and its answer, with the search for its passages."""
    return _timed(
        "chat", {"index": index}, lambda families, outcome: families.chat_seconds.labels(index, outcome)
    )


def budget_wait(backend: str, seconds: float) -> None:
    """The next request waits so long for the limits of its backend, or for a pause."""
    if _families is not None:
        _families.budget_wait_seconds.labels(backend).inc(seconds)


def pause(backend: str, seconds: float) -> None:
    """The provider asked all workers of the backend to wait."""
    logger.warning("provider_pause", extra=keys(backend=backend, seconds=round(seconds, 3)))
    if _families is not None:
        _families.pauses.labels(backend).inc()
        _families.pause_seconds.labels(backend).inc(seconds)


def staged(index: str, task_id: str | None, ids: Sequence[str], accepted: int) -> None:
    """Documents are staged, and so many of them accepted: new, changed, or the same again."""
    if ids:
        said = keys(index=index, task_id=task_id, **documents(ids), accepted=accepted)
        logger.info("documents_staged", extra=said)
    if _families is not None:
        _families.staged.labels(index).inc(accepted)


def embedded(index: str, chunks: int) -> None:
    """Contents have their vectors from the provider."""
    if _families is not None:
        _families.embedded.labels(index).inc(chunks)


def published(index: str, ids: Sequence[str]) -> None:
    """Readers see new revisions of these documents."""
    if ids:
        logger.info("documents_published", extra=keys(index=index, **documents(ids)))
    if _families is not None:
        _families.published.labels(index).inc(len(ids))


def failed(index: str, ids: Sequence[str], error: VectorIndexError | None) -> None:
    """Documents are given up; without an error, as worker processes died of them."""
    reason = DIED if error is None else outcome(error)
    if ids:
        said = keys(index=index, **documents(ids), reason=reason, error=error and str(error))
        logger.warning("documents_failed", extra=said)
    if _families is not None:
        _families.failed.labels(index, reason).inc(len(ids))


def retried(index: str, chunks: int, error: VectorIndexError) -> None:
    """A request failed for now: its contents go back into the queue, with a last attempt behind them or not."""
    said = keys(index=index, inputs=chunks, reason=outcome(error), error=str(error))
    logger.warning("request_failed", extra=said)
    if _families is not None:
        _families.retried.labels(index, outcome(error)).inc(chunks)


def expired(index: str, chunks: int) -> None:
    """Contents were claimed whose lease had ended: somebody died, or took too long, over them."""
    if chunks:
        logger.warning("leases_expired", extra=keys(index=index, inputs=chunks))
    if _families is not None:
        _families.expired.labels(index).inc(chunks)


def task(name: str, state: str | None, seconds: float) -> None:
    """A run of a task has ended, in one of Celery's states; `ignored`: another run goes on under its id."""
    if _families is not None:
        _families.tasks.labels(name, DIED if state is None else state.lower()).inc()
        _families.task_seconds.labels(name).observe(seconds)


def outcome(error: BaseException | None) -> str:
    """The class of an error, by what can be done about it; `ok` for none."""
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
    event: str, said: Mapping[str, str], histogram: "Callable[[Families, str], Histogram]"
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
        logger.info(event, extra=keys(**said, outcome=outcome(error), seconds=round(seconds, 3)))
        if _families is not None:
            histogram(_families, outcome(error)).observe(seconds)


def _define(registry: "CollectorRegistry | None") -> Families:
    from prometheus_client import Counter, Histogram

    def counter(name: str, says: str, *labels: str) -> Counter:
        return Counter(name, says, labels, namespace="vector_index", registry=registry)

    def histogram(name: str, says: str, *labels: str, buckets: Sequence[float] = BUCKETS) -> Histogram:
        return Histogram(name, says, labels, namespace="vector_index", registry=registry, buckets=buckets)

    request = ("backend", "purpose")
    return Families(
        requests=counter("requests", "Requests to providers.", *request, "outcome"),
        request_seconds=histogram("request_seconds", "Seconds until a provider had answered.", *request),
        request_inputs=counter("request_inputs", "Inputs of requests that were answered.", *request),
        request_tokens=counter("request_tokens", "Tokens sent in requests that were answered.", *request),
        answer_tokens=counter("answer_tokens", "Tokens of answers by chat models.", "backend"),
        fill=histogram(
            "request_fill_ratio",
            "Share of the tokens or inputs that one request may carry, the larger.",
            "backend",
            buckets=SHARES,
        ),
        budget_wait_seconds=counter(
            "budget_wait_seconds", "Seconds waited for limits and pauses.", "backend"
        ),
        pauses=counter("pauses", "Times that a provider asked all workers to wait.", "backend"),
        pause_seconds=counter("pause_seconds", "Seconds that providers asked to wait.", "backend"),
        staged=counter("documents_staged", "Documents accepted: new, changed or the same again.", "index"),
        embedded=counter("chunks_embedded", "Chunks that got a vector from the provider.", "index"),
        published=counter("documents_published", "New revisions that became searchable.", "index"),
        failed=counter("documents_failed", "Documents that were given up.", "index", "reason"),
        retried=counter("chunks_retried", "Chunks whose request failed for now.", "index", "reason"),
        expired=counter("leases_expired", "Chunks claimed again as their lease had ended.", "index"),
        search_seconds=histogram("search_seconds", "Seconds of a search.", "index", "mode", "outcome"),
        chat_seconds=histogram("chat_seconds", "Seconds until a question was answered.", "index", "outcome"),
        tasks=counter("tasks", "Runs of tasks that ended.", "task", "state"),
        task_seconds=histogram("task_seconds", "Seconds of a run of a task.", "task"),
    )
