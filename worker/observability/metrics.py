"""Prometheus metrics: the families that a worker process counts, and the registry that a scrape reads.

Counting begins with `start`; before that `counting` returns `None` and `prometheus_client` is not imported. Labels are
names from the settings and the few words below. None comes from a document, a task or an error, so the number of
series is bounded. Figures of Postgres and the broker are read during a scrape, by worker/observability/scraping.py.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram

Purpose = Literal["documents", "probe", "search", "answer", "rewrite", "rerank"]  # of a request to a provider

OUTCOMES: Mapping[str, str] = {
    "ok": "answered",
    "too_large": "the request is over a limit of the provider",
    "input": "refused, or a wrong argument",
    "settings": "a wrong key, address or option",
    "unavailable": "the service did not answer",
    "rate_limited": "HTTP 429",
    "revoked": "the caller revoked it",
    "bug": "an unexpected error, please report it",
}
EMBEDDING_PURPOSES: tuple[Purpose, ...] = ("documents", "probe", "search")
CHAT_PURPOSES: tuple[Purpose, ...] = ("answer", "rewrite")
ANSWER_RESULTS = (
    "answered",
    "declined",
    "nothing_found",
    "unknown_words",
    "empty_index",
    "stopped",
    "invalid_data",
)
RERANK_PURPOSES: tuple[Purpose, ...] = ("rerank",)
FAILURE_REASONS = ("refused", "input", "too_large", "unavailable", "died")
CACHE_RESULTS = ("hit", "miss")
RERANK_FAILURES = tuple(outcome for outcome in OUTCOMES if outcome not in ("ok", "revoked"))
RETRY_REASONS = ("settings", "unavailable", "rate_limited")

# what each label says
LABELS: Mapping[str, str] = {
    "backend": "`embedding:`, `chat:` or `rerank:`, and the name of the backend in the settings",
    "purpose": "what a request is for: "
    + ", ".join(f"`{purpose}`" for purpose in (*EMBEDDING_PURPOSES, *CHAT_PURPOSES, *RERANK_PURPOSES))
    + "; `probe` is one word that checks whether the provider is up",
    "outcome": "; ".join(f"`{name}`: {meaning}" for name, meaning in OUTCOMES.items()),
    "index": "name of an index; those of a search over several are joined by `+`",
    "cache": "`hit`: this process had the vector; `miss`: the provider made it",
    "reason": "why: an `outcome` as above; `refused`: the document could not be taken; `died`: worker processes "
    "crashed on the document",
    "result": "`answered`, or the `reason` of the [answer](tasks.md#answer)",
    "mode": "`hybrid`, `vector` or `text`; `similar` for `tasks.find_similar`",
    "task": "name of a task",
    "state": "of a task: the state of Celery in lower case, `ignored` if another run continues it, or `died`; of a "
    "document: `pending`, `live`, `failed` or `refused`; of an outbox row: `waiting` or `failed`",
    "service": "`postgres` or `broker`",
    "queue": "name of a queue",
    "kind": "`published`: a worker died before it could; `queued`: a bug, please report it",
}

# seconds: a local model answers in 5 ms; a chat, or a job of many documents, takes minutes
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
FILL_BUCKETS = tuple(tenths / 10 for tenths in range(1, 11))


@dataclass(frozen=True, kw_only=True)
class Families:
    """The metrics that are counted; the comments name their labels in order."""

    requests: "Counter"  # backend, purpose, outcome
    request_seconds: "Histogram"  # backend, purpose
    request_inputs: "Counter"  # backend, purpose
    request_tokens: "Counter"  # backend, purpose
    answer_tokens: "Counter"  # backend
    fallbacks: "Counter"  # backend
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
    question_vectors: "Counter"  # backend, cache
    rerank_failures: "Counter"  # backend, reason
    search_seconds: "Histogram"  # index, mode, outcome
    chat_seconds: "Histogram"  # index, outcome
    answers: "Counter"  # index, result
    groundedness: "Histogram"  # index
    removed_citations: "Counter"  # index
    tasks: "Counter"  # task, state
    task_seconds: "Histogram"  # task


_families: Families | None = None


def counting() -> Families | None:
    """The metrics to count in; `None` in a process that is not scraped."""
    return _families


def start(folder: str | None = None, process: Callable[[], object] = os.getpid) -> "CollectorRegistry":
    """Start counting; returns the registry that a scrape reads.

    `folder` is for pools of forked processes: an empty folder in which each process counts in a file of its own.
    `process` names that file. A process that takes the place of another one keeps its name, and so its counts.
    The environment must name the folder in PROMETHEUS_MULTIPROC_DIR, too.
    """
    import prometheus_client as prometheus  # takes 70 ms, which only a scraped process pays
    from prometheus_client import values

    global _families
    registry = prometheus.CollectorRegistry()
    prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
    prometheus.ProcessCollector(registry=registry)
    if folder is None:
        values.ValueClass = values.MutexValue
        _families = define_families(registry)
    else:
        values.ValueClass = values.MultiProcessValue(process)  # type: ignore[no-untyped-call]
        _families = define_families(None)
        _collect_files(registry, folder)
    return registry


def initialize_series(
    indexes: Sequence[str], embedding: Sequence[str], chat: Sequence[str], rerank: Sequence[str]
) -> None:
    """Set the series of these indexes and backends to 0, so that a rate includes the first count of each."""
    if _families is None:
        return
    backends = [(backend, EMBEDDING_PURPOSES) for backend in embedding]
    backends += [(backend, CHAT_PURPOSES) for backend in chat]
    backends += [(backend, RERANK_PURPOSES) for backend in rerank]
    for backend in rerank:
        for outcome in RERANK_FAILURES:
            _families.rerank_failures.labels(backend, outcome)
    for backend, purposes in backends:
        for purpose in purposes:
            for outcome in OUTCOMES:
                _families.requests.labels(backend, purpose, outcome)
        for family in (_families.budget_wait_seconds, _families.pauses, _families.pause_seconds):
            family.labels(backend)
    for backend in embedding:
        for result in CACHE_RESULTS:
            _families.question_vectors.labels(backend, result)
    for backend in chat:
        _families.fallbacks.labels(backend)
    for index in indexes:
        for family in (_families.staged, _families.embedded, _families.published, _families.expired):
            family.labels(index)
        _families.removed_citations.labels(index)
        for answer_result in ANSWER_RESULTS:
            _families.answers.labels(index, answer_result)
        for reason in FAILURE_REASONS:
            _families.failed.labels(index, reason)
        for reason in RETRY_REASONS:
            _families.retried.labels(index, reason)


def _collect_files(registry: "CollectorRegistry", folder: str) -> None:
    """Let the registry read the counts that processes keep in the files of a folder."""
    from prometheus_client.multiprocess import MultiProcessCollector

    class Files(MultiProcessCollector):
        def collect(self) -> Any:
            try:
                return super().collect()  # type: ignore[no-untyped-call]
            except FileNotFoundError:  # the worker is ending and has just removed its folder
                return []

    Files(registry, path=folder)  # type: ignore[no-untyped-call]


def define_families(registry: "CollectorRegistry | None") -> Families:
    """Define every metric, registered where a registry is given."""
    from prometheus_client import Counter, Histogram

    def counter(name: str, description: str, *labels: str) -> Counter:
        return Counter(name, description, labels, namespace="vector_index", registry=registry)

    def histogram(name: str, description: str, *labels: str, buckets: Sequence[float] = BUCKETS) -> Histogram:
        return Histogram(
            name, description, labels, namespace="vector_index", registry=registry, buckets=buckets
        )

    request = ("backend", "purpose")
    return Families(
        requests=counter("requests", "Requests to providers.", *request, "outcome"),
        request_seconds=histogram(
            "request_seconds", "Duration of requests to providers, in seconds.", *request
        ),
        request_inputs=counter("request_inputs", "Inputs in successful requests.", *request),
        request_tokens=counter("request_tokens", "Tokens sent in successful requests.", *request),
        answer_tokens=counter("answer_tokens", "Tokens in the answers of chat models.", "backend"),
        fallbacks=counter(
            "chat_fallbacks", "Questions that went to the FALLBACK of a chat backend.", "backend"
        ),
        fill=histogram(
            "request_fill_ratio",
            "Tokens of a request / BATCH_TOKEN_LIMIT, or inputs / BATCH_SIZE, whichever is larger.",
            "backend",
            buckets=FILL_BUCKETS,
        ),
        budget_wait_seconds=counter(
            "budget_wait_seconds", "Seconds that requests waited for rate limits and pauses.", "backend"
        ),
        pauses=counter(
            "pauses",
            "Times that a provider asked all workers to wait, with a 429 and Retry-After.",
            "backend",
        ),
        pause_seconds=counter("pause_seconds", "Seconds that providers asked workers to wait.", "backend"),
        staged=counter("documents_staged", "Documents accepted: new, changed or unchanged.", "index"),
        embedded=counter("chunks_embedded", "Chunks embedded by the provider.", "index"),
        published=counter("documents_published", "Document revisions that became searchable.", "index"),
        failed=counter("documents_failed", "Documents that failed or were refused.", "index", "reason"),
        retried=counter(
            "chunks_retried", "Chunks whose request failed and will be retried.", "index", "reason"
        ),
        expired=counter(
            "leases_expired", "Chunks claimed again because the lease of another worker expired.", "index"
        ),
        question_vectors=counter(
            "question_vectors", "Questions that were searched by vector.", "backend", "cache"
        ),
        rerank_failures=counter(
            "rerank_failures", "Searches that kept their order, as the reranker failed.", "backend", "reason"
        ),
        search_seconds=histogram(
            "search_seconds",
            "Duration of searches, those of chats too, with the request for the question, in seconds.",
            "index",
            "mode",
            "outcome",
        ),
        chat_seconds=histogram(
            "chat_seconds",
            "Duration of questions, from the search to the answer, in seconds.",
            "index",
            "outcome",
        ),
        answers=counter("answers", "Answers, and questions that were not answered.", "index", "result"),
        groundedness=histogram(
            "answer_groundedness_ratio",
            "Share of the sentences of an answer whose words occur in the passages that it cites.",
            "index",
            buckets=FILL_BUCKETS,
        ),
        removed_citations=counter(
            "citations_removed", "Numbers that models cited without having been sent such a passage.", "index"
        ),
        tasks=counter("tasks", "Task runs that ended.", "task", "state"),
        task_seconds=histogram("task_seconds", "Duration of task runs, in seconds.", "task"),
    )
