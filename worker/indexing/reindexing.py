"""Reindex: sync an index with its source. Stage new and changed documents, delete those that the source dropped.

One query per page of a thousand documents finds those that are indexed as the source has them; only the others are
staged. Then mark and sweep: a complete run keeps the key of each document that the source returned in memory (eight
bytes each), and deletes all others that are older than the run. A run that died starts again under the same task id and
reads everything again; documents that it staged before are unchanged by then and free.
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

from worker.documents import Document, clean, document_label
from worker.errors import BuildDropped, TemporaryError, VectorIndexError
from worker.index import Index
from worker.indexing.fingerprints import fingerprint
from worker.indexing.staging import SLICE_CHARACTERS, ensure_index, sliced, sort, stage_slice
from worker.observability.logs import log_fields
from worker.packing import batches
from worker.protocols import LeftOut, Skipped, Source
from worker.sources.reading import Reading
from worker.store import builds, connection, deletion, fencing, indexes, jobs, refusals, reindexing
from worker.store.fencing import LeaseLost
from worker.store.jobs import JobSlice
from worker.store.refusals import Refusal
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

FINGERPRINT = fingerprint("reindex")  # however it reads the source, it brings the index to it
PRIORITY = 1  # after documents that applications send
RENEW_SECONDS = LEASE_SECONDS / 4

OVERLAPS = "another run of reindex is reading the source of index {!r}: this run did nothing"
PAUSED = "index {!r} is paused: this run did nothing; resume the index and run reindex again"


def reindex(
    index: Index,
    make_source: Callable[[], Source],
    request: ReindexRequest,
    *,
    max_bytes: int,
    full: bool = False,
    allow_shrink: bool = False,
    on_progress: Callable[[int], None] = lambda read: None,
) -> str | None:
    """Sync an index with its source. Returns `None`, or the reason why it was skipped: paused, or another run.

    Once a call has completed, further calls with the same task id do nothing. `full` reads a source with a cursor
    from its beginning. `on_progress` gets the number of documents read so far, page by page. Raises SourceFailed when
    the source fails: nothing is deleted. Raises TemporaryError: call again later with the same task id.
    """
    with connection.checkout(index.url) as conn:
        jobs.check_repetition(conn, request.task_id, indexes.find(conn, index.name), FINGERPRINT)
        if jobs.ledger(conn, request.task_id).complete:
            return None
    with recorded_failure(index.url, request):
        index_id = ensure_index(index)
    with connection.checkout(index.url) as conn:
        paused = indexes.paused_at(conn, index.name) is not None
        run = None if paused else reindexing.begin(conn, index_id, request)
        if run is None:
            if reindexing.holder(conn, index_id) == request.task_id:
                raise TemporaryError(
                    f"an earlier delivery of this task may still be reindexing {index.name!r}; trying again later"
                )
            reason = (PAUSED if paused else OVERLAPS).format(index.name)
            reindexing.abort(conn, request, "skipped", reason)
            logger.info(
                "reindex_skipped", extra=log_fields(index=index.name, task_id=request.task_id, reason=reason)
            )
            return reason
    with _lease(index.url, run), recorded_failure(index.url, request):
        _Sync(index, run, request.task_id, max_bytes).run(make_source(), full, allow_shrink, on_progress)
    return None


@contextmanager
def recorded_failure(url: str, request: ReindexRequest) -> Iterator[None]:
    """Record in the history why a run failed, and raise the error again."""
    try:
        yield
    except LeaseLost:
        raise
    except Exception as error:
        # the message of a foreign exception may quote a document
        message = str(error) if isinstance(error, VectorIndexError) else type(error).__name__
        logged = log_fields(index=request.index, task_id=request.task_id, error=message)
        logger.warning("reindex_failed", extra=logged)  # a scheduled run has no caller who would see it
        with suppress(TemporaryError), connection.checkout(url) as conn:
            reindexing.abort(conn, request, "failed", message)
        raise


@contextmanager
def _lease(url: str, run: ReindexRun) -> Iterator[None]:
    """Renew the lease of a run until the block ends or this process dies.

    A thread renews it, as a source may take hours for one document. A run that has lost its lease gets LeaseLost when
    it next reads or writes the index.
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
            reindexing.release(conn, run)


