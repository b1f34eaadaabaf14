"""The outbox: stage the documents that applications enqueued in their own transactions.

The poller is a background thread of every process that embeds, beside the drainers. It looks into the outbox ten times
a second, stages one page itself and wakes the drainers, so a committed document is staged at once, even without a
broker. When more than one page waits, it also wakes the staging processes, which have one process per core.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from worker.documents import Document, check_size, read_json
from worker.errors import Bug, InputError, InvalidDocument, SettingsError, TemporaryError, VectorIndexError
from worker.index import Index
from worker.indexing import wakeups
from worker.indexing.background import BackgroundThread
from worker.indexing.staging import ensure_index, prepare_and_commit, sliced
from worker.observability import events
from worker.store import connection, outbox
from worker.store.outbox import Change, Content
from worker.store.writing import StalePreparation

POLL_SECONDS = 0.1
PAUSE_SECONDS = 15.0  # for an index whose settings are wrong
WARN_SECONDS = 60.0  # between two warnings about the same index
WINDOW = 2_000  # rows to choose a page from, read without their texts: workers rarely choose the same ones
ALONE_AFTER = 2  # attempts during which the process died: from then on a text is staged alone
REST_SECONDS = 300.0  # between two such attempts at a text; longer than any attempt takes
MAX_ATTEMPTS = 5  # attempts after which a text is given up
KILLED = (
    f"the process that staged it died {MAX_ATTEMPTS} times (out of memory, or a crash in a library): "
    "fix the document, or raise the memory limit, and retry it"
)

logger = logging.getLogger("vector_index.outbox")


def stage_page(index: Index, *, max_bytes: int) -> bool:
    """Stage one page of the index's outbox, at most 100 documents. Returns whether more rows wait.

    Rows of one document are staged together as long as all of them have a version, or all lack one. The rows after
    these wait for the next page. A document that cannot be staged stays in the outbox with its reason.

    Raises SettingsError or TemporaryError: the whole page waits.
    """
    with connection.checkout(index.url) as conn:
        waiting = [
            change
            for change in outbox.oldest_changes(conn, index.name, limit=WINDOW)
            if not _is_resting(change)
        ]
        if not waiting:
            return False
        page = _choose_page(waiting, max_bytes)
        begun = outbox.begin_attempts(conn, index.name, page)
    stager = _ChangeStager(index, max_bytes)
    try:
        stager.stage(begun)
    except (TemporaryError, SettingsError):
        raise
    except Exception:  # noqa: BLE001 - one document's fault, so find out whose: a tokenizer may be a user's own code
        stager.stage_each(begun)
    finally:
        with suppress(TemporaryError), connection.checkout(index.url) as conn:
            outbox.cancel_attempts(conn, index.name, begun)
        wakeups.queued.notify()
    return (
        stager.uncovered_older_rows
        or len(page) < len(waiting)
        or any(change.followed for change in page)
        or sum(len(change.seqs) for change in waiting) == WINDOW
    )


def _is_resting(change: Change) -> bool:
    """Another worker may be staging this change alone, or crashed on it."""
    return (
        change.attempts > ALONE_AFTER
        and change.tried_seconds is not None
        and change.tried_seconds < REST_SECONDS
    )


def _choose_page(waiting: list[Change], max_bytes: int) -> list[Change]:
    """The changes of one transaction: a suspect alone, whose text may have killed a process, else a full page."""
    random.shuffle(waiting)
    for change in waiting:
        if change.attempts >= ALONE_AFTER:
            return [change]
    return next(sliced(waiting, lambda change: change.size if change.size <= max_bytes else 0))


class _ChangeStager:
    """Stages changes of one index from the outbox."""

    def __init__(self, index: Index, max_bytes: int) -> None:
        self._index, self._max_bytes = index, max_bytes
        self._index_id = 0
        self.uncovered_older_rows = False  # of a document whose newest row was rejected: they count now

    def stage(self, changes: Sequence[Change]) -> None:
        """Stage changes, at most one per document: the deletions, then the documents."""
        self._index_id = ensure_index(self._index)
        deletions = [change for change in changes if change.deleted]
        updates = {change.id: change for change in changes if not change.deleted}
        documents, errors = self._documents(updates)
        if errors:
            self._reject([updates[id] for id in errors], errors)
        with connection.checkout(self._index.url) as conn:
            outbox.delete(conn, self._index.name, self._index_id, deletions)
        if documents:
            staged = [updates[document.id] for document in documents]
            prepare_and_commit(
                self._index,
                self._index_id,
                documents,
                lambda conn, *split: outbox.stage(conn, self._index.name, self._index_id, staged, *split),
            )

    def stage_each(self, changes: Sequence[Change]) -> None:
        """Stage changes one after the other; a change that fails stays in the outbox with its reason."""
        for change in changes:
            try:
                self.stage([change])
            except (TemporaryError, SettingsError):
                raise
            except StalePreparation:  # its document changes all the time: a later page stages it
                continue
            except InputError as error:
                self._reject([change], {change.id: str(error)})
            except Exception as error:  # a bug of ours, or of a user's tokenizer
                logger.error(
                    "document %r of index %r cannot be staged",
                    change.id,
                    self._index.name,
                    exc_info=Bug.of(error),
                )
                message = f"staging failed ({type(error).__name__}, see the worker's log): fix the cause and retry it"
                self._reject([change], {change.id: message})

    def _reject(self, changes: Sequence[Change], errors: Mapping[str, str]) -> None:
        with connection.checkout(self._index.url) as conn:
            outbox.reject(conn, self._index.name, changes, errors)
        events.refused(self._index.name, None, list(errors.items()))
        self.uncovered_older_rows |= any(len(change.seqs) > 1 for change in changes)

    def _documents(self, updates: dict[str, Change]) -> tuple[list[Document], dict[str, str]]:
        """The documents to stage, and by id the reasons against the others."""
        errors = {id: KILLED for id, change in updates.items() if change.attempts >= MAX_ATTEMPTS}
        read = [change for id, change in updates.items() if id not in errors]
        with connection.checkout(self._index.url) as conn:
            contents = outbox.contents(conn, self._index.name, read, max_bytes=self._max_bytes)
        documents = []
        for id, content in contents.items():
            try:
                documents.append(self._document(updates[id], content))
            except InvalidDocument as error:
                errors[id] = str(error)
        return documents, errors

    def _document(self, change: Change, content: Content) -> Document:
        check_size(change.size, self._max_bytes)
        try:
            metadata = read_json(content.metadata)
        except (ValueError, RecursionError) as error:
            raise InvalidDocument(
                f"metadata cannot be parsed ({type(error).__name__}): it is nested too deep"
            ) from error
        fields = {"id": change.id, "text": content.text, "title": content.title, "metadata": metadata}
        return Document.from_json({**fields, "version": change.version}, max_bytes=self._max_bytes)


class Poller:
    """Looks into the outbox in a background thread, for every index in the settings."""

    def __init__(
        self,
        url: str,
        names: Sequence[str],
        stage_page: Callable[[str], bool],  # of this index; returns whether more rows wait
        wake: Callable[[str], None],  # the staging processes; raises TemporaryError without a broker
    ) -> None:
        self._url, self._names, self._stage_page, self._wake = url, names, stage_page, wake
        self._stopping = threading.Event()
        self._paused_until: dict[str, float] = {}  # monotonic seconds, by index
        self._warned_at: dict[str, float] = {}  # monotonic seconds, by subject
        self._thread = BackgroundThread(
            "outbox",
            self._poll,
            stopping=self._stopping,
            on_unreachable=lambda error: self._warn(
                "postgres", "cannot read the outbox, retrying: %s", error
            ),
            logger=logger,
            failure="cannot read the outbox",
        )

    def start(self) -> None:
        """Start the thread; it ends with `stop` or with the process."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Finish the current page, then stop; another process stages a page that is cut off."""
        self._stopping.set()
        self._thread.join(timeout_seconds)

    def look(self) -> None:
        """Stage a page of each index whose outbox has rows; all pages if waking the staging processes fails."""
        with connection.checkout(self._url) as conn:
            filled = outbox.indexes_with_rows(conn, self._names) if outbox.has_rows(conn) else []
            if self._may_warn("unknown indexes"):
                self._warn_of_unknown_indexes(outbox.rows_of_unknown_indexes(conn, self._names))
        for name in filled:
            if not self._stopping.is_set() and time.monotonic() >= self._paused_until.get(name, 0.0):
                self._stage(name)

    def _poll(self) -> None:
        if not self._stopping.wait(POLL_SECONDS):
            self.look()

    def _stage(self, name: str) -> None:
        try:
            while self._stage_page(name) and not self._stopping.is_set():
                with suppress(TemporaryError):
                    self._wake(name)
                    return
        except TemporaryError as error:
            self._warn(name, "the outbox of index %r waits: %s", name, error)
        except VectorIndexError as error:
            self._paused_until[name] = time.monotonic() + PAUSE_SECONDS
            self._warn(name, "the outbox of index %r waits: %s", name, error)

    def _warn_of_unknown_indexes(self, rows_by_index: dict[str, int]) -> None:
        for name, rows in rows_by_index.items():
            logger.warning(
                "%d outbox rows belong to index %.200r, which is not in INDEXES: add it to INDEXES, or remove the rows "
                "with `vector-index drop`",
                rows,
                name,
            )

    def _warn(self, subject: str, sentence: str, *values: object) -> None:
        if self._may_warn(subject):
            logger.warning(sentence, *values)

    def _may_warn(self, subject: str) -> bool:
        """True once per WARN_SECONDS and subject."""
        now = time.monotonic()
        if now - self._warned_at.get(subject, -WARN_SECONDS) < WARN_SECONDS:
            return False
        self._warned_at[subject] = now
        return True
