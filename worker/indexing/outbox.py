"""Enqueued in the application's own transaction: take it from the outbox, split, and stage.

The poller is a thread of each process that embeds, beside the drainers. It asks twice a second whether anything
waits, and stages a page of it itself: what a transaction enqueued is there within a second, with or without a
broker. Where more than a page waits it also wakes the processes that stage, which have all cores.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from worker.configuration import IndexSettings
from worker.documents import Document, check_size
from worker.errors import Bug, InputError, InvalidDocument, SettingsError, TemporaryError, VectorIndexError
from worker.indexing.staging import ensure_index, prepare_and_commit, sliced
from worker.protocols import EmbeddingBackend
from worker.store import connection, outbox
from worker.store.outbox import Change, Content
from worker.store.writing import StalePreparation

POLL_SECONDS = 0.5
PAUSE_SECONDS = 15.0  # of an index whose settings are wrong
TELL_SECONDS = 60.0  # between two warnings of the same
WINDOW = 2_000  # rows that are looked at, without their texts, to choose a page from: those at it rarely meet
ALONE_AFTER = 2  # attempts that ended with their process: from then on a text is staged by itself
REST_SECONDS = 300.0  # between two such attempts at one text; longer than any takes
ATTEMPTS = 5  # attempts after which a text is given up
KILLED = (
    f"the process that staged it ended {ATTEMPTS} times over it (out of memory, or a crash in a library): "
    "mend it and retry"
)

logger = logging.getLogger("vector_index.outbox")


def consume(url: str, index: IndexSettings, backend: EmbeddingBackend, *, max_bytes: int) -> bool:
    """Stage a page of what waits for the index, at most 100 documents; whether more waits.

    Of a document, rows go together that all have a version, or none; what follows them is left to the next look.
    A document that cannot be staged stays in the outbox with its reason. Raises SettingsError or TemporaryError: all
    of the page waits.
    """
    with connection.checkout(url) as conn:
        waiting = [
            change for change in outbox.oldest(conn, index.name, limit=WINDOW) if not _is_resting(change)
        ]
        if not waiting:
            return False
        page = _page(waiting, max_bytes)
        begun = outbox.begin(conn, index.name, page)
    stager = _Stager(url, index, backend, max_bytes)
    try:
        stager.stage(begun)
    except (TemporaryError, SettingsError):
        raise
    except Exception:  # noqa: BLE001 - of one document, and then it fails alone; a tokenizer may be anybody's
        stager.stage_each(begun)
    finally:
        with suppress(TemporaryError), connection.checkout(url) as conn:
            outbox.survived(conn, index.name, begun)
    return (
        stager.left_older
        or len(page) < len(waiting)
        or any(change.followed for change in page)
        or sum(len(change.seqs) for change in waiting) == WINDOW
    )


def _is_resting(change: Change) -> bool:
    """Somebody may be at it, alone; or it has killed him."""
    return (
        change.attempts > ALONE_AFTER
        and change.tried_seconds is not None
        and change.tried_seconds < REST_SECONDS
    )


def _page(waiting: list[Change], max_bytes: int) -> list[Change]:
    """What is staged in one transaction: a text alone that may have killed a process, else as much as goes in."""
    random.shuffle(waiting)
    for change in waiting:
        if change.attempts >= ALONE_AFTER:
            return [change]
    return next(sliced(waiting, lambda change: change.size if change.size <= max_bytes else 0))


class _Stager:
    """What it takes to stage changes of an index."""

    def __init__(self, url: str, index: IndexSettings, backend: EmbeddingBackend, max_bytes: int) -> None:
        self._url, self._index, self._backend, self._max_bytes = url, index, backend, max_bytes
        self._index_id = 0
        self.left_older = False  # rows behind which one was that could not be staged: these count now

    def stage(self, changes: Sequence[Change]) -> None:
        """Each of another document."""
        self._index_id = ensure_index(self._url, self._index, self._backend)
        deletions = [change for change in changes if change.deleted]
        updates = {change.id: change for change in changes if not change.deleted}
        documents, errors = self._documents(updates)
        if errors:
            self._reject([updates[id] for id in errors], errors)
        with connection.checkout(self._url) as conn:
            outbox.delete(conn, self._index.name, self._index_id, deletions)
        if documents:
            staged = [updates[document.id] for document in documents]
            prepare_and_commit(
                self._url,
                self._index.name,
                self._index_id,
                self._backend,
                documents,
                lambda conn, *split: outbox.stage(conn, self._index.name, self._index_id, staged, *split),
            )

    def stage_each(self, changes: Sequence[Change]) -> None:
        """One after the other; what fails stays with its reason."""
        for change in changes:
            try:
                self.stage([change])
            except (TemporaryError, SettingsError):
                raise
            except StalePreparation:  # it waits for a quieter moment
                continue
            except InputError as error:
                self._reject([change], {change.id: str(error)})
            except Exception as error:  # as above
                logger.error(
                    "document %r of index %r cannot be staged",
                    change.id,
                    self._index.name,
                    exc_info=Bug.of(error),
                )
                said = f"it could not be staged ({type(error).__name__}, see the worker's log): mend it and retry"
                self._reject([change], {change.id: said})

    def _reject(self, changes: Sequence[Change], errors: Mapping[str, str]) -> None:
        with connection.checkout(self._url) as conn:
            outbox.reject(conn, self._index.name, changes, errors)
        self.left_older |= any(len(change.seqs) > 1 for change in changes)

    def _documents(self, updates: dict[str, Change]) -> tuple[list[Document], dict[str, str]]:
        """The documents, and by id why some cannot be taken."""
        errors = {id: KILLED for id, change in updates.items() if change.attempts >= ATTEMPTS}
        read = [change for id, change in updates.items() if id not in errors]
        with connection.checkout(self._url) as conn:
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
            metadata = json.loads(content.metadata)
        except (ValueError, RecursionError) as error:
            raise InvalidDocument(
                f"metadata cannot be read ({type(error).__name__}): its numbers are too long, or it is nested too deep"
            ) from error
        fields = {"id": change.id, "text": content.text, "title": content.title, "metadata": metadata}
        return Document.from_json({**fields, "version": change.version}, max_bytes=self._max_bytes)


class Poller:
    """The thread that looks into the outbox for the indexes of the settings."""

    def __init__(
        self,
        url: str,
        names: Sequence[str],
        consume: Callable[[str], bool],  # stage a page of this index; whether more waits
        wake: Callable[[str], None],  # those who help; raises TemporaryError where they cannot be reached
    ) -> None:
        self._url, self._names, self._consume, self._wake = url, names, consume, wake
        self._stopping = threading.Event()
        self._paused_until: dict[str, float] = {}  # monotonic seconds, by index
        self._told: dict[str, float] = {}  # monotonic seconds, by what was said
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends with `stop` or with the process."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Begin nothing more, and wait for the page at hand; cut off, it is staged by the next."""
        self._stopping.set()
        self._thread.join(timeout_seconds)

    def look(self) -> None:
        """Stage a page of each index for which something waits; all of it where nobody can be woken."""
        with connection.checkout(self._url) as conn:
            filled = outbox.indexes_with_rows(conn, self._names)
            if self._is_due("strangers"):
                self._tell_of(outbox.rows_of_unknown_indexes(conn, self._names))
        for name in filled:
            if not self._stopping.is_set() and time.monotonic() >= self._paused_until.get(name, 0.0):
                self._stage(name)

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self.look()
            except TemporaryError as error:
                self._warn("postgres", "the outbox cannot be read, trying again: %s", error)
            except Exception as error:  # the thread is the only one: a bug must not take it away for good
                logger.error("the outbox cannot be read", exc_info=Bug.of(error))
                self._stopping.wait(PAUSE_SECONDS)

    def _stage(self, name: str) -> None:
        try:
            while self._consume(name) and not self._stopping.is_set():
                with suppress(TemporaryError):
                    self._wake(name)
                    return
        except TemporaryError as error:
            self._warn(name, "the outbox of index %r waits: %s", name, error)
        except VectorIndexError as error:
            self._paused_until[name] = time.monotonic() + PAUSE_SECONDS
            self._warn(name, "the outbox of index %r waits: %s", name, error)

    def _tell_of(self, strangers: dict[str, int]) -> None:
        for name, rows in strangers.items():
            logger.warning(
                "%d rows of the outbox are for the index %.200r, which the settings do not have: they wait; add it to "
                "INDEXES, or remove them with `vector-index drop`",
                rows,
                name,
            )

    def _warn(self, what: str, sentence: str, *values: object) -> None:
        if self._is_due(what):
            logger.warning(sentence, *values)

    def _is_due(self, what: str) -> bool:
        """Once a minute."""
        now = time.monotonic()
        if now - self._told.get(what, -TELL_SECONDS) < TELL_SECONDS:
            return False
        self._told[what] = now
        return True
