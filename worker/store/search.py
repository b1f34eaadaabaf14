"""What readers ask: one statement, or one transaction with one snapshot."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import accumulate
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from psycopg import IsolationLevel, sql

from worker.store.builds import OPERATORS, Build
from worker.store.connection import Connection
from worker.store.filters import EVERYTHING, Filter
from worker.store.statements import SCHEMA, statement, statements, tables

TIMEOUT_SECONDS = 20  # of a statement of a search
DOCUMENTS_PER_CONTENT = 3  # a paragraph that thousands share takes no more places than this

# Chunks that pass a filter, up to which all of them are compared: never wrong, and at 256 dimensions no slower than to
# walk the vector index and filter what comes. See docs/decisions.md.
EXACT_CHUNKS = 20_000
ALL_CHUNKS = 2**62

# Of a question: what bounds the time of the lexical half, which looks at each chunk that has one of the lexemes.
QUESTION_CHARACTERS = 10_000
QUESTION_LEXEMES = 32
RAREST_LEXEMES = 8
LEXICAL_CHUNKS = 5_000


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One chunk that a reader may see, with how well it fits the question."""

    document_id: str
    title: str
    metadata: Mapping[str, Any]
    rev: int
    text: str
    start: int
    end: int
    ordinal: int
    hash: bytes
    distance: float | None  # None: the question has no vector
    rank: float  # by its words: more is better; 0 where they were not asked for


