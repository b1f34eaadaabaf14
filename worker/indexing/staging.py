"""Stage: clean, split, hash, write.

What an application sent becomes revisions and chunks in Postgres; what has no vector yet is queued. All that
takes time happens before the transaction.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from worker.chunking import chunk, embedding_title
from worker.configuration import IndexSettings
from worker.documents import MAX_ID_CHARACTERS, Chunk, Document, clean
from worker.errors import BuildDropped, InputError, InvalidDocument, TemporaryError, VectorIndexError
from worker.indexing.packing import batches
from worker.observability import events
from worker.protocols import EmbeddingBackend
from worker.recipes import Recipe, probe
from worker.store import builds, connection, deletion, jobs, outbox, publishing, selection, status, writing
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import compile_filter
from worker.store.jobs import JobSlice
from worker.store.writing import DOCUMENTS_PER_TRANSACTION, Prepared, Retried, StalePreparation
from worker.tokens import ESTIMATE, estimate

T = TypeVar("T")

SLICE_CHARACTERS = 8_000_000  # text of one transaction; a single larger document travels alone
FAILURES_AT_ONCE = 1000
PREPARE_ATTEMPTS = 5  # how often builds or documents may move under a slice


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """A message after the door: what can be staged and what cannot."""

    documents: Sequence[Document]  # each id once
    rejected: Sequence[Mapping[str, str]]  # id and error
    superseded: int  # documents of the message that another one of the same id replaces


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """What a deletion came to, in documents."""

    deleted: int = 0
    stale: int = 0  # known in a newer version


def stage(
    url: str,
    index: IndexSettings,
    backend: EmbeddingBackend,
    task_id: str,
    documents: Sequence[object],
    *,
    max_bytes: int,
    priority: int = 0,
) -> None:
    """Write a message's documents, slice by slice; a second call with the same `task_id` writes nothing.

    One bad document is set aside with its reason; the others are staged. Raises TemporaryError when Postgres
    or the provider (for the first document of an index: its dimensions) did not answer: send the same again.
    """
    message = sort(documents, max_bytes=max_bytes)
    slices = list(sliced(message.documents, lambda document: len(document.text))) or [[]]
    index_id = ensure_index(url, index, backend)
    for number, documents_of_slice in enumerate(slices):
        job = JobSlice(
            task_id=task_id,
            slice=number,
            slices=len(slices),
            index_id=index_id,
            rejected=message.rejected if number == 0 else (),
            superseded=message.superseded if number == 0 else 0,
        )
        stage_slice(url, index.name, job, backend, documents_of_slice, priority)


def ensure_index(url: str, index: IndexSettings, backend: EmbeddingBackend) -> int:
    """The number of the index; the first call of all makes it, with one empty build, and asks the provider.

    Raises SettingsError, before anything is accepted, when the provider cannot be used or returns vectors of
    another length than the settings say; TemporaryError when it does not answer and nothing else says the length.
    """

    def recipe() -> Mapping[str, Any]:
        # what is away now may come back: what is accepted waits for it
        name = f"embedding:{index.embedding_backend.name}"
        with suppress(TemporaryError, InputError), events.ProviderRequest(name, "probe"):
            probe(backend)
        return Recipe.of(index, backend).as_json()

    with connection.checkout(url) as conn:
        builds.ensure(conn, index.name, recipe)
        return builds.index_key(conn, index.name)


def delete(url: str, index: str, task_id: str, ids: Sequence[str], version: int | None) -> Deleted:
    """Delete documents by id, what is enqueued of them too, 100 a transaction.

    A second call with the same `task_id` reports the same.
    """
    with connection.checkout(url) as conn:
        index_id = builds.register(conn, index)
        slices = [
            ids[at : at + DOCUMENTS_PER_TRANSACTION] for at in range(0, len(ids), DOCUMENTS_PER_TRANSACTION)
        ]
        counts = [
            deletion.delete(
                conn,
                JobSlice(task_id=task_id, slice=at, slices=len(slices), index_id=index_id),
                chosen,
                version,
                enqueued=None,
            )
            for at, chosen in enumerate(slices)
        ]
    return Deleted(deleted=sum(c["deleted"] for c in counts), stale=sum(c["stale"] for c in counts))


def delete_matching(
    url: str, index: IndexSettings, task_id: str, filter: Mapping[str, Any], version: int | None
) -> Deleted:
    """Delete the documents whose newest revision passes the filter, as `delete`, and enqueued texts that pass it.

    Begun again after a crash it goes on with those that still match; once it is through, with none.
    """
    where = compile_filter(filter, tenant_field=index.tenant_field)
    with connection.checkout(url) as conn:
        index_id = builds.register(conn, index.name)
        ledger = jobs.ledger(conn, task_id)
        if not ledger.complete:
            number = ledger.slices
            for chosen in selection.select(conn, index_id, index.name, where):
                job = JobSlice(task_id=task_id, slice=number, slices=0, index_id=index_id)
                heads = chosen.heads
                deletion.delete(conn, job, list(heads), version, heads=heads, enqueued=chosen.seqs)
                number += 1
            # the last slice is empty, and the only one that says how many there are
            job = JobSlice(task_id=task_id, slice=number, slices=number + 1, index_id=index_id)
            deletion.delete(conn, job, [], version)
        counts = jobs.ledger(conn, task_id).counts
    return Deleted(deleted=counts["deleted"], stale=counts["stale"])


def retry(url: str, index: str, ids: Iterable[str]) -> Retried:
    """Try failed documents again, 100 a transaction; the ids of others are passed over."""
    docs: list[int] = []
    chunks = rows = 0
    for some in sliced(ids, len):  # `ids` may use a connection of its own: never two at once
        with connection.checkout(url) as conn:
            live = builds.live(conn, index)
            if live is not None:
                retried = writing.retry(conn, live.index_id, some)
                docs += retried.docs
                chunks += retried.chunks
                rows += outbox.retry(conn, index, some)
    return Retried(docs=docs, chunks=chunks, rows=rows)


def failed_ids(url: str, index: str) -> Iterator[str]:
    """Ids of the documents that have failed, page by page."""
    after = ""
    while True:
        with connection.checkout(url) as conn:
            build = builds.live(conn, index)
            page = (
                []
                if build is None
                else status.failed_documents(conn, build, after=after, limit=FAILURES_AT_ONCE)
            )
        if not page:
            return
        yield from (row["id"] for row in page)
        after = page[-1]["id"]


def sort(documents: Sequence[object], *, max_bytes: int) -> Sorted:
    """Check and clean each document; of several with one id the highest version stays, else the last."""
    kept: dict[str, Document] = {}
    rejected, superseded = [], 0
    for at, value in enumerate(documents):
        try:
            document = Document.from_json(value, max_bytes=max_bytes)
        except InvalidDocument as error:
            rejected.append({"id": _name(value, at), "error": str(error)})
            continue
        other = kept.get(document.id)
        superseded += other is not None
        if other is None or other.version is None:
            kept[document.id] = document
        elif document.version is None or document.version >= other.version:
            kept[document.id] = replace(
                document, version=max(document.version or other.version, other.version)
            )
    return Sorted(documents=list(kept.values()), rejected=rejected, superseded=superseded)


def split(document: Document, build: Build, backend: EmbeddingBackend) -> list[Chunk]:
    """The chunks of the document in this build, each with the heading that travels with it."""
    recipe, count = Recipe.stored(build.recipe), backend.count_tokens
    return chunk(
        document.text,
        title=embedding_title(
            document.title, *document.important, token_limit=recipe.token_limit, count=count
        ),
        prefix=recipe.document_prefix,
        chunk_tokens=recipe.chunk_tokens,
        token_limit=recipe.token_limit,
        overlap_tokens=recipe.overlap_tokens,
        count=count,
        # where the tokenizer is not known, `count` is a bound, and chunks by it a quarter of their size
        size=estimate if backend.tokenizer == ESTIMATE else None,
        sections=True,
    )


def stage_slice(
    url: str,
    index: str,
    job: JobSlice,
    backend: EmbeddingBackend,
    documents: Sequence[Document],
    priority: int,
    *,
    heads: Mapping[str, int] | None = None,
) -> list[int]:
    """Write at most 100 documents, each of another id, as one slice of a job; a second time, nothing.

    With `heads`, the newest revisions of all of them: they are split anew, unless something newer has come.
    Returns the keys of the documents that the job waits for: all but stale ones. Raises TemporaryError, too, where
    others change the same again and again.
    """

    def commit(conn: Connection, prepared: Sequence[Prepared], written: Sequence[Build]) -> list[int]:
        return writing.stage(conn, job, prepared, written, priority=priority, heads=heads)

    try:
        return prepare_and_commit(
            url, index, job.index_id, backend, documents, commit, anew=heads is not None, task_id=job.task_id
        )
    except StalePreparation as error:
        raise TemporaryError(
            f"builds or documents of the index {index!r} changed again and again while documents were split"
        ) from error


def prepare_and_commit(
    url: str,
    index: str,
    index_id: int,
    backend: EmbeddingBackend,
    documents: Sequence[Document],
    commit: Callable[[Connection, Sequence[Prepared], Sequence[Build]], list[int]],
    *,
    anew: bool = False,
    task_id: str | None = None,
) -> list[int]:
    """Split at most 100 documents, each of another id, and write them by `commit`, which returns their keys, as this.

    What is unchanged is not split, unless that is to be done `anew`. Raises SettingsError when the backend does not
    fit the index.
    """
    hashes = {document.id: document.content_hash() for document in documents}
    for attempt in range(1, PREPARE_ATTEMPTS + 1):
        with connection.checkout(url) as conn:
            written = builds.writable(conn, index_id)
            if not written:
                raise BuildDropped(connection.DROPPED)
            unchanged = set() if anew else writing.unchanged(conn, index_id, hashes)
        dimensions = _dimensions(backend)
        for build in written:
            Recipe.stored(build.recipe).check(index, backend, dimensions=dimensions or build.dimensions)
        prepared = []
        for document in documents:
            wanted = [] if document.id in unchanged else written
            item = Prepared(
                document=document,
                content_hash=hashes[document.id],
                chunks={build.build: split(document, build, backend) for build in wanted},
            )
            prepared.append(item)
        try:
            with connection.checkout(url) as conn:
                staged = commit(conn, prepared, written)
                events.staged(index, task_id, list(hashes), len(staged))
                for build in written:
                    publishing.publish(conn, build, staged)
                return staged
        except StalePreparation:
            if attempt == PREPARE_ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def sliced(documents: Iterable[T], characters: Callable[[T], int]) -> Iterator[list[T]]:
    """What goes into one transaction each."""
    return batches(documents, characters, weight_limit=SLICE_CHARACTERS, size_limit=DOCUMENTS_PER_TRANSACTION)


def _dimensions(backend: EmbeddingBackend) -> int | None:
    """Of its vectors; None where only a provider could say that does not: what stands is written all the same."""
    try:
        return backend.dimensions
    except VectorIndexError:
        return None


def _name(value: Any, at: int) -> str:
    """What to call a document in an error: its id, or its place in the message."""
    given = value.get("id") if isinstance(value, Mapping) else None
    known = isinstance(given, (str, int)) and given != ""
    return clean(str(given))[:MAX_ID_CHARACTERS] if known else f"#{at}"
