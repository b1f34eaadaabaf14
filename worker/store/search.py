"""Searches: the nearest contents by vector or by words, in one statement or in one snapshot."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from psycopg import IsolationLevel, sql
from psycopg.rows import class_row

from worker.store import wide_filters
from worker.store.builds import Build
from worker.store.connection import LOOKUPS, Connection, prepared
from worker.store.filters import EVERYTHING, Filter
from worker.store.rankings import Shape, ranking, shape, word_values
from worker.store.rarity import NO_WORDS, Words
from worker.store.statements import statement, statements, tables

TIMEOUT_SECONDS = 20  # of a statement of a search
DOCUMENTS_PER_CONTENT = 3  # rows of a paragraph that thousands of documents share

# Up to this many chunks that pass a filter, all of them are compared. That is exact, and at 256 dimensions as fast as
# scanning the vector index and filtering its rows. See docs/internals/decisions.md.
EXACT_CHUNKS = 20_000
EF_SEARCH = 100
# contents of an index of bits, for each candidate and in all, that are compared again by their vectors
RESCORED, MIN_RESCORED = 10, 200
ALL_CHUNKS = 2**62

MIN_KEY, MAX_KEY = -(2**63), 2**63 - 1  # of a text: bigint

RANKED_CHUNKS = 20_000  # of a word that is in more chunks, as many are ranked


class Hit(NamedTuple):
    """A visible chunk that a ranking has found, in the order of the statement `hits`."""

    doc: int
    rev: int
    ordinal: int
    text_key: int  # 64 bits that tell texts apart
    hash: bytes
    distance: float | None  # None: the search uses no vector
    cosine: float | None  # of the angle to the question's vector, whatever the distance of the index
    words: float  # relevance by words, from 0 for none of them to at most 2.2
    index_name: str


Place = tuple[int, int]  # revision and ordinal of a chunk


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A chunk as a search returns it, with its document."""

    rev: int
    ordinal: int
    start: int
    end: int
    text: str
    document_id: str
    title: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of one ranking."""

    hits: Sequence[Hit]  # best first, ties by document and ordinal
    contents: int  # found, at most `candidates`; fewer: there are no more, unless `unread`
    unread: bool = False  # more chunks have one of the words than were ranked


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """What a ranking leaves out, as its caller has enough of it: a search reads what it returns, not what it skips."""

    documents: Set[int] = frozenset()  # by `doc`
    texts: Set[int] = frozenset()  # by `text_key`

    def __bool__(self) -> bool:
        return bool(self.documents or self.texts)

    @property
    def gaps(self) -> tuple[list[int], list[int]]:
        """The first and the last key of each range between the texts, ends included."""
        texts = sorted(self.texts)
        return [MIN_KEY, *(text + 1 for text in texts)], [*(text - 1 for text in texts), MAX_KEY]


NOTHING = Excluded()


@dataclass(frozen=True, kw_only=True)
class ReferenceDocument:
    """The document, or the text, that a search for similar documents starts from."""

    doc: int | None  # None: a text that is not indexed
    embedding: NDArray[np.float32] | None  # mean of its vectors; None: it has no visible chunks


@contextmanager
def snapshot(connection: Connection, *, ef_search: int = EF_SEARCH) -> Iterator[None]:
    """Run a read-only transaction whose statements all see the same snapshot.

    `ef_search`: how many candidates a scan of the vector index keeps. Each statement ends after TIMEOUT_SECONDS, as a
    caller waits, and Celery's thread pool lacks time limits.
    """
    usual = connection.isolation_level
    # sets the level in BEGIN, which saves a statement
    connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
    try:
        with connection.transaction():
            limits = {"seconds": TIMEOUT_SECONDS, "ef_search": ef_search}
            connection.execute(statement("search.sql", "limits"), limits, prepare=True)
            yield
    finally:
        if not connection.closed:  # a broken connection is not used again
            connection.isolation_level, connection.read_only = usual, None


def reference_document(
    connection: Connection, build: Build, id: str, *, where: Filter
) -> ReferenceDocument | None:
    """The document with this id and the mean of its vectors; `None` if it is missing or fails the filter."""
    condition, parameters = where
    text = sql.SQL(statements("search.sql")["reference_document"]).format(
        filter=condition, **tables(build.build)
    )
    values = {"index_id": build.index_id, "id": id}
    row = connection.execute(text, {**values, **parameters}).fetchone()
    if row is None:
        return None
    doc, mean = row
    return ReferenceDocument(doc=doc, embedding=None if mean is None else mean.to_numpy().astype(np.float32))


def nearest(
    connection: Connection,
    build: Build,
    query: NDArray[np.float32],
    *,
    candidates: int,
    where: Filter,
    excluded: Excluded = NOTHING,
    per_content: int = DOCUMENTS_PER_CONTENT,
    words: Words = NO_WORDS,
) -> Found:
    """The chunks of the `candidates` nearest contents, nearest first; `query` has the dimensions of the build.

    With `words`, they have a relevance by words.

    At most `per_content` chunks of a content or text that many documents share. Where a filter or an exclusion leaves
    at most EXACT_CHUNKS chunks, all of these are compared. Otherwise the vector index is scanned if it exists; if that
    returns fewer contents than `candidates`, all chunks are compared. A filter that was wide lately goes to the vector
    index at once: see `wide_filters`.
    """
    after, before = excluded.gaps
    values = _vector(build, query) | {"after": after, "before": before}
    common = shape(
        build,
        where,
        words,
        name="nearest_quantised" if build.quantised else "nearest",
        has_question=True,
        candidates=candidates,
        per_content=per_content,
        rescored=max(RESCORED * candidates, MIN_RESCORED),
        excludes_documents=bool(excluded.documents),
        excludes_texts=bool(excluded.texts),
    )

    def run(**others: Any) -> tuple[Found, int]:
        return _hits(connection, build, replace(common, **others), values, where, excluded, words)

    if excluded.texts:
        found, read = run(name="exact", chosen="chosen_by_text", most=EXACT_CHUNKS)
        if read <= EXACT_CHUNKS:
            return found
    if excluded or (where[0] != EVERYTHING and not wide_filters.is_known(connection, build, where)):
        found, read = run(name="exact", chosen="chosen_by_filter", most=EXACT_CHUNKS)
        if read <= EXACT_CHUNKS:
            return found
        if not excluded:
            wide_filters.remember(connection, build, where)
    found, _ = run()
    if found.contents < candidates:
        found, _ = run(name="exact", chosen="chosen_by_filter", most=ALL_CHUNKS)
    return found


def lexical(
    connection: Connection,
    build: Build,
    words: Words,
    query: NDArray[np.float32] | None,
    *,
    candidates: int,
    where: Filter,
    excluded: Excluded = NOTHING,
) -> Found:
    """The chunks of the contents that are most relevant by words, best first. With `query`, they have a distance."""
    if not words.finding:
        return Found(hits=[], contents=0)
    values: dict[str, Any] = {"lexemes": " | ".join(words.finding)}
    if query is not None:
        values |= _vector(build, query)
    by_words = shape(
        build,
        where,
        words,
        name="lexical",
        has_question=query is not None,
        candidates=candidates,
        per_content=DOCUMENTS_PER_CONTENT,
        most=RANKED_CHUNKS,
        excludes_documents=bool(excluded.documents),
        excludes_texts=bool(excluded.texts),
    )
    found, ranked = _hits(connection, build, by_words, values, where, excluded, words)
    return replace(found, unread=ranked == RANKED_CHUNKS)


def chunks(connection: Connection, build: Build, places: Sequence[Place]) -> Mapping[Place, Chunk]:
    """Chunks with their documents. What follows in the transaction looks up rows by key, too."""
    revs, ordinals = (list(column) for column in zip(*places, strict=True)) if places else ([], [])
    values = {"revs": revs, "ordinals": ordinals}
    with prepared(connection), connection.cursor(row_factory=class_row(Chunk)) as cursor:
        cursor.execute(LOOKUPS)
        rows = cursor.execute(build.sql("search.sql", "chunks"), values)
        return {(row.rev, row.ordinal): row for row in rows}


def metadata(connection: Connection, revs: Iterable[int]) -> Mapping[int, Mapping[str, Any]]:
    """The metadata of documents, by revision."""
    return dict(connection.execute(statement("search.sql", "metadata"), {"revs": list(revs)}).fetchall())


def spans(connection: Connection, places: Sequence[tuple[int, int, int]]) -> Mapping[tuple[int, int], str]:
    """The texts between code points of revisions, given as (rev, start, end); by rev and start."""
    if not places:
        return {}
    revs, starts, ends = (list(column) for column in zip(*places, strict=True))
    values = {"revs": revs, "starts": starts, "ends": ends}
    rows = connection.execute(statement("search.sql", "spans"), values)
    return {(rev, start): text for rev, start, text in rows}


def neighbours(
    connection: Connection, build: Build, places: Sequence[tuple[int, int, int]], reach: int
) -> Mapping[tuple[int, int], tuple[int, str]]:
    """The texts of chunks, given as (rev, first, last), with `reach` chunks before and after; by rev and first.

    Each with its first code point in the revision.
    """
    revs, firsts, lasts = (list(column) for column in zip(*places, strict=True)) if places else ([], [], [])
    values = {"revs": revs, "firsts": firsts, "lasts": lasts, "reach": reach}
    rows = connection.execute(build.sql("search.sql", "neighbours"), values)
    return {(rev, first): (start, text) for rev, first, start, text in rows}


def _hits(
    connection: Connection,
    build: Build,
    shape: Shape,
    values: Mapping[str, Any],
    where: Filter,
    excluded: Excluded,
    words: Words,
) -> tuple[Found, int]:
    """The result of a ranking, and the number of chunks that it chose from if the ranking counts it, else 0."""
    left_out = {"documents": list(excluded.documents), "texts": list(excluded.texts)}
    rows: list[Any] = connection.execute(
        ranking(shape),
        {**values, **word_values(build, words), **left_out, **where[1]},
        prepare=build.is_indexed and shape.is_common,
    ).fetchall()
    hits = [Hit._make((*columns, build.index)) for _, _, *columns in rows if columns[0] is not None]
    return Found(hits=hits, contents=rows[0][1]), rows[0][0]


def _vector(build: Build, query: NDArray[np.float32]) -> dict[str, Any]:
    return {"query": Vector(query) if build.vector == "vector" else HalfVector(query)}
