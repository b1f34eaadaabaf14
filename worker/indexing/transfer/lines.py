"""The lines of an exported index, as docs/operate/export.md describes them. Reads no file and no database.

A header, then documents and tombstones, then a footer. A line of a document has its chunks, and a chunk has its vector
if no line before has the same content.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.documents import (
    Chunk,
    Document,
    clean,
    digest,
    document_id,
    document_version,
    embedding_text,
    read_json,
)
from worker.errors import InvalidDocument, InvalidQuery

FORMAT = "vector-index/1"
FLOAT = np.dtype("<f4")  # of a vector in base64
OWN_FIELDS = {"chunks", "vector", "older"}  # of a line, beside those of a document


@dataclass(frozen=True, kw_only=True)
class Header:
    """The first line: what the vectors were made with."""

    recipe: Mapping[
        str, Any
    ]  # of vectors bought elsewhere only model and dimensions, perhaps document_prefix
    documents: int | None = None  # and tombstones; None: the file has no footer

    @property
    def model(self) -> str:
        return str(self.recipe["model"])

    @property
    def dimensions(self) -> int:
        return int(self.recipe["dimensions"])

    @classmethod
    def read(cls, line: bytes, origin: str) -> "Header":
        """Read the first line of a file. Raises InvalidQuery."""
        value = read_object(line)
        if value is None or value.get("format") != FORMAT:
            raise InvalidQuery(
                f'{origin} is not an exported index: its first line must be {{"format": "{FORMAT}", "recipe": '
                '{"model": "...", "dimensions": ...}}, as `vector-index export` writes it'
            )
        recipe, documents = value.get("recipe"), value.get("documents")
        if not isinstance(recipe, Mapping) or not isinstance(recipe.get("model"), str):
            raise InvalidQuery(
                f"recipe.model is missing in line 1 of {origin}: name the model of its vectors there"
            )
        dimensions = recipe.get("dimensions")
        if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1:
            raise InvalidQuery(
                f"recipe.dimensions in line 1 of {origin} is {dimensions!r:.40}: set it to the length of the vectors"
            )
        if documents is not None and not isinstance(documents, int):
            raise InvalidQuery(
                f"documents in line 1 of {origin} is {documents!r:.40}, not a number: remove it"
            )
        return cls(recipe=recipe, documents=documents)

    def line(self, **facts: object) -> bytes:
        """The line itself; `facts` are for a person."""
        return dump({"format": FORMAT, **facts, "recipe": dict(self.recipe), "documents": self.documents})


@dataclass(frozen=True, kw_only=True)
class Footer:
    """The last line: a file without it is truncated."""

    documents: int
    tombstones: int
    vectors: int
    checksum: str  # of every byte before this line

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> "Footer":
        """Read the value of the key `end`. Raises InvalidDocument."""
        try:
            return cls(**{name: value[name] for name in cls.__dataclass_fields__})
        except (KeyError, TypeError):
            raise InvalidDocument("the line with `end` is damaged: export the index again") from None

    def line(self) -> bytes:
        return dump({"end": vars(self)})


@dataclass(frozen=True, kw_only=True)
class GivenChunk:
    """A chunk of a line. Its text is that of the document from start to end."""

    start: int
    end: int
    heading: str
    tokens: int | None  # None: not counted yet
    vector: NDArray[np.float32] | None  # None: an earlier line has it, or nobody


@dataclass(frozen=True, kw_only=True)
class GivenDocument:
    """A line of a document, checked."""

    document: Document
    older: bool  # searches see it until the newest revision, which follows, is complete
    chunks: Sequence[GivenChunk] | None  # None: to be split
    size: int  # of the line, bytes

    def chunks_for(self, prefix: str, count: Any) -> list[Chunk]:
        """The chunks under a prefix; `count` counts the tokens of those that have no count."""
        found = []
        for given in self.chunks or ():
            text = self.document.text[given.start : given.end]
            sent = embedding_text(prefix, given.heading, text)
            tokens = count(sent) if given.tokens is None else given.tokens
            found.append(
                Chunk(
                    start=given.start,
                    end=given.end,
                    heading=given.heading,
                    text=text,
                    tokens=tokens,
                    hash=digest(sent),
                )
            )
        return found

    def vectors_for(self, prefix: str) -> dict[bytes, NDArray[np.float32]]:
        """The vectors by the hash of the string that was embedded, under the prefix that it had."""
        text = self.document.text
        return {
            digest(embedding_text(prefix, given.heading, text[given.start : given.end])): given.vector
            for given in self.chunks or ()
            if given.vector is not None
        }


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """A line of a deleted document."""

    id: str
    version: int


Line = GivenDocument | Tombstone | Footer


def read_line(line: bytes, header: Header, *, max_bytes: int) -> Line:
    """Read and check one line after the header. Raises InvalidDocument, without any text of the document.

    Checks that the chunks cover the text, that each string has the hash that the line states, and that each vector has
    the length of the header and a direction. `max_bytes` is the limit of a text.
    """
    value = read_object(line)
    if value is None:
        raise InvalidDocument("is not a JSON object")
    if isinstance(value.get("end"), Mapping):
        return Footer.read(value["end"])
    if value.get("deleted") is True:
        version = document_version(value.get("version"))
        if version is None:
            raise InvalidDocument("a deleted document needs its version, which fences older updates")
        return Tombstone(id=document_id(value.get("id")), version=version)
    fields = {name: item for name, item in value.items() if name not in OWN_FIELDS}
    entries = _entries(value)
    if "text" not in fields and entries:
        fields["text"] = "\n\n".join(str(entry.get("text", "")) for entry in entries)
    document = Document.from_json(fields, max_bytes=max_bytes)
    chunks = None if entries is None else _chunks(document.text, entries, header)
    return GivenDocument(document=document, older=value.get("older") is True, chunks=chunks, size=len(line))


def document_line(document: Document, chunks: Iterable[Mapping[str, Any]] | None, *, older: bool) -> bytes:
    """The line of a document; `chunks` as `chunk_entry` makes them."""
    value: dict[str, Any] = {"id": document.id, "version": document.version, "title": document.title}
    value |= {"metadata": dict(document.metadata), "text": document.text}
    if older:
        value["older"] = True
    if chunks is not None:
        value["chunks"] = list(chunks)
    return dump(value)


def tombstone_line(id: str, version: int) -> bytes:
    """The line of a deleted document."""
    return dump({"id": id, "version": version, "deleted": True})


def encode_vector(vector: NDArray[np.float32]) -> str:
    """Little-endian float32 in base64: exact, and half as long as numbers."""
    return base64.b64encode(vector.astype(FLOAT).tobytes()).decode()


def dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def new_checksum() -> blake2b:
    """The hash that the footer states: BLAKE2b of 32 bytes."""
    return blake2b(digest_size=32)


def read_object(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; `None` if it is something else."""
    try:
        value = read_json(line.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _entries(value: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The chunks of a line as objects. With one vector for the document, one chunk without a text."""
    chunks, vector = value.get("chunks"), value.get("vector")
    if vector is not None and chunks is not None:
        raise InvalidDocument("has both chunks and a vector: keep one of them")
    if vector is not None:
        return [{"vector": vector}] if "text" in value else []
    if chunks is None:
        return None
    if not isinstance(chunks, list) or not all(isinstance(chunk, Mapping) for chunk in chunks):
        raise InvalidDocument("chunks must be a list of objects")
    return chunks


def _chunks(text: str, entries: Sequence[Mapping[str, Any]], header: Header) -> list[GivenChunk]:
    """Check the chunks of a document, in order."""
    prefix = str(header.recipe.get("document_prefix", ""))
    found: list[GivenChunk] = []
    covered = 0
    for at, entry in enumerate(entries):
        start, end = _span(text, entry, found, at)
        heading = entry.get("heading", "")
        tokens = entry.get("tokens")
        if not isinstance(heading, str):
            raise InvalidDocument(f"chunks[{at}].heading must be a string")
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0):
            raise InvalidDocument(f"chunks[{at}].tokens must be a whole number")
        if text[covered:start].strip():
            raise InvalidDocument(
                f"no chunk has characters {covered} to {start} of the text, so search would miss them: add a chunk, "
                "or leave the text out, and it is put together from the chunks"
            )
        heading = clean(heading)
        stated = entry.get("hash")
        if stated is not None and stated != digest(embedding_text(prefix, heading, text[start:end])).hex():
            raise InvalidDocument(
                f"chunks[{at}] does not have the hash that the line states: export it again"
            )
        vector = None if entry.get("vector") is None else _vector(entry["vector"], header.dimensions, at)
        found.append(GivenChunk(start=start, end=end, heading=heading, tokens=tokens, vector=vector))
        covered = max(covered, end)
    if text[covered:].strip():
        raise InvalidDocument(
            f"no chunk has the text from character {covered} on, so search would miss it: add a chunk, or leave the "
            "text out, and it is put together from the chunks"
        )
    return found


def _span(text: str, entry: Mapping[str, Any], before: Sequence[GivenChunk], at: int) -> tuple[int, int]:
    """Where a chunk is in the text: as stated, or where its own text is found; without both, all of the text."""
    start, end, own = entry.get("start"), entry.get("end"), entry.get("text")
    if own is not None:
        if not isinstance(own, str) or not (own := clean(own).strip()):
            raise InvalidDocument(f"chunks[{at}].text must be a string that is not empty")
        start = _place(text, own, before)
        if start < 0:
            raise InvalidDocument(
                f"the text of chunks[{at}] is not in the text of the document, after the chunk before"
            )
        return start, start + len(own)
    if start is None and end is None and len(text.strip()):
        start = len(text) - len(text.lstrip())
        end = start + len(text.strip())
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text)):
        raise InvalidDocument(f"chunks[{at}] has no text, and its start and end are not within the text")
    if text[start:end] != text[start:end].strip():
        raise InvalidDocument(f"chunks[{at}] begins or ends with white space: move its start or end")
    return start, end


def _place(text: str, own: str, before: Sequence[GivenChunk]) -> int:
    """Where the text of a chunk begins: right behind the chunk before, else the first place after its start."""
    if not before:
        return text.find(own)
    rest = text[before[-1].end :]
    behind = len(text) - len(rest.lstrip())
    return behind if text.startswith(own, behind) else text.find(own, before[-1].start + 1)


def _vector(value: object, dimensions: int, at: int) -> NDArray[np.float32]:
    """Read a vector: base64 of little-endian float32, or a list of numbers."""
    try:
        if isinstance(value, str):
            found = np.frombuffer(base64.b64decode(value, validate=True), dtype=FLOAT).astype(np.float32)
        else:
            with np.errstate(over="ignore"):
                found = np.asarray(value, dtype=np.float32)
        if found.ndim != 1:
            raise ValueError
    except (binascii.Error, ValueError, TypeError):
        raise InvalidDocument(
            f"chunks[{at}].vector is neither a list of numbers nor base64 of little-endian float32"
        ) from None
    if found.shape != (dimensions,):
        raise InvalidDocument(
            f"chunks[{at}].vector has {found.size:,} numbers instead of {dimensions:,}, which the first line states"
        )
    if not (np.isfinite(found).all() and found.any()):
        raise InvalidDocument(f"chunks[{at}].vector is of zeros or not finite, so it has no direction")
    return found
