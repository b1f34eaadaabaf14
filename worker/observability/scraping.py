"""Scrape: serve metrics to Prometheus, with the figures of Postgres and the broker.

Events of this process are counted in memory (worker/observability/metrics.py). The figures of Postgres and the broker
are read during the scrape, each in a thread of its own. When a service does not answer, the scrape lacks only its
figures.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from socket import socket
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.errors import Bug, SettingsError, VectorIndexError
from worker.store import connection, status

T = TypeVar("T")

WAIT_SECONDS = 2.0  # how long a scrape waits for a reading; Prometheus gives up after 10 s by default
REUSE_SECONDS = 5.0  # how long a reading serves later scrapes, at least
READING_SHARE = 0.1  # reading may take this share of the time, at most: a slow reading serves longer
STALE_SECONDS = 60.0  # how long a reading that cannot be renewed is served

_Figures = tuple[list[status.ScrapedIndex], Mapping[str, int]]  # of indexes; outbox rows by state

logger = logging.getLogger("vector_index.metrics")


class BackgroundReading(Generic[T]):
    """A reading of a service, renewed by a thread when somebody asks for it and it is too old."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last: tuple[float, float, T] | None = (
            None  # begin and end in monotonic seconds, and the reading
        )

    def begin(self) -> "BackgroundReading[T]":
        """Start reading in a thread if the last reading is too old."""
        with self._lock:
            busy = self._thread is not None and self._thread.is_alive()
            if not busy and not self._is_fresh():
                self._thread = threading.Thread(target=self._run, name="reading", daemon=True)
                self._thread.start()
        return self

    def wait(self) -> T | None:
        """The reading; `None` when the service failed, or did not answer for STALE_SECONDS."""
        if self._thread is not None:
            self._thread.join(WAIT_SECONDS)
        last = self._last
        return last[2] if last is not None and time.monotonic() - last[1] < STALE_SECONDS else None

    def _is_fresh(self) -> bool:
        if self._last is None:
            return False
        began, ended, _ = self._last
        serves = min(max(REUSE_SECONDS, (ended - began) / READING_SHARE), STALE_SECONDS)
        return time.monotonic() - ended < serves

    def _run(self) -> None:
        began = time.monotonic()
        try:
            read = self._read()
            self._last = (began, time.monotonic(), read)
        except VectorIndexError:
            self._last = None  # vector_index_up is 0
        except Exception as error:  # a bug in one reading leaves the other metrics in place
            self._last = None
            logger.error("reading the figures of a service failed", exc_info=Bug.of(error))


class ServiceState(Collector):
    """Collector of the figures that Postgres and the broker hold, read while somebody scrapes."""

    def __init__(self, url: str, lengths: Callable[[], Mapping[str, int]]) -> None:
        self._figures = BackgroundReading(lambda: _read(url))
        self._lengths = BackgroundReading(lengths)

    def describe(self) -> Iterator[Metric]:
        """Yield every metric without a sample; the registry asks when the collector is registered."""
        yield _up({})
        yield _queues({})
        yield from _indexes(([], {}))

    def collect(self) -> Iterator[Metric]:
        self._figures.begin()
        self._lengths.begin()
        figures, lengths = self._figures.wait(), self._lengths.wait()
        yield _up({"postgres": figures is not None, "broker": lengths is not None})
        if lengths is not None:
            yield _queues(lengths)
        if figures is not None:
            yield from _indexes(figures)


def serve(address: str, port: int, registry: CollectorRegistry) -> socket:
    """Serve the registry in threads of this process; the listening socket. Raises SettingsError."""
    try:
        server, _ = start_http_server(port, address, registry)
    except OSError as error:
        raise SettingsError(
            f"METRICS_PORT: cannot listen on {address}:{port} ({error.strerror}); stop the program that uses the port, "
            "or change METRICS_PORT or METRICS_ADDRESS"
        ) from error
    return server.socket


def _read(url: str) -> _Figures:
    # outside the pool: a scrape must neither wait for a worker's connection nor take one
    with connection.connect(url) as conn:
        return status.all_indexes(conn)


def _indexes(figures: _Figures) -> Iterator[Metric]:
    indexes, outbox = figures
    documents = _gauge("documents", "Documents by state of their newest revision.", "index", "state")
    chunks = _gauge("pending_chunks", "Chunks waiting to be embedded, in all builds.", "index")
    tokens = _gauge("pending_tokens", "Tokens of the chunks waiting to be embedded.", "index")
    oldest = _gauge("oldest_pending_seconds", "Age of the oldest pending document, in seconds.", "index")
    paused = _gauge("paused", "1 if embedding is paused for the index, else 0.", "index")
    rebuild = _gauge(
        "rebuild", "1 while a rebuild of the index is in this state: filling or closing.", "index", "state"
    )
    share = _gauge("rebuild_done", "Share of the documents that a rebuild has finished, 0 to 1.", "index")
    left = _gauge(
        "rebuild_seconds_left", "Estimate of the time until a rebuild has all documents, in seconds.", "index"
    )
    repairs = CounterMetricFamily(
        "vector_index_sweep_repairs",
        "Documents published and contents queued by the sweep after a worker died.",
        labels=["index", "kind"],
    )
    for each in indexes:
        for state, number in each.documents.items():
            documents.add_metric([each.index, state], number)
        for kind, number in each.repairs.items():
            repairs.add_metric([each.index, kind], number)
        chunks.add_metric([each.index], each.pending_chunks)
        tokens.add_metric([each.index], each.pending_tokens)
        oldest.add_metric([each.index], each.oldest_seconds)
        paused.add_metric([each.index], each.paused)
        if each.rebuild is not None:
            rebuild.add_metric([each.index, each.rebuild.state], 1)
            share.add_metric([each.index], each.rebuild.share)
            if each.rebuild.seconds_left is not None:
                left.add_metric([each.index], each.rebuild.seconds_left)
    rows = _gauge("outbox_rows", "Outbox rows: waiting to be staged, or failed.", "state")
    for state, number in outbox.items():
        rows.add_metric([state], number)
    yield from (documents, chunks, tokens, oldest, paused, rebuild, share, left, repairs, rows)


def _up(answers: Mapping[str, bool]) -> Metric:
    up = _gauge("up", "1 if the service answers, else 0.", "service")
    for service, does in answers.items():
        up.add_metric([service], does)
    return up


def _queues(lengths: Mapping[str, int]) -> Metric:
    waiting = _gauge("queue_messages", "Messages in the broker waiting for a worker.", "queue")
    for queue, number in lengths.items():
        waiting.add_metric([queue], number)
    return waiting


def _gauge(name: str, description: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"vector_index_{name}", description, labels=labels)
