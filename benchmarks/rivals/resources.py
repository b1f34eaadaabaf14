"""Processor time and memory of a process and its descendants, as Linux counts them."""

import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psutil
import psycopg

SAMPLE_SECONDS = 0.5


def tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of the tree; with the children that have ended, if they were waited for."""
    total = 0.0
    for found in tree(process):
        with suppress(psutil.Error):
            total += sum(found.cpu_times()[:4])
    return total


def pss_mb(process: psutil.Process) -> list[float]:
    """Memory of each process of the tree in MB: pages that processes share are divided among them."""
    sizes = []
    for found in tree(process):
        with suppress(psutil.Error):
            sizes.append(found.memory_full_info().pss / 1e6)
    return sizes


def postmaster(database_url: str) -> psutil.Process | None:
    """The server's first process, if it runs on this machine."""
    if urlsplit(database_url).hostname not in (None, "127.0.0.1", "localhost", "::1"):
        return None
    with psycopg.connect(database_url) as connection:
        try:
            found = psutil.Process(connection.info.backend_pid).parent()
        except psutil.Error:
            return None
    return found if found and "postgres" in found.name() else None


class Memory:
    """The peak of a tree's memory while the block runs. A look takes time, so it takes a 20th of the time at most."""

    def __init__(self, process: psutil.Process) -> None:
        self.process = process
        self.peak_mb = 0.0
        self.largest_mb = 0.0  # of one process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        pause = SAMPLE_SECONDS
        while not self._stop.wait(pause):
            pause = max(SAMPLE_SECONDS, 20 * self._look())

    def _look(self) -> float:
        started = time.perf_counter()
        sizes = pss_mb(self.process)
        self.peak_mb = max(self.peak_mb, sum(sizes))
        self.largest_mb = max(self.largest_mb, *sizes, 0.0)
        return time.perf_counter() - started
