"""Stage a batch: the documents of several small messages, in as few transactions as possible."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from worker.documents import Document
from worker.index import Index
from worker.indexing.fingerprints import fingerprint
from worker.indexing.staging import ensure_index, prepare_and_commit, sort
from worker.observability import events
from worker.store import batches
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.jobs import JobSlice
from worker.store.writing import DOCUMENTS_PER_TRANSACTION, Prepared, Written

BATCH_CHARACTERS = 500_000  # of a transaction: with far less than MANY_CHUNKS, as small jobs must not wait


@dataclass(kw_only=True)
class _Batch:
    """The messages of one transaction."""

    jobs: list[JobSlice] = field(default_factory=list)
    documents: dict[str, Document] = field(default_factory=dict)  # by id
    owners: dict[str, str] = field(default_factory=dict)  # task ids, by id of a document
    refused: set[str] = field(default_factory=set)  # ids
    characters: int = 0

    def has_room(self, documents: Sequence[Document]) -> bool:
        """Whether a message with these documents fits; none that brings a document again does."""
        return (
            len(self.documents) + len(documents) <= DOCUMENTS_PER_TRANSACTION
            and self.characters + _characters(documents) <= BATCH_CHARACTERS
            and not any(
                document.id in self.documents or document.id in self.refused for document in documents
            )
        )

    def add(self, job: JobSlice, documents: Sequence[Document]) -> None:
        self.jobs.append(job)
        self.refused |= {refusal.id for refusal in job.refusals}
        self.documents |= {document.id: document for document in documents}
        self.owners |= {document.id: job.task_id for document in documents}
        self.characters += _characters(documents)


def stage_batch(index: Index, messages: Mapping[str, Sequence[object]], *, max_bytes: int) -> None:
    """Write the documents of messages, by task id and in their order; the result of each is as by `staging.stage`.

    Raises `batches.NotBatchable`, `StalePreparation`, and the errors of `staging.stage`. Then some of the messages may
    be staged: let `staging.stage` take each, which finds those.
    """
    index_id = ensure_index(index)
    for batch in _batches(index, index_id, messages, max_bytes):
        _stage(index, index_id, batch)


def _stage(index: Index, index_id: int, batch: _Batch) -> None:
    def commit(conn: Connection, prepared: Sequence[Prepared], written: Sequence[Build]) -> Written:
        staged = batches.stage(conn, batch.jobs, batch.owners, prepared, written)
        for job in batch.jobs:
            events.refused(index.name, job.task_id, [(refusal.id, refusal.error) for refusal in job.refusals])
        return staged

    prepare_and_commit(index, index_id, list(batch.documents.values()), commit, owners=batch.owners)


def _batches(
    index: Index, index_id: int, messages: Mapping[str, Sequence[object]], max_bytes: int
) -> Iterator[_Batch]:
    batch = _Batch()
    for task_id, sent in messages.items():
        message = sort(sent, index.settings, max_bytes=max_bytes, origin=f"task {task_id}")
        if len(message.documents) > DOCUMENTS_PER_TRANSACTION:
            raise batches.NotBatchable
        if batch.jobs and not batch.has_room(message.documents):
            yield batch
            batch = _Batch()
        job = JobSlice(
            task_id=task_id,
            slice=0,
            slices=1,
            index_id=index_id,
            fingerprint=fingerprint("index", sent),
            rejected=message.rejected,
            refusals=message.refusals,
            superseded=message.superseded,
            left_out=message.left_out,
        )
        batch.add(job, message.documents)
    if batch.jobs:
        yield batch


def _characters(documents: Sequence[Document]) -> int:
    return sum(len(document.text) for document in documents)
