"""Stage: clean, split, hash and write documents.

Documents become revisions and chunks in Postgres, and chunks without a vector are queued. Everything slow happens
before the transaction.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from worker.configuration import IndexSettings
from worker.documents import Chunk, Document, check_tenant, document_label, document_version
from worker.errors import (
    BuildDropped,
    InputError,
    InvalidDocument,
    InvalidQuery,
    ProviderUnavailable,
    Refused,
    SettingsError,
    TemporaryError,
    VectorIndexError,
)
from worker.index import Index
from worker.indexing.fingerprints import fingerprint
from worker.indexing.jobs import Staged, final_result
from worker.inline_data import without_inline_data
from worker.observability import events
from worker.packing import batches
from worker.protocols import EmbeddingBackend
from worker.recipes import Recipe, probe
from worker.store import (
    builds,
    connection,
    deletion,
    fencing,
    jobs,
    outbox,
    publishing,
    selection,
    status,
    writing,
)
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import compile_filter, is_empty
from worker.store.jobs import JobSlice
from worker.store.refusals import Refusal
from worker.store.reindexing import ReindexRun
from worker.store.writing import DOCUMENTS_PER_TRANSACTION, Prepared, Retried, StalePreparation, Written

T = TypeVar("T")

SLICE_CHARACTERS = 8_000_000  # text of one transaction; a larger document gets a transaction of its own
FAILURES_AT_ONCE = 1000
PREPARE_ATTEMPTS = 5  # how often builds or documents may change while a slice is split


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """The documents of a message, checked: those to stage, and those rejected."""

    documents: Sequence[Document]  # each id once
    rejected: Sequence[Mapping[str, str]]  # id and error
    refusals: Sequence[Refusal]  # those among them that no later document with the same id replaces
    superseded: int  # documents that another one of the same message, with the same id, replaces
    left_out: int  # characters of inline data


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """The result of a deletion, in documents."""

    deleted: int = 0
    stale: int = 0  # stay, as their version is newer


def stage(
    index: Index, task_id: str, documents: Sequence[object], *, max_bytes: int, priority: int = 0
) -> Staged:
    """Write a message's documents, slice by slice; a second call with the same `task_id` is a no-op.

    A bad document is rejected with its reason; the others are staged. Raises TemporaryError when Postgres did not
    answer, or the provider when the index is created (its first document): send the same message again.
    """
    message = sort(documents, index.settings, max_bytes=max_bytes, origin=f"task {task_id}")
    sent = fingerprint("index", documents)
    slices = list(sliced(message.documents, lambda document: len(document.text))) or [[]]
    index_id = ensure_index(index)
    has_changes = False
    for number, documents_of_slice in enumerate(slices):
        job = JobSlice(
            task_id=task_id,
            slice=number,
            slices=len(slices),
            index_id=index_id,
            fingerprint=sent,
            rejected=message.rejected if number == 0 else (),
            refusals=message.refusals
            if number == len(slices) - 1
            else (),  # later than what they are newer than
            superseded=message.superseded if number == 0 else 0,
            left_out=message.left_out if number == 0 else 0,
        )
        written = stage_slice(index, job, documents_of_slice, priority)
        has_changes |= written.has_changes
    final = final_result(index.name, written.final, message.rejected) if written.final else None
    return Staged(has_changes=has_changes, result=final)


def ensure_index(index: Index) -> int:
    """Return the id of the index in Postgres; the first call creates the index with an empty build.

    Before it creates the index, it probes the provider, and keeps an error for `status`. Raises SettingsError, before
    any document is accepted, when the provider cannot be used or its vectors have another length than the settings say.
    Raises TemporaryError when the provider does not answer and the settings do not state the length of its vectors.
    """
    failures: list[VectorIndexError] = []

    def recipe() -> Mapping[str, Any]:
        # a provider that is down now may come back: the accepted documents wait for it
        name = f"embedding:{index.settings.embedding_backend.name}"
        try:
            with events.ProviderRequest(name, "probe"):
                probe(index.backend)
        except (TemporaryError, InputError) as error:
            failures.append(error)
        return Recipe.of(index.settings, index.backend).as_json()

    with connection.checkout(index.url) as conn:
        index_id = builds.live_key(conn, index.name)
        if index_id is not None:
            return index_id
        try:
            found = builds.ensure(conn, index.name, recipe)
        except (ProviderUnavailable, Refused, SettingsError) as error:
            builds.note_missing(conn, index.name, str(error))
            raise
        for build in found:
            builds.remember_backend(conn, build.build, index.settings.embedding_backend.without_keys())
            for failure in failures:
                builds.note_error(conn, build, str(failure))
        return builds.index_key(conn, index.name)


def delete(index: Index, task_id: str, ids: Sequence[str], version: int | None) -> Deleted:
    """Delete documents by id, with their rows in the outbox, 100 per transaction.

    With a version, a document of a newer version stays, and counts as stale. A second call with the same `task_id`
    deletes nothing and reports the same counts.
    """
    sent = fingerprint("delete", [list(ids), version])
    with connection.checkout(index.url) as conn:
        index_id = builds.register(conn, index.name)
        slices = [
            ids[at : at + DOCUMENTS_PER_TRANSACTION] for at in range(0, len(ids), DOCUMENTS_PER_TRANSACTION)
        ]
        counts = [
            deletion.delete(
                conn,
                JobSlice(task_id=task_id, slice=at, slices=len(slices), index_id=index_id, fingerprint=sent),
                chosen,
                version,
                enqueued=None,
            )
            for at, chosen in enumerate(slices)
        ]
    return Deleted(deleted=sum(c["deleted"] for c in counts), stale=sum(c["stale"] for c in counts))


def delete_matching(
    index: Index, task_id: str, filter: Mapping[str, Any], version: int | None, *, everything: bool = False
) -> Deleted:
    """Delete every document whose newest revision matches the filter, and every enqueued text that matches it.

    Raises InvalidQuery for a filter without a condition, unless `everything` says that all documents are meant.

    With TENANT_FIELD, a document that belongs to further tenants stays: it is theirs too.
    After a crash, the next call with the same `task_id` continues with the documents that still match. Once all are
    deleted, a further call only reports.
    """
    where = compile_filter(filter, tenant_field=index.settings.tenant_field, sole_tenant=True)
    if is_empty(filter) and not everything:
        raise InvalidQuery(
            "filter has no condition, so it would delete every document of the index: add a condition, or send "
            "all=True to delete everything"
        )
    sent = fingerprint("delete matching", [filter, version])
    with connection.checkout(index.url) as conn:
        index_id = builds.register(conn, index.name)
        jobs.check_repetition(conn, task_id, index_id, sent)
        ledger = jobs.ledger(conn, task_id)
        if not ledger.complete:
            tenant_field = index.settings.tenant_field
            fencing.note_deletion(conn, index_id, filter, version, tenant_field=tenant_field)
            number = ledger.slices
            for chosen in selection.select(conn, index_id, index.name, where):
                job = JobSlice(task_id=task_id, slice=number, slices=0, index_id=index_id, fingerprint=sent)
                heads = chosen.heads
                deletion.delete(conn, job, list(heads), version, heads=heads, enqueued=chosen.seqs)
                number += 1
            # only the last slice, which is empty, states the number of slices
            job = JobSlice(
                task_id=task_id, slice=number, slices=number + 1, index_id=index_id, fingerprint=sent
            )
            deletion.delete(conn, job, [], version)
        counts = jobs.ledger(conn, task_id).counts
    return Deleted(deleted=counts["deleted"], stale=counts["stale"])


def retry(index: Index, ids: Iterable[str]) -> Retried:
    """Queue failed documents again, 100 per transaction; ids of other documents are ignored."""
    docs: list[int] = []
    chunks = rows = 0
    for some in sliced(ids, len):  # `ids` may read through its own connection: never hold two at once
        with connection.checkout(index.url) as conn:
            live = builds.live(conn, index.name)
            if live is not None:
                retried = writing.retry(conn, live.index_id, some)
                docs += retried.docs
                chunks += retried.chunks
                rows += outbox.retry(conn, index.name, some)
    return Retried(docs=docs, chunks=chunks, rows=rows)


def failed_ids(index: Index) -> Iterator[str]:
    """Ids of the failed documents, page by page."""
    after = ""
    while True:
        with connection.checkout(index.url) as conn:
            build = builds.live(conn, index.name)
            page = (
                []
                if build is None
                else status.failed_documents(conn, build, after=after, limit=FAILURES_AT_ONCE)
            )
        if not page:
            return
        yield from (row["id"] for row in page)
        after = page[-1]["id"]


def sort(
    documents: Sequence[object], settings: IndexSettings, *, max_bytes: int, origin: str, first: int = 0
) -> Sorted:
    """Check and clean each document; of several with one id, keep the highest version, else the last.

    A document without a usable id is named by its place, which begins with `first`; `origin` says where that is.
    """
    kept: dict[str, Document] = {}
    rejected, superseded, left_out = [], 0, 0
    refused: dict[str, Refusal] = {}
    for at, value in enumerate(documents, start=first):
        try:
            document = Document.from_json(value, max_bytes=max_bytes)
            if settings.tenant_field and isinstance(value, Mapping):
                check_tenant(value.get("metadata"), document.metadata, settings.tenant_field)
        except InvalidDocument as error:
            label = document_label(value)
            rejected.append({"id": label or f"#{at}", "error": str(error)})
            key = label or f"#{at} of {origin}"
            refused[key] = Refusal(id=key, error=str(error), version=_usable_version(value))
            continue
        left_out += _inline_data(value, document)
        refused.pop(document.id, None)
        other = kept.get(document.id)
        superseded += other is not None
        if other is None or other.version is None:
            kept[document.id] = document
        elif document.version is None or document.version >= other.version:
            kept[document.id] = replace(
                document, version=max(document.version or other.version, other.version)
            )
    return Sorted(
        documents=list(kept.values()),
        rejected=rejected,
        refusals=list(refused.values()),
        superseded=superseded,
        left_out=left_out,
    )


def _inline_data(value: object, document: Document) -> int:
    """Return the number of characters that `Document.from_json` has left out of the text of this document."""
    text = value.get("text") if isinstance(value, Mapping) else None
    if not isinstance(text, str) or len(text) == len(document.text):
        return 0
    return without_inline_data(text)[1]


def split(document: Document, build: Build, backend: EmbeddingBackend) -> list[Chunk]:
    """Split the document for this build; each chunk has the heading that is embedded with it."""
    recipe = Recipe.stored(build.recipe).within(backend)
    return recipe.chunks(document.text, backend, document.title, *document.important)


def stage_slice(
    index: Index,
    job: JobSlice,
    documents: Sequence[Document],
    priority: int,
    *,
    heads: Mapping[str, int] | None = None,
    run: ReindexRun | None = None,
) -> Written:
    """Write at most 100 documents with distinct ids as one slice of a job; a second call writes nothing.

    `heads` maps each id to its newest revision: these documents are split again even if unchanged, unless a newer
    revision exists by now. `run` is the run of reindexing that read the documents. Raises TemporaryError when builds or
    documents changed during each of PREPARE_ATTEMPTS attempts, too.
    """

    def commit(conn: Connection, prepared: Sequence[Prepared], written: Sequence[Build]) -> Written:
        staged = writing.stage(conn, job, prepared, written, priority=priority, heads=heads, run=run)
        if staged is None:
            return Written()
        events.refused(index.name, job.task_id, [(refusal.id, refusal.error) for refusal in job.refusals])
        return staged

    try:
        return prepare_and_commit(
            index,
            job.index_id,
            documents,
            commit,
            anew=heads is not None,
            owners={document.id: job.task_id for document in documents},
        )
    except StalePreparation as error:
        raise TemporaryError(
            f"index {index.name!r}: its builds or these documents changed {PREPARE_ATTEMPTS} times while the documents "
            "were split; send the message again"
        ) from error


def prepare_and_commit(
    index: Index,
    index_id: int,
    documents: Sequence[Document],
    commit: Callable[[Connection, Sequence[Prepared], Sequence[Build]], Written],
    *,
    anew: bool = False,
    owners: Mapping[str, str] | None = None,
    cut: Callable[[Document, Build], Sequence[Chunk]] | None = None,
) -> Written:
    """Split at most 100 documents with distinct ids, write them with `commit`, and publish complete documents.

    Unchanged documents are split only if `anew`. `cut` takes the place of `split`. `owners`: the task ids of the
    messages that brought the documents, by id. Raises SettingsError for a build whose backend cannot be used any more.
    """
    hashes = {document.id: document.content_hash() for document in documents}
    for attempt in range(1, PREPARE_ATTEMPTS + 1):
        with connection.checkout(index.url) as conn, connection.lookups(conn):
            written = builds.writable(conn, index_id)
            if not written:
                raise BuildDropped(connection.DROPPED)
            unchanged = set() if anew else writing.unchanged(conn, index_id, hashes)
        backends = {build.build: index.embedder(build).backend for build in written}
        prepared = []
        for document in documents:
            wanted = [] if document.id in unchanged else written
            item = Prepared(
                document=document,
                content_hash=hashes[document.id],
                chunks={
                    build.build: cut(document, build)
                    if cut
                    else split(document, build, backends[build.build])
                    for build in wanted
                },
            )
            prepared.append(item)
        try:
            with connection.checkout(index.url) as conn:
                staged = commit(conn, prepared, written)
                events.staged(index.name, owners or dict.fromkeys(hashes), [id for id, _ in staged.accepted])
                for build in written:
                    publishing.publish(conn, build, staged.to_publish)
                return staged
        except StalePreparation:
            if attempt == PREPARE_ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def sliced(documents: Iterable[T], characters: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut documents into slices: one transaction each."""
    return batches(documents, characters, weight_limit=SLICE_CHARACTERS, size_limit=DOCUMENTS_PER_TRANSACTION)


def _usable_version(document: object) -> int | None:
    """The version of a rejected document; `None` if it has none, or not a usable one."""
    try:
        return document_version(document.get("version") if isinstance(document, Mapping) else None)
    except InvalidDocument:
        return None
