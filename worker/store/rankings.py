"""The statements of rankings: each is composed once, and those that many searches share are prepared."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from psycopg import sql

from worker.store.builds import OPERATORS, Build
from worker.store.filters import EVERYTHING, Filter
from worker.store.rarity import Words
from worker.store.statements import statements, tables

# Of an average chunk: 26 (Arabic) to 49 (English) lexemes of words in chunks of up to 240 tokens
LEXEMES_PER_TOKEN = 0.2

ALL = EVERYTHING.as_string()
REMEMBERED = 500  # statements of this process, of some 5 kB
PREPARED_WORDS = (
    8  # of a question: its plan takes Postgres some 200 kB in each connection, that of 20 words 1 MB
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the statement of a ranking depends on, beside its parameters."""

    name: str  # of the statement in search.sql that finds contents
    build: int
    vector: str  # the type of the column
    distance: str
    dimensions: int
    condition: str  # of the filter
    has_question: bool  # a vector to compare with
    words: int  # that have a weight
    candidates: int  # contents to find, at most
    per_content: int  # chunks of each, at most
    chosen: str = ""  # the statement that chooses the chunks to compare
    most: int | None = None  # chunks to read; None: the ranking does not count them
    rescored: int = 0
    excludes_documents: bool = False
    excludes_texts: bool = False

    @property
    def is_common(self) -> bool:
        """Whether many searches have this shape: those by vector, and those for a few words, without a filter."""
        is_whole = self.condition == ALL and not (self.excludes_documents or self.excludes_texts)
        return is_whole and self.words <= PREPARED_WORDS


def shape(build: Build, where: Filter, words: Words, **others: Any) -> Shape:
    """The shape of a ranking of a build."""
    return Shape(
        build=build.build,
        vector=build.vector,
        distance=build.recipe["distance"],
        dimensions=build.dimensions,
        condition=where[0].as_string(),
        words=len(words.weights),
        **others,
    )


@lru_cache(maxsize=REMEMBERED)
def ranking(shape: Shape) -> sql.Composed:
    """The statement that ranks contents and returns their chunks."""
    relevance = _relevance(shape.words)
    distance = "e.embedding {operator} %(query)b::{vector}" if shape.has_question else "NULL::float8"
    found = {"distance": _composed(shape, distance), "relevance": relevance}
    if shape.chosen:
        found["chosen"] = _part(shape, shape.chosen)
    cosine = "NULL::float8"
    if shape.has_question:
        cosine = "1 - h.distance" if shape.distance == "cosine" else statements("search.sql")["cosine"]
    text = _part(
        shape,
        "hits",
        found=_part(shape, shape.name, **found),
        matching=sql.SQL("0" if shape.most is None else "(SELECT count(*) FROM visible)"),
        relevance=relevance,
        cosine=_composed(shape, cosine),
    )
    # as one part: what is sent is put together once
    return sql.Composed([sql.SQL(text.as_string())])


def word_terms(words: int) -> Sequence[sql.Composable]:
    """What each of so many words adds to the relevance of a chunk, for the values of `word_values`."""
    term = sql.SQL(statements("search.sql")["term"])
    return [
        term.format(weight=sql.Placeholder(f"weight_{at}"), word=sql.Placeholder(f"word_{at}"))
        for at in range(words)
    ]


def word_values(build: Build, words: Words) -> dict[str, Any]:
    """The parameters of `word_terms`."""
    values: dict[str, Any] = {"average": LEXEMES_PER_TOKEN * build.recipe["chunk_tokens"]}
    for at, (word, weight) in enumerate(words.weights.items()):
        values |= {f"weight_{at}": 2.2 * weight, f"word_{at}": word}
    return values


def _relevance(words: int) -> sql.Composable:
    """The relevance of a chunk by words, for the values of `word_values`: BM25 with k1 = 1.2 and b = 0.75.

    A part of an identifier counts half, and the length of a chunk is that of its words: a text that has
    `StopIteration` says less about `stop` than one that has the word.

    ts_rank of one lexeme with all weights 1 grows with the number n of its occurrences as the sum of 1/i² does. So
    1.55 * (1 / ts_rank - 1) is 1 / n: exactly for n = 1, about that for more.
    """
    if not words:
        return sql.SQL("0.0::float8")
    terms = sql.SQL(" + ").join(word_terms(words))
    return sql.SQL(statements("search.sql")["relevance"]).format(terms=terms)


def _part(shape: Shape, name: str, **parts: sql.Composable) -> sql.Composed:
    return _composed(shape, statements("search.sql")[name], **parts)


def _composed(shape: Shape, text: str, **parts: sql.Composable) -> sql.Composed:
    condition = shape.condition
    if shape.excludes_documents:
        condition += " AND s.doc <> ALL(%(documents)s)"
    new = "hashtextextended(c.text, 0) <> ALL(%(texts)s)" if shape.excludes_texts else "true"
    names = {
        "filter": condition,
        "new": new,
        "revisions": "JOIN vector_index.revisions r ON r.rev = c.rev" if shape.condition != ALL else "",
        "operator": OPERATORS[shape.distance],
        "vector": shape.vector,
    }
    numbers = ("dimensions", "candidates", "per_content", "rescored", "most")
    return sql.SQL(text).format(
        **{name: sql.SQL(value) for name, value in names.items()},
        **{name: sql.Literal(getattr(shape, name)) for name in numbers},
        **tables(shape.build),
        **parts,
    )
