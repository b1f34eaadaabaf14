"""One reading of a source, whole or incremental; whatever the source raises becomes one sentence."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from worker.errors import SourceFailed, VectorIndexError
from worker.protocols import CheckedSource, IncrementalSource, Source


class Reading:
    """One pass over a source, and the cursor that it returned."""

    def __init__(self, source: Source, name: str) -> None:
        """Raises SourceFailed when the source cannot name its fingerprint."""
        self._source, self._name = source, name
        self._read = 0
        self.cursor: str | None = None  # set at the end of a reading; None: the source returned none
        with self._translated():
            found = source.fingerprint() if isinstance(source, IncrementalSource) else ""
        kind = type(source)
        # the class belongs to it: two sources of one index may call different things "1"
        self.fingerprint = f"{kind.__module__}.{kind.__qualname__} {found}" if found else ""

    def documents(self, since: str | None) -> Generator[Any, None, None]:
        """Yield the items of the source; those since a cursor, if it has a fingerprint. Raises SourceFailed."""
        with self._translated():
            for item in self._items(since):
                yield item
                self._read += 1

    def _items(self, since: str | None) -> Iterator[Any]:
        if not (self.fingerprint and isinstance(self._source, IncrementalSource)):
            yield from self._source.documents()
            return
        cursor = yield from self._source.documents_since(since)
        if cursor is not None and (not isinstance(cursor, str) or "\0" in cursor):
            raise SourceFailed(
                f"documents_since returned a cursor of type {type(cursor).__name__}: return text"
            )
        self.cursor = cursor

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # a source is the operator's own code and may fail in any way; a failed reading must never be swept
            raise SourceFailed(
                f"source {self._name!r} failed after {self._read:,} documents ({_first_line(error)}): "
                "nothing was deleted; fix it and run reindex again"
            ) from error


def check(source: Source, name: str) -> str | None:
    """Return the line of the source's `check`, or `None` without one. Raises as `check`, and SourceFailed."""
    try:
        return source.check() if isinstance(source, CheckedSource) else None
    except VectorIndexError:
        raise
    except Exception as error:
        raise SourceFailed(
            f"check of source {name!r} failed ({_first_line(error)}): fix the source, or let check raise SettingsError "
            "or SourceFailed with a sentence of its own"
        ) from error


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0][:200]
    return line if isinstance(error, VectorIndexError) else f"{type(error).__name__}: {line}"
