"""Export an index: its newest texts, their chunks and vectors, as lines of one moment."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from worker.documents import Document
from worker.errors import InvalidQuery
from worker.indexing.transfer import lines
from worker.indexing.transfer.lines import Footer, Header
from worker.store.export import Snapshot, StoredDocument, snapshot


@dataclass(kw_only=True)
class Exported:
    """What an export has written so far."""

    total: int = 0  # documents and tombstones of the index
    documents: int = 0
    tombstones: int = 0
    chunks: int = 0
    vectors: int = 0
    bytes: int = 0  # before compression


def export(url: str, index: str, write: Callable[[bytes], object], done: Exported) -> None:
    """Write every line of an index, in constant memory, and keep `done` up to date.

    Raises InvalidQuery for an index without a document, ServiceUnreachable, SettingsError, and what `write` raises.
    """
    with snapshot(url, index) as moment:
        if moment is None:
            raise InvalidQuery(f"index {index!r} has no documents yet: there is nothing to export")
        checksum = lines.new_checksum()
        for line in _lines(moment, done):
            checksum.update(line)
            done.bytes += len(line)
            write(line)
        footer = Footer(
            documents=done.documents,
            tombstones=done.tombstones,
            vectors=done.vectors,
            checksum=checksum.hexdigest(),
        )
        write(footer.line())


def _lines(moment: Snapshot, done: Exported) -> Iterator[bytes]:
    """The header, the documents and the tombstones."""
    documents, tombstones = moment.counts()
    done.total = documents + tombstones
    header = Header(recipe=moment.build.recipe, documents=done.total)
    yield header.line(index=moment.build.index, exported_at=datetime.now(UTC).isoformat(timespec="seconds"))
    for stored in moment.documents():
        done.documents += not stored.is_older
        done.vectors += len(stored.vectors)
        done.chunks += len(stored.chunks or ())
        yield _document_line(stored)
    for id, version in moment.tombstones():
        done.tombstones += 1
        yield lines.tombstone_line(id, version)


def _document_line(stored: StoredDocument) -> bytes:
    document = Document(
        id=stored.id, text=stored.text, title=stored.title, metadata=stored.metadata, version=stored.version
    )
    chunks = None if stored.chunks is None else _chunk_entries(stored)
    return lines.document_line(document, chunks, older=stored.is_older)


def _chunk_entries(stored: StoredDocument) -> Iterator[dict[str, Any]]:
    vectors = dict(stored.vectors)
    for chunk in stored.chunks or ():
        entry: dict[str, Any] = {"start": chunk.start, "end": chunk.end, "tokens": chunk.tokens}
        entry |= {"heading": chunk.heading, "hash": chunk.hash.hex()}
        if (vector := vectors.pop(chunk.hash, None)) is not None:
            entry["vector"] = lines.encode_vector(vector)
        yield entry
