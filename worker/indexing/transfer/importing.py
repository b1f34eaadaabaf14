"""Import exported lines: documents with their chunks and vectors, through the same transactions as any message.

A document that the index has already is unchanged, and an older version is stale. So an import that was killed is run
again from the start.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from worker.documents import Chunk, Document, check_tenant, document_label
from worker.errors import InvalidDocument, InvalidQuery, TemporaryError
from worker.index import Index
from worker.indexing import staging
from worker.indexing.transfer import lines
from worker.indexing.transfer.lines import Footer, GivenDocument, Header, Tombstone
from worker.recipes import Recipe, stated_dimensions
from worker.store import builds, connection, deletion, jobs, publishing, writing
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.jobs import JobSlice
from worker.store.writing import DOCUMENTS_PER_TRANSACTION, Prepared, StalePreparation, Written

PRIORITY = 2  # of contents without a vector: behind everything that an application sends
PAGE_BYTES = 16_000_000  # of the lines of one transaction
HEADER_BYTES = 1_000_000

# Of a recipe: what the chunks of a model depend on. Vectors bought elsewhere state none of it: their chunks are taken.
OF_CHUNKS = ("tokenizer", "token_limit", "chunker", "chunk_tokens", "overlap_tokens", "document_prefix")


@dataclass(kw_only=True)
class Imported:
    """What an import has done so far."""

    total: int | None = None  # documents and tombstones of the file
    documents: int = 0  # read, each once
    indexed: int = 0  # new or changed
    unchanged: int = 0
    stale: int = 0  # the index has a newer version
    deleted: int = 0  # documents of the index, by a newer tombstone of the file
    chunks: int = 0  # of the indexed documents
    vectors: int = 0  # read from the file
    queued: int = 0  # contents that workers embed, as the file has no vector for them
    tokens: int = 0  # of those
    failed: list[dict[str, str]] = field(default_factory=list)  # id, with its line, and error


@dataclass(frozen=True, kw_only=True)
class Import:
    """One run: the lines of one file into one index."""

    index: Index
    header: Header
    max_bytes: int
    done: Imported

    def run(self, file: Iterable[bytes], checksum: Any) -> None:
        """Write every line after the header; `checksum` has seen the header.

        A line that does not fit goes to `done.failed`. Raises InvalidQuery if the file is truncated or damaged: what
        came before is imported. Raises SettingsError, TemporaryError.
        """
        self.done.total = self.header.documents
        index_id = self._index_id()
        page, footer = Page(), None
        for number, line in enumerate(file, start=2):
            if footer is not None:
                raise InvalidQuery(f"line {number} follows the end of the export: remove what is behind it")
            read = self._read(line, number)
            if isinstance(read, Footer):
                footer = read
                continue
            checksum.update(line)
            if read is not None:
                if not page.takes(read):
                    self._write(index_id, page)
                    page = Page()
                page.add(read)
        self._write(index_id, page)
        self._check_end(footer, checksum.hexdigest())

    def differences(self, recipe: Recipe) -> list[str]:
        """What differs between the file and a recipe, as far as chunks and vectors depend on it."""
        own = recipe.as_json()
        found = []
        for name in ("model", "dimensions", *OF_CHUNKS):
            stated = self.header.recipe.get(name, own[name])
            if stated != own[name]:
                found.append(f"{name} {stated!r} in the file, {own[name]!r} in the index")
        return found

    def recipe(self) -> Recipe:
        """The recipe of the index, or that of its settings before its first document."""
        with connection.checkout(self.index.url) as conn:
            live = builds.live(conn, self.index.name)
        if live is not None:
            return Recipe.stored(live.recipe)
        same = self.index.backend.model_id == self.header.model
        dimensions = stated_dimensions(self.index.settings, self.index.backend) or (
            self.header.dimensions if same else None
        )
        return Recipe.of(self.index.settings, self.index.backend, dimensions=dimensions)

    def _index_id(self) -> int:
        """The index; created under its settings, without a request if its model is that of the file."""
        if self.header.model != self.index.backend.model_id:
            return staging.ensure_index(self.index)
        with connection.checkout(self.index.url) as conn:
            builds.ensure(conn, self.index.name, lambda: self.recipe().as_json())
            return builds.index_key(conn, self.index.name)

    def _read(self, line: bytes, number: int) -> lines.Line | None:
        """Read a line; `None` if it does not fit, which is noted, or is blank."""
        if not line.strip():
            return None
        try:
            read = lines.read_line(line, self.header, max_bytes=self.max_bytes)
            field_ = self.index.settings.tenant_field
            if field_ and isinstance(read, GivenDocument):
                check_tenant(read.document.metadata, read.document.metadata, field_)
        except InvalidDocument as error:
            self._refuse(line, number, error)
            return None
        if not isinstance(read, Footer):
            self.done.documents += not (isinstance(read, GivenDocument) and read.older)
        return read

    def _refuse(self, line: bytes, number: int, error: InvalidDocument) -> None:
        value = lines.read_object(line) or {}
        label = document_label(value)
        self.done.documents += value.get("older") is not True
        name = f"{label} (line {number})" if label else f"line {number}"
        self.done.failed.append({"id": name, "error": str(error)})

    def _write(self, index_id: int, page: "Page") -> None:
        if page.tombstones:
            self._bury(index_id, page.tombstones)
        if page.older and (unknown := self._unknown(index_id, page.older)):
            self._stage(index_id, unknown)
        if page.newest:
            written = self._stage(index_id, page.newest)
            outcomes = [outcome for _, _, outcome in written.waited]
            self.done.indexed += outcomes.count("indexed")
            self.done.unchanged += outcomes.count("unchanged")
            self.done.stale += written.counts.stale
            self.done.chunks += written.counts.chunks

    def _stage(self, index_id: int, page: Mapping[str, GivenDocument]) -> Written:
        """Write documents with their vectors in one transaction, and publish what they complete."""
        job = self._slice(index_id)
        supplied: dict[int, set[bytes]] = {}

        def cut(document: Document, build: Build) -> Sequence[Chunk]:
            return self._chunks(page[document.id], build)

        def commit(conn: Connection, prepared: Sequence[Prepared], written: Sequence[Build]) -> Written:
            whole = []
            for item in prepared:
                vectors = {build.build: self._vectors(page[item.document.id], build) for build in written}
                whole.append(replace(item, vectors=vectors))
                for number, given in vectors.items():
                    supplied.setdefault(number, set()).update(given)
            staged = writing.stage(conn, job, whole, written, priority=PRIORITY)
            return Written() if staged is None else staged

        documents = [given.document for given in page.values()]
        try:
            written = staging.prepare_and_commit(
                self.index, index_id, documents, commit, owners=dict.fromkeys(page, job.task_id), cut=cut
            )
        except StalePreparation as error:
            raise TemporaryError(
                f"index {self.index.name!r}: its builds or these documents changed while they were imported; run the "
                "import again"
            ) from error
        self._publish(job, supplied)
        self.done.queued += written.counts.embedded
        self.done.tokens += written.counts.tokens
        self.done.vectors += sum(
            chunk.vector is not None for given in page.values() for chunk in given.chunks or ()
        )
        return written

    def _publish(self, job: JobSlice, supplied: Mapping[int, set[bytes]]) -> None:
        """Publish other documents that waited for the vectors, and note that no caller waits for a result."""
        with connection.checkout(self.index.url) as conn:
            for build in builds.writable(conn, job.index_id):
                hashes = list(supplied.get(build.build, ()))
                publishing.publish(conn, build, publishing.documents_waiting_for(conn, build, hashes))
            jobs.finish(conn, [job.task_id])

    def _unknown(self, index_id: int, page: Mapping[str, GivenDocument]) -> Mapping[str, GivenDocument]:
        """The older revisions of documents that the index does not have; others keep what they serve."""
        with connection.checkout(self.index.url) as conn:
            known = writing.known(conn, index_id, list(page))
        return {id: given for id, given in page.items() if id not in known}

    def _chunks(self, given: GivenDocument, build: Build) -> Sequence[Chunk]:
        """The chunks of the file where they fit the recipe of the build; else new ones."""
        recipe = build.recipe
        fits = self._same_model(build) and all(
            self.header.recipe.get(name, recipe[name]) == recipe[name] for name in OF_CHUNKS
        )
        if given.chunks is None or not fits:
            return staging.split(given.document, build, self.index.backend)
        return given.chunks_for(recipe["document_prefix"], self.index.backend.count_tokens)

    def _vectors(self, given: GivenDocument, build: Build) -> dict[bytes, Any]:
        if not self._same_model(build):
            return {}
        prefix = self.header.recipe.get("document_prefix", build.recipe["document_prefix"])
        return given.vectors_for(prefix)

    def _same_model(self, build: Build) -> bool:
        return self.header.model == build.recipe["model"] and self.header.dimensions == build.dimensions

    def _bury(self, index_id: int, tombstones: Mapping[str, int]) -> None:
        """Leave tombstones, and delete the documents that are older."""
        with connection.checkout(self.index.url) as conn:
            for id in deletion.bury(conn, self._slice(index_id), tombstones):
                counts = deletion.delete(conn, self._slice(index_id), [id], tombstones[id])
                self.done.deleted += counts["deleted"]
                self.done.stale += counts["stale"]

    def _slice(self, index_id: int) -> JobSlice:
        """A job of one transaction: nobody delivers it again."""
        return JobSlice(task_id=f"import-{uuid4()}", slice=0, slices=1, index_id=index_id)

    def _check_end(self, footer: Footer | None, checksum: str) -> None:
        if footer is None and self.header.documents is not None:
            raise InvalidQuery(
                f"the file is truncated: it ends after {self.done.documents:,} of {self.header.documents:,} documents, "
                "which are imported; export it again, and import that: what is there stays as it is"
            )
        if footer is not None and footer.checksum != checksum:
            raise InvalidQuery(
                "the file has changed since it was exported: its checksum differs. Its lines were checked one by one "
                "and are imported, but some may be missing; export it again, and import that"
            )


@dataclass(kw_only=True)
class Page:
    """The lines of one transaction of each kind, with distinct ids, by id."""

    newest: dict[str, GivenDocument] = field(default_factory=dict)
    older: dict[str, GivenDocument] = field(default_factory=dict)  # written before the newest
    tombstones: dict[str, int] = field(default_factory=dict)
    size: int = 0  # bytes

    def takes(self, line: GivenDocument | Tombstone) -> bool:
        """Whether there is room for the line, and no line of the page that it would come before."""
        held = max(len(self.newest), len(self.older), len(self.tombstones))
        if held == DOCUMENTS_PER_TRANSACTION:
            return False
        if isinstance(line, Tombstone):
            return line.id not in {*self.newest, *self.older, *self.tombstones}
        seen = (
            {*self.newest, *self.tombstones}
            if not line.older
            else {*self.newest, *self.older, *self.tombstones}
        )
        return line.document.id not in seen and (not held or self.size + line.size <= PAGE_BYTES)

    def add(self, line: GivenDocument | Tombstone) -> None:
        if isinstance(line, Tombstone):
            self.tombstones[line.id] = line.version
        else:
            (self.older if line.older else self.newest)[line.document.id] = line
            self.size += line.size


def read_header(file: Iterator[bytes], origin: str, checksum: Any) -> Header:
    """Read the first line of a file. Raises InvalidQuery."""
    line = next(file, b"")
    checksum.update(line)
    return Header.read(line, origin)
