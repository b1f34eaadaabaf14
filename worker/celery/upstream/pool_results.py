"""Results of pool processes: survive a lost broker connection while half a result is read.

A result of more than 16 kB arrives in parts, which a generator reads. Celery drops the generator with the broker
connection and takes the next part for a new result: UnpicklingError, and the worker ends.
"""

from collections.abc import Iterator
from typing import Any

from celery.concurrency.asynpool import ResultHandler

_receive = ResultHandler._recv_message


def receive_message(self: Any, add_reader: Any, fileno: int, callback: Any) -> Iterator[None]:
    """Continue with the result that was being read from this process, or begin the next one."""
    process = self.fileno_to_outq[fileno]
    rest = getattr(process, "rest", None) or _receive(self, add_reader, fileno, callback)
    process.rest = rest  # outlives this generator
    for _ in rest:
        yield
    process.rest = None
