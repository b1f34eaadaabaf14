"""Remember the vectors of questions for a short time, as the same question is asked again and again. Pure."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SECONDS = 300.0
MOST_BYTES = 16_000_000  # of the vectors of a process: 2,600 of 1,536 dimensions


class QuestionKey(NamedTuple):
    """What the vector of a question depends on. The text is hashed with its prefix, as it is embedded."""

    backend: int  # `id` of the object, which the entry keeps alive
    model: str
    dimensions: int
    text: bytes  # hash


class _Entry(NamedTuple):
    vector: NDArray[np.float32]
    backend: object
    until: float  # by the clock of the cache


class QuestionCache:
    """Vectors by question, for SECONDS each; the least recently used go first. Any number of threads may use it."""

    def __init__(self, *, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_bytes, self._clock = most_bytes, clock
        self._entries: OrderedDict[QuestionKey, _Entry] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: QuestionKey) -> NDArray[np.float32] | None:
        """Return the vector of a question, `None` if it is not known or too old."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.until <= self._clock():
                self._remove(key)
                return None
            self._entries.move_to_end(key)
            return entry.vector

    def put(self, key: QuestionKey, vector: NDArray[np.float32], backend: object) -> None:
        """Remember the vector of a question, which nobody may change from now on."""
        vector.setflags(write=False)
        with self._lock:
            self._remove(key)
            self._entries[key] = _Entry(vector, backend, self._clock() + SECONDS)
            self._bytes += vector.nbytes
            while self._bytes > self._most_bytes:
                self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget all vectors."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def _remove(self, key: QuestionKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.vector.nbytes


remembered = QuestionCache()  # of this process
