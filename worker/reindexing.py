"""Reindex: what the source of an index holds is staged page by page; what it holds no longer is deleted.

Mark and sweep: the ids of a complete reading are kept in memory (about 100 bytes each), and documents that it did
not meet are deleted, unless they changed after it began. A run that died is begun again under the same task id:
it reads everything anew, and what it staged before is unchanged by then, which costs no request.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

from worker.configuration import IndexSettings
from worker.errors import SourceFailed, TemporaryError, VectorIndexError
from worker.recipes import EmbeddingBackend
from worker.sources import Source
from worker.sources.files import Skipped
from worker.staging import ensure_index, sliced, sort, stage_slice
from worker.store import connection, reindexing, revisions, upkeep
from worker.store.reindexing import Run
from worker.store.revisions import DOCUMENTS_PER_TRANSACTION, Job

PRIORITY = 1  # behind what applications send


def reindex(
    url: str,
    index: IndexSettings,
    backend: EmbeddingBackend,
    source: Source,
    task_id: str,
    *,
    max_bytes: int,
    allow_shrink: bool = False,
    tell: Callable[[int], None] = lambda read: None,
) -> bool:
    """Bring the index up to its source; False when another run is at it, and nothing was done.

    A second call with the same `task_id` does nothing once a first one came to its end. `tell` is given the number
    of documents read, page by page. Raises SourceFailed when the source ends with an error: nothing is deleted.
    TemporaryError: try again later with the same `task_id`.
    """
    index_id = ensure_index(url, index, backend)
    with connection.checkout(url) as conn:
        run = reindexing.begin(conn, index_id, task_id)
        if run is None and reindexing.holder(conn, index_id) == task_id:
            raise TemporaryError(f"an earlier delivery of this reindexing of {index.name!r} may still run")
    if run is None:
        return False
    try:
        _Reading(url, index, backend, run, task_id, max_bytes).carry_out(source, allow_shrink, tell)
    finally:
        with connection.checkout(url) as conn:
            reindexing.end(conn, run)
    return True


class _Reading:
    """One run over the source; its pages, deletions, and an empty slice at each end are slices of one job."""

    def __init__(
        self,
        url: str,
        index: IndexSettings,
        backend: EmbeddingBackend,
        run: Run,
        task_id: str,
        max_bytes: int,
    ) -> None:
        self._url, self._index, self._backend, self._run = url, index, backend, run
        self._task_id, self._max_bytes = task_id, max_bytes
        self._numbers = count()
        self._met: set[str] = set()  # ids of the source, those of documents that cannot be taken too
        self._nameless = 0  # what could not be read, and may hold any document

    def carry_out(self, source: Source, allow_shrink: bool, tell: Callable[[int], None]) -> None:
        with connection.checkout(self._url) as conn:
            ledger = upkeep.job_ledger(conn, self._task_id)
            if ledger.complete:
                return
            reindexing.begin_again(conn, self._task_id)
            held = reindexing.count_documents(conn, self._run.index_id)
        self._numbers = count(ledger.slices)
        if not ledger.slices:
            self._stage([])
        name = self._index.source.name if self._index.source else ""
        for page in sliced(_items(source, name), _characters):
            self._stage(page)
            tell(len(self._met))
        warning = self._objection(held, allow_shrink)
        if warning is None:
            self._sweep()
        with connection.checkout(self._url) as conn:
            reindexing.set_report(conn, self._task_id, {} if warning is None else {"warning": warning})
        self._stage([], last=True)

    def _stage(self, page: Iterable[object], *, last: bool = False) -> None:
        skipped = [item for item in page if isinstance(item, Skipped)]
        message = sort([item for item in page if not isinstance(item, Skipped)], max_bytes=self._max_bytes)
        unread = [{"id": item.id or item.path, "error": item.reason} for item in skipped]
        job = self._job(last=last, rejected=[*message.rejected, *unread], superseded=message.superseded)
        stage_slice(self._url, self._index.name, job, self._backend, message.documents, PRIORITY)
        self._met.update(document.id for document in message.documents)
        self._met.update(entry["id"] for entry in job.rejected)
        self._nameless += sum(item.id is None for item in skipped)

    def _objection(self, held: int, allow_shrink: bool) -> str | None:
        """Why nothing may be deleted after this reading; None: all is well."""
        if self._nameless:
            return (
                f"{self._nameless:,} files or lines could not be read, and which documents they hold is not known: "
                "nothing was deleted; mend what failed and run reindex again"
            )
        if not allow_shrink and 2 * len(self._met) < held:
            return (
                f"the source returned {len(self._met):,} documents and the index holds {held:,}: nothing was deleted; "
                "run reindex with allow_shrink if that is meant"
            )
        return None

    def _sweep(self) -> None:
        with connection.checkout(self._url) as conn:
            found = reindexing.documents_before(conn, self._run)
            gone = [(id, head) for id, head in found if id not in self._met]
        for at in range(0, len(gone), DOCUMENTS_PER_TRANSACTION):
            job = self._job()
            with connection.checkout(self._url) as conn:
                some = dict(gone[at : at + DOCUMENTS_PER_TRANSACTION])
                revisions.delete(conn, job, list(some), None, heads=some)

    def _job(self, *, last: bool = False, **values: Any) -> Job:
        """The next slice; only the last one says how many there are. Raises TemporaryError when the lease is lost."""
        with connection.checkout(self._url) as conn:
            if not reindexing.renew(conn, self._run):
                raise TemporaryError(f"another run of reindex has taken over the index {self._index.name!r}")
        number = next(self._numbers)
        slices = number + 1 if last else 0
        return Job(task_id=self._task_id, slice=number, slices=slices, index_id=self._run.index_id, **values)


def _items(source: Source, name: str) -> Iterator[object]:
    """What the source yields; whatever it raises becomes one sentence."""
    read = 0
    try:
        for item in source.documents():
            yield item
            read += 1
    except Exception as error:
        # a source is the operator's own code and may fail in any way; what must not happen is a sweep after it
        first_line = (str(error).strip().splitlines() or [""])[0][:200]
        said = first_line if isinstance(error, VectorIndexError) else f"{type(error).__name__}: {first_line}"
        raise SourceFailed(
            f"source {name!r} failed after {read:,} documents ({said}): nothing was deleted; mend it and run "
            "reindex again"
        ) from error


def _characters(item: object) -> int:
    text = item.get("text") if isinstance(item, dict) else None
    return len(text) if isinstance(text, str) else 0
