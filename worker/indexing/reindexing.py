"""Reindex: what the source of an index holds is staged; what it holds no longer is deleted.

One look per page of a thousand finds what is searchable as it is; only the rest goes through staging. Mark and sweep:
the keys of the documents that a complete reading met are kept in memory, eight bytes each, and those that it did not
meet are deleted, unless they changed after it began. A run that died is begun again under the same task id: it reads
everything anew, and what it staged before is unchanged by then, which costs no request.
"""

import logging
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.configuration import IndexSettings
from worker.documents import Document, clean
from worker.errors import BuildDropped, TemporaryError, VectorIndexError
from worker.indexing.packing import batches
from worker.indexing.staging import SLICE_CHARACTERS, ensure_index, sliced, sort, stage_slice
from worker.observability.logs import log_fields
from worker.protocols import EmbeddingBackend, Skipped, Source
from worker.sources.reading import Reading
from worker.store import builds, connection, deletion, indexes, jobs, reindexing
from worker.store.jobs import JobSlice
from worker.store.reindexing import (
    DOCUMENTS_AT_ONCE,
    LEASE_SECONDS,
    ReindexRequest,
    ReindexRun,
    RunCounts,
    SourceCursor,
)
from worker.store.writing import DOCUMENTS_PER_TRANSACTION

logger = logging.getLogger("vector_index.reindex")

PRIORITY = 1  # behind what applications send
RENEW_SECONDS = LEASE_SECONDS / 4

OVERLAPS = "another run of reindex is reading the source of {!r}: this one did nothing"
PAUSED = "the index {!r} is paused: this run did nothing; resume the index and run reindex again"


class LeaseLost(TemporaryError):
    """Another run has taken over the index, and has closed this one in the history."""


def reindex(
    url: str,
    index: IndexSettings,
    backend: EmbeddingBackend,
    make_source: Callable[[], Source],
    request: ReindexRequest,
    *,
    max_bytes: int,
    full: bool = False,
    allow_shrink: bool = False,
    tell: Callable[[int], None] = lambda read: None,
) -> str | None:
    """Bring the index up to its source; a sentence where nothing was done: it is paused, or another run is at it.

    A second call with the same task id does nothing once a first one came to its end. `full` reads a source that
    keeps a cursor from its beginning. `tell` is given the number of documents read, page by page. Raises SourceFailed
    when the source ends with an error: nothing is deleted. TemporaryError: try again later with the same task id.
    """
    with connection.checkout(url) as conn:
        if jobs.ledger(conn, request.task_id).complete:
            return None
    with written_down(url, request):
        index_id = ensure_index(url, index, backend)
    with connection.checkout(url) as conn:
        paused = indexes.paused_at(conn, index.name) is not None
        run = None if paused else reindexing.begin(conn, index_id, request)
        if run is None:
            if reindexing.holder(conn, index_id) == request.task_id:
                raise TemporaryError(
                    f"an earlier delivery of this reindexing of {index.name!r} may still run"
                )
            reason = (PAUSED if paused else OVERLAPS).format(index.name)
            reindexing.give_up(conn, request, "skipped", reason)
            logger.info(
                "reindex_skipped", extra=log_fields(index=index.name, task_id=request.task_id, reason=reason)
            )
            return reason
    with _held(url, run), written_down(url, request):
        reading = _Reading(url, index, backend, run, request.task_id, max_bytes)
        reading.carry_out(make_source(), full, allow_shrink, tell)
    return None


