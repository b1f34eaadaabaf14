"""The page `metrics.md`: every metric with its type, labels and meaning, from the objects that count."""

from collections.abc import Iterable
from typing import Any

from prometheus_client.metrics_core import Metric

from worker.observability.metrics import LABELS, define_families
from worker.observability.scraping import (
    READING_SHARE,
    REUSE_SECONDS,
    STALE_SECONDS,
    WAIT_SECONDS,
    ServiceState,
)

from .text import page, table, wrapped

INTRODUCTION = """\
# Metrics

Set `METRICS_PORT`, and each worker process serves these to Prometheus. [How to scrape them, alerts and a
dashboard](../how-to/monitoring.md#prometheus).
"""
COUNTERS = """\
Each process counts its own events, from 0 at its start. Sum over processes:
`sum by (index) (rate(vector_index_chunks_embedded_total[1m]))`. A histogram has the usual suffixes `_bucket`, `_sum`
and `_count`. `process_*` (memory, CPU, open files) describe the parent process.
"""
STATE = """\
These figures come from Postgres and the broker, and are the same in every process: take the `max` instead of the sum.
A scrape reads them on a connection of its own, and keeps them for {reuse:g} s, or for {share:g} times as long as
reading took. It waits {wait:g} s at most. If a service is away, its figures are missing at once; if it hangs, after
{stale:g} s.
"""
BOUNDED = """\
No label comes from a document, the id of a task or an error message, so the number of series is bounded.
"""


def text() -> str:
    """Return the page. Raises ValueError for a label without a description."""
    counted = [(metric, family._labelnames) for family in families() for metric in family.describe()]
    state = ServiceState("", dict).describe()
    return page(
        INTRODUCTION,
        "## Counters of a process",
        COUNTERS,
        rows(counted),
        "## State of the system",
        wrapped(
            STATE.format(reuse=REUSE_SECONDS, share=1 / READING_SHARE, wait=WAIT_SECONDS, stale=STALE_SECONDS)
        ),
        rows((metric, metric._labelnames) for metric in state),  # type: ignore[attr-defined]
        "## Labels",
        BOUNDED,
        table(["label", "meaning"], [[f"`{label}`", meaning] for label, meaning in LABELS.items()]),
    )


def families() -> Iterable[Any]:
    """Return the metrics that a process counts."""
    return vars(define_families(None)).values()


def rows(metrics: Iterable[tuple[Metric, Iterable[str]]]) -> str:
    """Return a table of metrics with their labels."""
    return table(["metric", "type", "labels", "meaning"], [row(metric, labels) for metric, labels in metrics])


def row(metric: Metric, labels: Iterable[str]) -> list[str]:
    for label in labels:
        if label not in LABELS:
            raise ValueError(
                f"label {label!r} of {metric.name} is not in LABELS of worker/observability/metrics.py"
            )
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return [
        f"`{name}`",
        metric.type,
        ", ".join(f"`{label}`" for label in labels),
        metric.documentation.rstrip("."),
    ]