HIT = [field.name for field in fields(Hit)]  # as {hits} names them, in its order


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one ranking came to."""

    hits: Sequence[Hit]  # best first, ties by document and ordinal
    contents: int  # that were found, at most as many as asked for; fewer: there are no more


@dataclass(frozen=True, kw_only=True)
class Lexeme:
    """A word of a question."""

    quoted: str  # as tsquery reads it
    weight: float  # its inverse document frequency, as in BM25


@dataclass(frozen=True, kw_only=True)
class ReferenceDocument:
    """A document that others are to be like."""

    doc: int
    embedding: NDArray[np.float32] | None  # the mean of its vectors; None: it shows readers nothing

    @property
    def others(self) -> Filter:
        """All documents but this one."""
        return sql.SQL("r.doc <> %(asked)s"), {"asked": self.doc}


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """A transaction whose statements all see what had committed when its first one began.

    A statement ends after TIMEOUT_SECONDS: a caller waits, and the pool of threads knows no time limits.
    """
    usual = connection.isolation_level
    # told to BEGIN itself: a statement less
    connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
    try:
        with connection.transaction():
            connection.execute(statement("search.sql", "time_limit"), {"seconds": TIMEOUT_SECONDS})
            yield
    finally:
        if not connection.closed:  # a lost one is not used again
            connection.isolation_level, connection.read_only = usual, None


def reference_document(
    connection: Connection, build: Build, id: str, *, where: Filter
) -> ReferenceDocument | None:
    """The document of that id, if it passes the filter, with the mean of its vectors; None: there is none."""
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
    per_content: int = DOCUMENTS_PER_CONTENT,
) -> Found:
    """The chunks of the `candidates` nearest contents, nearest first; `query` has the build's dimensions.

    Of a content or a text that many share, at most `per_content` chunks. A filter that few chunks pass is exact; else
    the vector index is walked, where there is one, and when it gives fewer contents than asked for, all are compared.
    """
    values = _vector(build, query) | {"candidates": candidates, "per_content": per_content}

    def run(name: str, **bound: int) -> tuple[Found, int]:
        return _hits(connection, build, _part(name, build, where), {**values, **bound}, where)

    if where[0] != EVERYTHING:
        found, matching = run("exact", most=EXACT_CHUNKS)
        if matching <= EXACT_CHUNKS:
            return found
    found, _ = run("nearest")
    if found.contents < candidates:
        found, _ = run("exact", most=ALL_CHUNKS)
    return found


def lexemes(connection: Connection, build: Build, text: str) -> list[Lexeme]:
    """The rarest lexemes of a question that some chunk has, rarest first; none for one of stop words only.

    As many as LEXICAL_CHUNKS chunks have at most, but at least one.
    """
    values: dict[str, Any] = {
        "text": text[:QUESTION_CHARACTERS],
        "language": build.language,
        "lexemes": QUESTION_LEXEMES,
        "table": f"{SCHEMA}.chunks_{build.build}",
    }
    rows = connection.execute(build.sql("search.sql", "lexemes"), values).fetchall()
    if not rows:
        return []
    values = {f"lexeme_{at}": _quoted(lexeme) for at, (lexeme, _) in enumerate(rows)}
    frequency = sql.SQL(statements("search.sql")["frequency"])
    counts = [frequency.format(lexeme=sql.Placeholder(name), **tables(build.build)) for name in values]
    counting = sql.SQL("SELECT {}").format(sql.SQL(", ").join(counts))
    [frequencies] = connection.execute(counting, values | {"most": LEXICAL_CHUNKS}).fetchall()
    every = zip(frequencies, values.values(), strict=True)
    known = sorted((chunks, quoted) for chunks, quoted in every if chunks)[:RAREST_LEXEMES]
    if not known:
        return []
    # a table that was never analysed has no number of rows
    total = max(rows[0][1], known[-1][0])
    sums = accumulate(chunks for chunks, _ in known)
    return [
        Lexeme(quoted=quoted, weight=log(1 + (total - chunks + 0.5) / (chunks + 0.5)))
        for at, ((chunks, quoted), sum) in enumerate(zip(known, sums, strict=True))
        if at == 0 or sum <= LEXICAL_CHUNKS
    ]


def lexical(
    connection: Connection,
    build: Build,
    words: Sequence[Lexeme],
    query: NDArray[np.float32] | None,
    *,
    candidates: int,
    where: Filter,
) -> Found:
    """The chunks of the contents that have most of these words, the rarer the better, best first.

    A lexeme counts its weight times the sum of 1/n² over its n-th occurrences (what ts_rank makes of one word with all
    weights 1), which saturates as BM25 does. `query` gives the distances, too; None: they are not asked for.
    """
    if not words:
        return Found(hits=[], contents=0)
    values: dict[str, Any] = {"candidates": candidates, "per_content": DOCUMENTS_PER_CONTENT}
    values["lexemes"] = " | ".join(word.quoted for word in words)
    terms = []
    for at, word in enumerate(words):
        values |= {f"weight_{at}": word.weight, f"lexeme_{at}": word.quoted}
        terms.append(
            sql.SQL("{}::float8 * ts_rank('{{1,1,1,1}}', c.lexemes, {}::tsquery)").format(
                sql.Placeholder(f"weight_{at}"), sql.Placeholder(f"lexeme_{at}")
            )
        )
    distance: sql.Composable = sql.SQL("NULL::float8")
    if query is not None:
        distance = sql.SQL("e.embedding {operator} %(query)b::{vector}").format(**_operator(build))
        values |= _vector(build, query)
    part = _part("lexical", build, where, score=sql.SQL(" + ").join(terms), distance=distance)
    return _hits(connection, build, part, values, where)[0]


def spans(connection: Connection, places: Sequence[tuple[int, int, int]]) -> Mapping[tuple[int, int], str]:
    """The text of revisions between two code points, given as (rev, start, end), by rev and start."""
    if not places:
        return {}
    revs, starts, ends = (list(column) for column in zip(*places, strict=True))
    values = {"revs": revs, "starts": starts, "ends": ends}
    rows = connection.execute(statement("search.sql", "spans"), values)
    return {(rev, start): text for rev, start, text in rows}


def _hits(
    connection: Connection, build: Build, found: sql.Composable, values: Mapping[str, Any], where: Filter
) -> tuple[Found, int]:
    """What a ranking came to, and how many chunks pass the filter where that was counted."""
    matching = "(SELECT count(*) FROM visible)" if "most" in values else "0"
    text = _part("hits", build, where, found=found, matching=sql.SQL(matching))
    rows: list[Any] = connection.execute(text, {**values, **where[1]}).fetchall()
    hits = [Hit(**dict(zip(HIT, columns, strict=True))) for _, _, *columns in rows if columns[0] is not None]
    return Found(hits=hits, contents=rows[0][1]), rows[0][0]


def _part(name: str, build: Build, where: Filter, **parts: sql.Composable) -> sql.Composed:
    everything = where[0] == EVERYTHING
    join = sql.SQL("" if everything else "JOIN vector_index.revisions r ON r.rev = c.rev")
    return sql.SQL(statements("search.sql")[name]).format(
        filter=where[0], revisions=join, **parts, **_operator(build), **tables(build.build)
    )


def _operator(build: Build) -> dict[str, sql.SQL]:
    return {"operator": sql.SQL(OPERATORS[build.recipe["distance"]]), "vector": sql.SQL(build.vector)}


def _quoted(lexeme: str) -> str:
    """As tsquery reads it."""
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"


def _vector(build: Build, query: NDArray[np.float32]) -> dict[str, Any]:
    return {"query": Vector(query) if build.vector == "vector" else HalfVector(query)}
