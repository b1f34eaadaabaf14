"""The lexemes of chunks: Postgres stems each word once per process.

`to_tsvector` parses and stems every word of every chunk: it took half of the CPU time of Postgres in a load. Words are
letters and digits between spaces (`worker/words.py`), so a word has the same lexemes in every text.
"""

from collections.abc import Mapping, Sequence

from worker.languages import tagged
from worker.store.connection import Connection
from worker.store.languages import Language
from worker.store.statements import statement
from worker.words import IndexWords

WORDS_KEPT = 50_000  # of a language, about 12 MB

Starts = Mapping[
    str, Sequence[str]
]  # of each word: its lexemes in the syntax of tsvector, up to their positions


def of_chunks(connection: Connection, chunks: Sequence[tuple[IndexWords, Language]]) -> list[str]:
    """Return the lexemes of the words of each chunk, in the syntax of tsvector; those of parts have the label B.

    In another language than the index's, each has the tag of the language before it, and one more lexeme marks it.
    There are none in an index without words.
    """
    made: dict[int, str] = {
        at: "" for at, (_, language) in enumerate(chunks) if language.configuration is None
    }
    for language in {language for _, language in chunks if language.configuration}:
        stemmer = _stemmer(connection, language)
        split = {
            at: [stemmer.split(each) for each in words]
            for at, (words, spoken) in enumerate(chunks)
            if spoken == language
        }
        starts = stemmer.starts(
            connection, {word for both in split.values() for words in both for word in words}
        )
        marker = [language.marker] if language.tag else []
        made |= {at: " ".join([*marker, *_lexemes(starts, *both)]) for at, both in split.items()}
    return [made[at] for at in range(len(chunks))]


def quoted(lexeme: str) -> str:
    """Return a lexeme in the syntax of tsvector and tsquery."""
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _lexemes(starts: Starts, words: Sequence[str], parts: Sequence[str]) -> Sequence[str]:
    """The lexemes of a chunk with their positions: in the order of the words, then in that of the parts."""
    found: dict[str, str] = {}
    place = 0
    for each, label in ((words, ""), (parts, "B")):
        for word in each:
            for start in starts[word]:
                place += 1
                found[start] = (
                    f"{found[start]},{place}{label}" if start in found else f"{start}{place}{label}"
                )
    return list(found.values())


class _Stemmer:
    """Remembers the lexemes of words in a language, as one database stems them."""

    def __init__(self, connection: Connection, language: Language) -> None:
        self._language = language
        values = {"configuration": language.configuration}
        [(self._is_by_word,)] = connection.execute(statement("lexemes.sql", "is_by_word"), values)
        self._known: dict[str, Sequence[str]] = {}

    def split(self, words: str) -> list[str]:
        """Split words into those that the configuration reads by themselves; all together may be a phrase of it."""
        return words.split() if self._is_by_word else [words]

    def starts(self, connection: Connection, words: set[str]) -> Starts:
        """Return the lexemes of these words, and perhaps of others; none of a stop word."""
        known = self._known
        unknown = words.difference(known)
        if len(known) + len(unknown) > WORDS_KEPT:
            known, unknown = {}, words
        if unknown:
            known.update(self._read(connection, unknown))
            self._known = known if self._is_by_word and len(known) <= WORDS_KEPT else {}
        return known

    def _read(self, connection: Connection, words: set[str]) -> dict[str, Sequence[str]]:
        values = {"configuration": self._language.configuration, "words": list(words)}
        tag = self._language.tag
        name = "of_words" if self._is_by_word else "of_texts"
        rows = connection.execute(statement("lexemes.sql", name), values)
        return {word: tuple(f"{quoted(tagged(stem, tag))}:" for stem in stems) for word, stems in rows}


_stemmers: dict[tuple[str, int, str, Language], _Stemmer] = {}


def _stemmer(connection: Connection, language: Language) -> _Stemmer:
    info = connection.info
    key = (info.host, info.port, info.dbname, language)
    if key not in _stemmers:
        _stemmers[key] = _Stemmer(connection, language)
    return _stemmers[key]
