"""Filters that leave many chunks, so that a search walks the vector index instead of comparing all of them.

To find that out, a search reads these chunks up to a bound, which takes several times as long as the search itself.
Applications use the same filters again and again, so a process remembers the wide ones for a while. A filter that has
become narrow meanwhile is answered in full all the same: a walk that finds too few chunks is followed by a comparison.
"""

import time

from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import Filter

KEPT_SECONDS = 300
KEPT_FILTERS = 1_000

_kept_until: dict[tuple[object, ...], float] = {}  # monotonic seconds


def is_known(connection: Connection, build: Build, where: Filter) -> bool:
    """Whether this filter has left many chunks of a build lately."""
    return _kept_until.get(_key(connection, build, where), 0.0) > time.monotonic()


def remember(connection: Connection, build: Build, where: Filter) -> None:
    """Note that this filter leaves many chunks of a build."""
    if len(_kept_until) >= KEPT_FILTERS:
        _kept_until.clear()
    _kept_until[_key(connection, build, where)] = time.monotonic() + KEPT_SECONDS


def _key(connection: Connection, build: Build, where: Filter) -> tuple[object, ...]:
    info = connection.info
    return info.host, info.port, info.dbname, build.build, repr(where)