@contextmanager
def _held(url: str, run: ReindexRun) -> Iterator[None]:
    """Hold the lease of a run until the block ends, or this process does.

    In a thread: a source may take hours for one document. A run that has lost it is told when it looks or writes.
    """
    over = threading.Event()

    def renew() -> None:
        is_ours = True
        while is_ours and not over.wait(RENEW_SECONDS):
            with suppress(TemporaryError), connection.checkout(url) as conn:
                is_ours = reindexing.renew(conn, run)

    thread = threading.Thread(target=renew, name=f"reindexing-{run.index_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with connection.checkout(url) as conn:
            reindexing.end(conn, run)


@contextmanager
def written_down(url: str, request: ReindexRequest) -> Iterator[None]:
    """Why a run fails stands in the history, too."""
    try:
        yield
    except LeaseLost:
        raise
    except Exception as error:  # only to note it: it is raised again
        # what is not ours may quote a document
        message = str(error) if isinstance(error, VectorIndexError) else type(error).__name__
        said = log_fields(index=request.index, task_id=request.task_id, error=message)
        logger.warning("reindex_failed", extra=said)  # a run of the schedule has no caller who would see it
        with suppress(TemporaryError), connection.checkout(url) as conn:
            reindexing.give_up(conn, request, "failed", message)
        raise


class _Reading:
    """One run over the source; what it stages, its deletions, and an empty slice at each end are slices of one job."""

    def __init__(
        self,
        url: str,
        index: IndexSettings,
        backend: EmbeddingBackend,
        run: ReindexRun,
        task_id: str,
        max_bytes: int,
    ) -> None:
        self._url, self._index, self._backend, self._run = url, index, backend, run
        self._task_id, self._max_bytes = task_id, max_bytes
        self._numbers = count()
        # keys of documents, one for each time that the source returned it
        self._settled, self._changed, self._staged = array("q"), array("q"), array("q")
        self._spared = array("q")  # of documents that could not be taken: what is served of them stays
        self._staged_before = array("q")  # by an earlier delivery
        self._taken = 0  # documents that the source returned, each time that it did
        self._rejected = 0
        self._deleted = 0
        self._nameless = 0  # what could not be taken, and may be or hold any document

    def carry_out(self, source: Source, full: bool, allow_shrink: bool, tell: Callable[[int], None]) -> None:
        reading = Reading(source, self._index.source.name if self._index.source else "")
        with connection.checkout(self._url) as conn:
            ledger = jobs.ledger(conn, self._task_id)
            self._staged_before = reindexing.begin_again(conn, self._task_id)
            before = reindexing.last_complete(conn, self._index.name)
            since = None
            if reading.fingerprint and not full:
                since = reindexing.last_cursor(conn, self._index.name, reading.fingerprint)
            held = reindexing.count_documents(conn, self._run.index_id) if before is None else 0
        self._deleted = ledger.counts.get("deleted", 0)
        self._numbers = count(ledger.slices)
        if not ledger.slices:
            self._stage([])
        with closing(reading.documents(since)) as items:
            for page in batches(
                items, _characters, weight_limit=SLICE_CHARACTERS, size_limit=DOCUMENTS_AT_ONCE
            ):
                self._take(page)
                tell(self._taken + self._rejected)
        met = _distinct(self._settled, self._changed, self._staged)
        warning = None
        if since is None:
            warning = self._objection(len(met) + self._rejected, before, held, allow_shrink)
            if warning is None:
                self._sweep(_distinct(met, self._spared))
        self._finish(reading, since, len(met), warning)

    def _take(self, page: Sequence[object]) -> None:
        """Look at a page, and stage what is not searchable as the source has it."""
        skipped = [item for item in page if isinstance(item, Skipped)]
        message = sort([item for item in page if not isinstance(item, Skipped)], max_bytes=self._max_bytes)
        unread = [{"id": clean(item.id or item.path), "error": item.reason} for item in skipped]
        rejected = [*message.rejected, *unread]
        with connection.checkout(self._url) as conn:
            self._hold(conn)
            build = builds.live(conn, self._index.name)
            if build is None:
                raise BuildDropped(connection.DROPPED)
            known = reindexing.look(conn, build, message.documents, [entry["id"] for entry in rejected])
        changed = []
        for document in message.documents:
            found = known.get(document.id)
            if found is not None:
                (self._settled if found.settled else self._changed).append(found.doc)
            if found is None or not found.settled:
                changed.append(document)
        self._spared.extend(known[entry["id"]].doc for entry in rejected if entry["id"] in known)
        self._taken += len(message.documents) + message.superseded
        self._rejected += len(rejected)
        self._nameless += sum(not _is_named(item) for item in page)
        slices: list[list[Document]] = list(sliced(changed, lambda document: len(document.text)))
        for at, some in enumerate(slices or [[]] * bool(rejected)):
            self._stage(some, rejected=rejected if at == 0 else ())

    def _objection(self, returned: int, before: int | None, held: int, allow_shrink: bool) -> str | None:
        """Why nothing may be deleted after this reading; None: all is well."""
        if self._nameless:
            return (
                f"{self._nameless:,} files, lines or documents could not be taken, and which documents they are is not "
                "known: nothing was deleted; mend what failed and run reindex again"
            )
        if not allow_shrink and 2 * returned < (held if before is None else before):
            those = f"the index holds {held:,}" if before is None else f"{before:,} in the last complete run"
            return (
                f"the source returned {returned:,} documents and {those}: nothing was deleted; "
                "run reindex with allow_shrink if that is meant"
            )
        return None

    def _sweep(self, met: NDArray[np.int64]) -> None:
        """Delete what the source has no longer; `met` is sorted."""
        after = ""
        while True:
            with connection.checkout(self._url) as conn:
                page = reindexing.documents_before(conn, self._run, after)
            if not page:
                return
            after = page[-1][0]
            gone = {id: head for id, doc, head in page if not _has(met, doc)}
            for some in batches(gone, lambda _: 0, weight_limit=0, size_limit=DOCUMENTS_PER_TRANSACTION):
                job = self._job()
                with connection.checkout(self._url) as conn:
                    heads = {id: gone[id] for id in some}
                    self._deleted += deletion.delete(conn, job, some, None, heads=heads)["deleted"]

    def _finish(self, reading: Reading, since: str | None, met: int, warning: str | None) -> None:
        """Write down what the run came to, and the last slice, which completes the job."""
        staged = _distinct(self._staged, self._staged_before)
        unchanged = len(_distinct(self._settled, staged)) - len(staged)
        figures = RunCounts(
            read=met + self._rejected,
            staged=len(staged),
            unchanged=unchanged,
            deleted=self._deleted,
            rejected=self._rejected,
        )
        reached = reading.cursor or since
        cursor = SourceCursor(query=reading.fingerprint, reached=reached) if reached else None
        with connection.checkout(self._url) as conn:
            self._hold(conn)
            reindexing.finish(
                conn, self._task_id, figures, incremental=since is not None, message=warning, cursor=cursor
            )
            reindexing.set_report(conn, self._task_id, {} if warning is None else {"warning": warning})
        self._stage([], last=True, unchanged=unchanged, superseded=self._taken - met)
        said = log_fields(index=self._index.name, task_id=self._task_id, **asdict(figures), warning=warning)
        logger.log(logging.INFO if warning is None else logging.WARNING, "reindexed", extra=said)

    def _stage(self, documents: Sequence[Document], **values: Any) -> None:
        job = self._job(**values)
        self._staged.extend(stage_slice(self._url, self._index.name, job, self._backend, documents, PRIORITY))

    def _job(self, *, last: bool = False, **values: Any) -> JobSlice:
        """The next slice; only the last one says how many there are. Raises LeaseLost: nothing may be written."""
        with connection.checkout(self._url) as conn:
            self._hold(conn)
        number = next(self._numbers)
        slices = number + 1 if last else 0
        return JobSlice(
            task_id=self._task_id, slice=number, slices=slices, index_id=self._run.index_id, **values
        )

    def _hold(self, conn: connection.Connection) -> None:
        if not reindexing.renew(conn, self._run):
            raise LeaseLost(f"another run of reindex has taken over the index {self._index.name!r}")


def _is_named(item: object) -> bool:
    """Whether it is known which document it is; the id 42.0 may be that of what the index has as 42."""
    if isinstance(item, Skipped):
        return item.id is not None
    id = item.get("id") if isinstance(item, Mapping) else None
    return isinstance(id, str | int) and id != ""


def _characters(item: object) -> int:
    text = item.get("text") if isinstance(item, Mapping) else None
    return len(text) if isinstance(text, str) else 0


def _distinct(*keys: "array[int] | NDArray[np.int64]") -> NDArray[np.int64]:
    """The numbers that are in any, each once, in order."""
    # np.unique takes a table of hashes for it, which is several times as large
    found = np.sort(np.concatenate([np.asarray(some, dtype=np.int64) for some in keys]))
    first = np.ones(len(found), dtype=np.bool_)
    first[1:] = found[1:] != found[:-1]
    return found[first]


def _has(keys: NDArray[np.int64], key: int) -> bool:
    at = int(np.searchsorted(keys, key))
    return at < len(keys) and int(keys[at]) == key
