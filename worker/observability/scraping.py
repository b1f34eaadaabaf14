"""Scrape: what Prometheus gets when it asks a worker process.

What happened in the process is counted in its memory (worker/observability/events.py). What Postgres and the broker
hold is read during the scrape, by a thread of its own: a service that is away costs its figures, not the scrape.
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
from worker.store import connection, upkeep

T = TypeVar("T")

PATIENCE_SECONDS = 2.0  # of a scrape; Prometheus gives up after 10 by default
KEPT_SECONDS = 5.0  # a reading serves all scrapes of this time, and longer where it takes long:
COST = 0.1  # reading takes up this share of the time, at most
STALE_SECONDS = 60.0  # until a reading that could not be renewed is no longer told

_Standings = tuple[list[upkeep.Standing], Mapping[str, int]]

logger = logging.getLogger("vector_index.metrics")


class Reading(Generic[T]):
    """What a service says, read by a thread when it is asked for and the last reading has served its time."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last: tuple[float, float, T] | None = None  # began and ended, in monotonic seconds

    def begin(self) -> "Reading[T]":
        """Let the thread read where that is due."""
        with self._lock:
            busy = self._thread is not None and self._thread.is_alive()
            if not busy and not self._serves():
                self._thread = threading.Thread(target=self._run, name="reading", daemon=True)
                self._thread.start()
        return self

    def wait(self) -> T | None:
        """The reading; None when the service did not answer, or not for STALE_SECONDS."""
        if self._thread is not None:
            self._thread.join(PATIENCE_SECONDS)
        last = self._last
        return last[2] if last is not None and time.monotonic() - last[1] < STALE_SECONDS else None

    def _serves(self) -> bool:
        if self._last is None:
            return False
        began, ended, _ = self._last
        return time.monotonic() - ended < min(max(KEPT_SECONDS, (ended - began) / COST), STALE_SECONDS)

    def _run(self) -> None:
        began = time.monotonic()
        try:
            read = self._read()
            self._last = (began, time.monotonic(), read)
        except VectorIndexError:
            self._last = None  # `vector_index_up` tells it
        except Exception as error:  # a mistake of ours in one reading takes no other metric away
            self._last = None
            logger.error("what a service holds could not be read", exc_info=Bug.of(error))


class State(Collector):
    """The figures of Postgres and the broker, as they are while somebody scrapes."""

    def __init__(self, url: str, lengths: Callable[[], Mapping[str, int]]) -> None:
        self._standings = Reading(lambda: _read(url))
        self._lengths = Reading(lengths)

    def collect(self) -> Iterator[Metric]:
        self._standings.begin()
        self._lengths.begin()
        standings, lengths = self._standings.wait(), self._lengths.wait()
        up = _gauge("up", "Whether a service answers.", "service")
        up.add_metric(["postgres"], standings is not None)
        up.add_metric(["broker"], lengths is not None)
        yield up
        if lengths is not None:
            yield _queues(lengths)
        if standings is not None:
            yield from _system(standings)


def serve(address: str, port: int, registry: CollectorRegistry) -> socket:
    """Serve the registry from now on, in threads of this process; the socket it listens on. Raises SettingsError."""
    try:
        server, _ = start_http_server(port, address, registry)
    except OSError as error:
        raise SettingsError(
            f"METRICS_PORT: cannot listen on {address}:{port} ({error.strerror}): end the program that does, or give "
            "another METRICS_PORT or METRICS_ADDRESS"
        ) from error
    return server.socket


def _read(url: str) -> _Standings:
    with connection.connect(
        url
    ) as conn:  # not of the pool: a scrape waits for no worker, and takes no place of one
        return upkeep.standings(conn)


def _system(standings: _Standings) -> Iterator[Metric]:
    indexes, outbox = standings
    documents = _gauge("documents", "Documents by state of their newest revision.", "index", "state")
    chunks = _gauge("pending_chunks", "Chunks that wait for a vector, in all builds.", "index")
    tokens = _gauge("pending_tokens", "Tokens of the chunks that wait.", "index")
    oldest = _gauge("oldest_pending_seconds", "How long the oldest pending document has waited.", "index")
    paused = _gauge("paused", "Whether nothing of the index is sent to its provider.", "index")
    repairs = CounterMetricFamily(
        "vector_index_sweep_repairs", "What the sweep had to mend.", labels=["index", "kind"]
    )
    for standing in indexes:
        for state, number in standing.documents.items():
            documents.add_metric([standing.index, state], number)
        for kind, number in standing.repairs.items():
            repairs.add_metric([standing.index, kind], number)
        chunks.add_metric([standing.index], standing.pending_chunks)
        tokens.add_metric([standing.index], standing.pending_tokens)
        oldest.add_metric([standing.index], standing.oldest_seconds)
        paused.add_metric([standing.index], standing.paused)
    rows = _gauge("outbox_rows", "Rows of the outbox: waiting, or failed for good.", "state")
    for state, number in outbox.items():
        rows.add_metric([state], number)
    yield from (documents, chunks, tokens, oldest, paused, repairs, rows)


def _queues(lengths: Mapping[str, int]) -> Metric:
    waiting = _gauge("queue_messages", "Messages in the broker that no worker has taken.", "queue")
    for queue, number in lengths.items():
        waiting.add_metric([queue], number)
    return waiting


def _gauge(name: str, says: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"vector_index_{name}", says, labels=labels)