class _Sync:
    """One run over the source, as one job: an empty first slice, its stagings and deletions, an empty last slice."""

    def __init__(self, index: Index, run: ReindexRun, task_id: str, max_bytes: int) -> None:
        self._index, self._run = index, run
        self._task_id, self._max_bytes = task_id, max_bytes
        self._numbers = count()
        # keys of documents, one for each time that the source returned the document
        self._settled, self._changed, self._staged = array("q"), array("q"), array("q")
        self._spared = array("q")  # documents that were rejected: their served revisions stay
        self._staged_before = array("q")  # by an earlier delivery of the task
        self._taken = 0  # documents that the source returned, repeats included
        self._rejected = 0
        self._left_out = 0  # characters
        self._overtaken = 0  # documents that changed since the run began
        self._deleted = 0
        self._unidentified = 0  # items that failed and may be, or may contain, any document

    def run(self, source: Source, full: bool, allow_shrink: bool, on_progress: Callable[[int], None]) -> None:
        """Read the source, stage its changes, delete the missing documents, and complete the job."""
        settings = self._index.settings.source
        reading = Reading(source, settings.name if settings else "")
        with connection.checkout(self._index.url) as conn:
            ledger = jobs.ledger(conn, self._task_id)
            self._staged_before = reindexing.restart(conn, self._task_id)
            before = reindexing.last_complete(conn, self._index.name)
            last = None
            if reading.fingerprint:
                last = reindexing.last_cursor(conn, self._index.name, reading.fingerprint)
            since = None if full else last
            held = reindexing.count_documents(conn, self._run.index_id) if before is None else 0
        self._deleted = ledger.counts.get("deleted", 0)
        self._numbers = count(ledger.slices)
        if not ledger.slices:
            self._stage([])
        with closing(reading.documents(since)) as items:
            for page in batches(
                items, _characters, weight_limit=SLICE_CHARACTERS, size_limit=DOCUMENTS_AT_ONCE
            ):
                self._stage_page(page)
                on_progress(self._taken + self._rejected)
        met = _distinct(self._settled, self._changed, self._staged)
        warning = None
        if since is None:
            warning = self._reason_to_delete_nothing(len(met) + self._rejected, before, held, allow_shrink)
            if warning is None:
                self._delete_missing(_distinct(met, self._spared))
                with connection.checkout(self._index.url) as conn:
                    refusals.clear_before(conn, self._run.index_id, self._run.since)
        # a document that was left out must be read again: the cursor may not move past it
        reached = last if self._rejected or self._overtaken else reading.cursor or last
        self._finish(reading, reached, since is not None, len(met), warning)

    def _stage_page(self, page: Sequence[object]) -> None:
        """Stage those documents of a page that differ from the indexed ones."""
        self._left_out += sum(item.characters for item in page if isinstance(item, LeftOut))
        page = [item for item in page if not isinstance(item, LeftOut)]
        skipped = [item for item in page if isinstance(item, Skipped)]
        message = sort(
            [item for item in page if not isinstance(item, Skipped)],
            self._index.settings,
            max_bytes=self._max_bytes,
            origin="the source",
            first=self._taken + self._rejected,
        )
        unread = [Refusal(id=clean(item.id or item.path), error=item.reason) for item in skipped]
        rejected = [*message.rejected, *({"id": item.id, "error": item.error} for item in unread)]
        with connection.checkout(self._index.url) as conn:
            fencing.hold(conn, self._run)
            build = builds.live(conn, self._index.name)
            if build is None:
                raise BuildDropped(connection.DROPPED)
            known = reindexing.known_documents(
                conn, build, message.documents, [entry["id"] for entry in rejected]
            )
        changed: list[Document] = []
        settled: list[Document] = []
        for document in message.documents:
            found = known.get(document.id)
            if found is not None:
                (self._settled if found.settled else self._changed).append(found.doc)
            (settled if found is not None and found.settled else changed).append(document)
        self._clear_refusals(settled)
        self._spared.extend(known[entry["id"]].doc for entry in rejected if entry["id"] in known)
        self._left_out += message.left_out
        self._taken += len(message.documents) + message.superseded
        self._rejected += len(rejected)
        self._unidentified += sum(not _is_identified(item) for item in page)
        slices: list[list[Document]] = list(sliced(changed, lambda document: len(document.text)))
        slices = slices or [[]] * bool(rejected)
        for at, some in enumerate(slices, start=1):
            last = at == len(slices)
            self._stage(
                some,
                rejected=rejected if last else (),
                refusals=[*message.refusals, *unread] if last else (),
            )

    def _clear_refusals(self, settled: Sequence[Document]) -> None:
        """Delete the refusals of documents that are searchable as the source has them; staging does so for others."""
        with connection.checkout(self._index.url) as conn:
            refusals.clear(
                conn, self._run.index_id, [(document.id, document.version) for document in settled]
            )

    def _reason_to_delete_nothing(
        self, returned: int, before: int | None, held: int, allow_shrink: bool
    ) -> str | None:
        """The warning of a run that must keep all documents; `None`: it may delete."""
        if self._unidentified:
            return (
                f"{self._unidentified:,} files, lines or documents were rejected, and their ids are unknown: nothing "
                "was deleted; fix them and run reindex again"
            )
        if not allow_shrink and 2 * returned < (held if before is None else before):
            those = f"the index holds {held:,}" if before is None else f"{before:,} in the last complete run"
            return (
                f"the source returned {returned:,} documents and {those}: nothing was deleted; "
                "run reindex with allow_shrink to delete the others"
            )
        return None

    def _delete_missing(self, met: NDArray[np.int64]) -> None:
        """Delete the documents that the source dropped; `met` has the sorted keys of those that stay."""
        after = ""
        while True:
            with connection.checkout(self._index.url) as conn:
                page = reindexing.unchanged_documents(conn, self._run, after)
            if not page:
                return
            after = page[-1][0]
            gone = {id: head for id, doc, head in page if not _has(met, doc)}
            for some in batches(gone, lambda _: 0, weight_limit=0, size_limit=DOCUMENTS_PER_TRANSACTION):
                job = self._job()
                with connection.checkout(self._index.url) as conn:
                    heads = {id: gone[id] for id in some}
                    counts = deletion.delete(conn, job, some, None, heads=heads, run=self._run)
                    self._deleted += counts["deleted"]

    def _finish(
        self, reading: Reading, reached: str | None, incremental: bool, met: int, warning: str | None
    ) -> None:
        """Record the run in the history, and stage the last slice, which completes the job."""
        staged = _distinct(self._staged, self._staged_before)
        unchanged = len(_distinct(self._settled, staged)) - len(staged)
        figures = RunCounts(
            read=met + self._rejected,
            staged=len(staged),
            unchanged=unchanged,
            deleted=self._deleted,
            rejected=self._rejected,
        )
        cursor = SourceCursor(query=reading.fingerprint, reached=reached) if reached else None
        with connection.checkout(self._index.url) as conn, conn.transaction():
            fencing.hold(conn, self._run)
            reindexing.finish(
                conn, self._task_id, figures, incremental=incremental, message=warning, cursor=cursor
            )
            reindexing.set_report(conn, self._task_id, {} if warning is None else {"warning": warning})
        self._stage([], last=True, unchanged=unchanged, superseded=self._taken - met, left_out=self._left_out)
        logged = log_fields(index=self._index.name, task_id=self._task_id, **asdict(figures), warning=warning)
        logger.log(logging.INFO if warning is None else logging.WARNING, "reindexed", extra=logged)

    def _stage(self, documents: Sequence[Document], **values: Any) -> None:
        """Write the next slice. Raises LeaseLost."""
        written = stage_slice(self._index, self._job(**values), documents, PRIORITY, run=self._run)
        self._staged.extend(written.docs)
        self._changed.extend(doc for doc, _ in written.overtaken)
        self._overtaken += len(written.overtaken)

    def _job(self, *, last: bool = False, **values: Any) -> JobSlice:
        """The next slice; only the last one states the number of slices."""
        number = next(self._numbers)
        slices = number + 1 if last else 0
        return JobSlice(
            task_id=self._task_id,
            slice=number,
            slices=slices,
            index_id=self._run.index_id,
            fingerprint=FINGERPRINT,
            **values,
        )


def _is_identified(item: object) -> bool:
    """Whether the item has a usable id: text or a whole number. 42.0 is unusable, as it may mean the document 42."""
    if isinstance(item, Skipped):
        return item.id is not None
    return document_label(item) is not None


def _characters(item: object) -> int:
    text = item.get("text") if isinstance(item, Mapping) else None
    return len(text) if isinstance(text, str) else 0


def _distinct(*keys: "array[int] | NDArray[np.int64]") -> NDArray[np.int64]:
    """The distinct numbers of all arrays, sorted."""
    # np.unique builds a hash table, which is several times as large
    found = np.sort(np.concatenate([np.asarray(some, dtype=np.int64) for some in keys]))
    first = np.ones(len(found), dtype=np.bool_)
    first[1:] = found[1:] != found[:-1]
    return found[first]


def _has(keys: NDArray[np.int64], key: int) -> bool:
    at = int(np.searchsorted(keys, key))
    return at < len(keys) and int(keys[at]) == key
