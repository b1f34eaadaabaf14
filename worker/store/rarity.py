"""The words of a question, and how rare each is in an index: counted, and of large indexes partly estimated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from math import fsum, inf, log
from typing import Any

from worker.languages import tagged
from worker.store import languages
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.lexemes import quoted
from worker.store.statements import statement
from worker.words import is_single, question_words

# Limits for the words of a question, which bound the time of the lexical half: it reads every chunk with one of them.
QUESTION_CHARACTERS = 10_000
QUESTION_LEXEMES = 32  # in each language
RAREST_LEXEMES = 8
LEXICAL_CHUNKS = 5_000
FEW_CHUNKS = 500  # of an index: as many are always read
SHARE_BESIDE_VECTORS = 0.04  # of the chunks, in a hybrid search. See docs/internals/decisions.md
# Chunks of an index. Of a larger one, Postgres estimates how many there are, and how many have its commonest words.
EXACTLY_COUNTED = 5_000
UNANALYZED_COUNTED = 200_000  # of one without statistics, until the sweep analyzes it

# The common words of each build, with their version; Postgres has some thousand of each
REMEMBERED_BUILDS = 100
_remembered: dict[tuple[object, ...], tuple[tuple[float, ...], Mapping[str, float] | None]] = {}


@dataclass(frozen=True, kw_only=True)
class Words:
    """The lexemes of a question, in the syntax of tsquery."""

    finding: Sequence[str] = ()  # the rarest that occur in chunks: chunks with one of them are ranked
    # of those that occur in chunks; 1.0 in total at most, in each language
    weights: Mapping[str, float] = field(default_factory=dict)
    unknown: Sequence[str] = ()  # those that occur in no chunk, in the language that knows most of them


NO_WORDS = Words()


def read_words(
    connection: Connection,
    build: Build,
    text: str,
    filter: Mapping[str, Any] | None = None,
    *,
    share: float = inf,
) -> Words:
    """Look up how rare the lexemes of a question are; no words for stop words only.

    A question has the lexemes of each language of the index, or of the one that the filter names. A chunk has
    lexemes of one language alone, so its relevance is that in its language. Per language, those that find chunks
    occur together in at most `share` of the chunks and LEXICAL_CHUNKS, but there is at least one. The weight of a
    lexeme is its inverse document frequency among the chunks of its language, as in BM25, divided by the sum over
    the question: so a chunk without the rare words has a low relevance, even if no chunk has them.
    """
    asked = languages.asked(connection, build, filter)
    values: dict[str, Any] = {
        "text": question_words(text[:QUESTION_CHARACTERS]),
        "configurations": [language.configuration for language in asked],
        "tags": [language.tag for language in asked],
        "lexemes": QUESTION_LEXEMES,
    }
    rows = connection.execute(build.sql("search.sql", "lexemes"), values, prepare=True).fetchall()
    if not any(lexeme for _, lexeme, *_ in rows):
        return NO_WORDS
    estimate, version = rows[0][2:]
    markers = {language.tag: language.marker for language in asked if language.tag}
    of_tags = {
        tag: [_quoted(lexeme, tag) for of, lexeme, *_ in rows if lexeme and of == tag]
        for tag in (language.tag for language in asked)
    }
    common = _common_words(connection, build, tuple(version))
    words = [*markers.values(), *chain.from_iterable(of_tags.values())]
    total, counts = _counts(connection, build, words, estimate, common)
    sizes = {tag: counts[marker] for tag, marker in markers.items()}
    finding: list[str] = []
    weights: dict[str, float] = {}
    unknown: list[Sequence[str]] = []
    for tag, of_tag in of_tags.items():
        size = sizes.get(tag, total - sum(sizes.values()))
        found = _weigh({word: counts[word] for word in of_tag}, size, share)
        finding += found.finding
        weights |= found.weights
        unknown.append(found.unknown)
    return Words(finding=finding, weights=weights, unknown=min(unknown, key=len))


def _weigh(chunks: Mapping[str, int], size: int, share: float) -> Words:
    """Weigh the lexemes of one language, given with the number of chunks that have each, of `size` chunks."""
    total = max([size, *chunks.values()])
    rarities = {word: log(1 + (total - count + 0.5) / (count + 0.5)) for word, count in chunks.items()}
    known = sorted((word for word in chunks if chunks[word]), key=lambda word: (chunks[word], word))
    sums = accumulate(chunks[word] for word in known[:RAREST_LEXEMES])
    most = min(max(share * size, FEW_CHUNKS), LEXICAL_CHUNKS)
    within = sum(1 for chunks_so_far in sums if chunks_so_far <= most)
    every = fsum(rarities.values())
    return Words(
        finding=known[: max(within, 1)],
        weights={word: rarities[word] / every for word in known},
        unknown=[word for word in chunks if not chunks[word]],
    )


def _common_words(
    connection: Connection, build: Build, version: tuple[float, ...]
) -> Mapping[str, float] | None:
    """The share of chunks that have each of the commonest words; `None` before Postgres has counted them.

    Reading them takes longer than a search by vector, so the process remembers them for this version.
    """
    key = (connection.info.host, connection.info.port, connection.info.dbname, build.build)
    remembered, shares = _remembered.get(key, (None, None))
    if remembered != version:
        values = {"table": f"chunks_{build.build}"}
        row = connection.execute(statement("search.sql", "common_words"), values).fetchone()
        shares = None if row is None else {quoted(lexeme): share for lexeme, share in zip(*row, strict=False)}
        if len(_remembered) >= REMEMBERED_BUILDS:
            _remembered.clear()
        _remembered[key] = version, shares
    return shares


def _counts(
    connection: Connection,
    build: Build,
    words: Sequence[str],
    estimate: float,
    common: Mapping[str, float] | None,
) -> tuple[int, dict[str, int]]:
    """The number of chunks, and of those with each word: in a large index estimated, as far as Postgres knows."""
    most = UNANALYZED_COUNTED if common is None else EXACTLY_COUNTED
    if estimate <= most:
        [(total,)] = connection.execute(build.sql("search.sql", "size"), {"most": most})
        return total, _count(connection, build, words, most=most)
    known = {word: round(common[word] * estimate) for word in words if common and word in common}
    others = [word for word in words if word not in known]
    return round(estimate), known | _count(connection, build, others, most=most)


def _count(connection: Connection, build: Build, words: Sequence[str], *, most: int) -> dict[str, int]:
    """The number of chunks with each word, at most `most`."""
    if not words:
        return {}
    values = {"lexemes": list(words), "most": most}
    text = build.sql("search.sql", "frequencies")
    return dict(connection.execute(text, values, prepare=build.is_indexed).fetchall())


def _quoted(lexeme: str, tag: str) -> str:
    """A lexeme in the syntax of tsquery; a single character finds the pairs that begin with it."""
    return quoted(tagged(lexeme, tag)) + (":*" if is_single(lexeme) else "")
