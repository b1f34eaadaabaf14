"""A large document needs memory for some copies of its text, not for lists of all its words."""

import tracemalloc
from collections.abc import Sequence

import pytest

from tests.fixtures.application import Application
from worker.documents import Chunk, Document, digest
from worker.indexing import staging
from worker.store import writing
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.writing import Prepared, Written

LINE = "Each reader may borrow {} books for four weeks, and of the films {} for some days at most. " * 4
CHUNKS = 1_500  # 0.6 MB


def test_writing_a_large_document_takes_memory_for_few_copies_of_its_text(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the words of all chunks in one statement it takes 14. A worker took 517 MB for a text of 20 MB."""
    monkeypatch.setattr(writing, "CHARACTERS_AT_ONCE", 60_000)
    application.put({"id": "small", "text": "Loads what is loaded once."})
    lines = [LINE.format(*[number] * 8) for number in range(CHUNKS)]
    text, chunks, peaks = "".join(lines), [], []
    for line in lines:
        start = chunks[-1].end if chunks else 0
        chunks.append(
            Chunk(
                start=start,
                end=start + len(line),
                heading="",
                text=line,
                tokens=100,
                hash=digest(line),
            )
        )

    def commit(conn: Connection, prepared: Sequence[Prepared], builds: Sequence[Build]) -> Written:
        tracemalloc.start()
        with conn.transaction():
            written = writing.write(conn, index_id, prepared, builds)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return written

    index_id = staging.ensure_index(application.target)
    documents = [Document(id="large", text=text)]
    staging.prepare_and_commit(application.target, index_id, documents, commit, cut=lambda *_: chunks)
    assert application.rows("SELECT count(*) FROM vector_index.chunks_1 WHERE tokens = 100") == [(CHUNKS,)]
    assert peaks[0] <= 4 * len(text)
