"""The lexemes of chunks: Postgres stems each word once per process.

`to_tsvector` parses and stems every word of every chunk: it took half of the CPU time of Postgres in a load. Words are
letters and digits between spaces (`worker/words.py`), so a word has the same lexemes in every text. So has a token, as
`Word`, `word` and `word.`: the words of a token are spelled once per process, too.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from worker.languages import marker, tagged
from worker.store.connection import Connection
from worker.store.languages import Language
from worker.store.statements import statement
from worker.store.tsvectors import TsVector, tsvector
from worker.words import index_words, spell, tokens

WORDS_KEPT = 50_000  # of a language, about 12 MB
TOKENS_KEPT = 30_000  # of a language, about 5 MB
TOKEN_CHARACTERS = 64  # of a token that is kept: longer ones seldom come again
USUAL_CHARACTERS = 20_000  # of a chunk that is looked up token by token: its words are far below their limit

# between the words of an answer, and between the lexemes of a word
WORDS, LEXEMES = b"\x1e", b"\x1f"

# Lexemes as a tsvector in binary has them: UTF-8 and a zero. A tuple of bytes, which the garbage collector of Python
# does not visit again and again
_Lexemes = tuple[bytes, ...]
_Token = str | tuple[str, str]  # or a whole chunk: its heading and its text


class _Tokens(NamedTuple):
    """The lexemes of tokens."""

    words: dict[_Token, _Lexemes]
    parts: dict[_Token, _Lexemes]  # only of tokens that have some


def of_chunks(connection: Connection, chunks: Sequence[tuple[str, str, Language]]) -> list[TsVector]:
    """Return the lexemes of chunks, given as heading, text and language.

    Those of parts have the label B. In another language than the index's, each has the tag of the language before it,
    and one more lexeme marks it. There are none in an index without words.
    """
    made = [tsvector({}, {})] * len(chunks)
    for language in {language for _, _, language in chunks if language.configuration}:
        places = [at for at, (_, _, spoken) in enumerate(chunks) if spoken == language]
        found = _stemmer(connection, language).lexemes(connection, [chunks[at][:2] for at in places])
        for at, lexemes in zip(places, found, strict=True):
            made[at] = lexemes
    return made


def quoted(lexeme: str) -> str:
    """Return a lexeme in the syntax of tsquery."""
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


class _Stemmer:
    """Remembers the lexemes of tokens and words in a language, as one database stems them."""

    def __init__(self, connection: Connection, language: Language) -> None:
        self._language = language
        values = {"configuration": language.configuration}
        [(self._is_by_word,)] = connection.execute(statement("lexemes.sql", "is_by_word"), values)
        self._prefix = tagged("", language.tag).encode()
        self._marker = f"{marker(language.tag)}\0".encode() if language.tag else None
        self._tokens = _Tokens({}, {})
        self._words: dict[str, _Lexemes] = {}

    def lexemes(self, connection: Connection, chunks: Sequence[tuple[str, str]]) -> list[TsVector]:
        """Return the lexemes of chunks, given as heading and text."""
        if not self._is_by_word:
            texts = [index_words(*chunk) for chunk in chunks]
            found = self._of_texts(connection, {text for both in texts for text in both})
            return [self._counted([found[words]], [found[parts]]) for words, parts in texts]
        split: list[Sequence[_Token]] = [
            tokens("\n".join(chunk)) if len(chunk[1]) <= USUAL_CHARACTERS else [chunk] for chunk in chunks
        ]
        words, parts = self._of_tokens(connection, set(chain.from_iterable(split)))
        return [
            self._counted(
                map(words.__getitem__, each), map(parts.__getitem__, filter(parts.__contains__, each))
            )
            for each in split
        ]

    def _counted(self, words: Iterable[_Lexemes], parts: Iterable[_Lexemes]) -> TsVector:
        times = Counter(chain.from_iterable(words))
        if self._marker:
            times[self._marker] = 0  # without a place, so that a search does not count it
        return tsvector(times, Counter(chain.from_iterable(parts)))

    def _of_tokens(self, connection: Connection, wanted: Collection[_Token]) -> _Tokens:
        """Return the lexemes of these tokens, and perhaps of others; remembers them."""
        known = self._tokens  # another thread may replace it
        unknown = [token for token in wanted if token not in known.words]
        if not unknown:
            return known
        spelled = [spell(token) if isinstance(token, str) else index_words(*token) for token in unknown]
        stemmed = self._of_words(connection, set(" ".join(chain.from_iterable(spelled)).split()))
        new = _Tokens({}, {})
        for token, (words, parts) in zip(unknown, spelled, strict=True):
            new.words[token] = stemmed.get(words) or _flat(stemmed, words)
            if parts:
                new.parts[token] = _flat(stemmed, parts)
        kept = [token for token in unknown if isinstance(token, str) and len(token) <= TOKEN_CHARACTERS]
        # parts first: another thread that finds the words of a token takes it for known
        known.parts.update({token: new.parts[token] for token in kept if token in new.parts})
        known.words.update({token: new.words[token] for token in kept})
        if len(known.words) > TOKENS_KEPT:
            self._tokens = _Tokens({}, {})
        return (
            known if len(kept) == len(unknown) else _Tokens(known.words | new.words, known.parts | new.parts)
        )

    def _of_words(self, connection: Connection, words: set[str]) -> Mapping[str, _Lexemes]:
        """Return the lexemes of these words, and perhaps of others; none of a stop word."""
        known = self._words
        unknown = words.difference(known)
        if len(known) + len(unknown) > WORDS_KEPT:
            known, unknown = {}, words
        if unknown:
            known.update(self._read(connection, list(unknown)))
            self._words = known if len(known) <= WORDS_KEPT else {}
        return known

    def _read(self, connection: Connection, words: Sequence[str]) -> Iterable[tuple[str, _Lexemes]]:
        values = {"configuration": self._language.configuration, "words": " ".join(words)}
        [(found,)] = connection.execute(statement("lexemes.sql", "of_words"), values)
        stems = found.encode().split(WORDS)
        return [
            (word, self._tagged(each.split(LEXEMES)) if each else ())
            for word, each in zip(words, stems, strict=True)
        ]

    def _of_texts(self, connection: Connection, texts: Collection[str]) -> Mapping[str, _Lexemes]:
        """Return the lexemes of texts under a configuration to which several words may be a phrase."""
        values = {"configuration": self._language.configuration, "texts": list(texts)}
        rows = connection.execute(statement("lexemes.sql", "of_texts"), values)
        return {text: self._tagged(map(str.encode, stems)) for text, stems in rows}

    def _tagged(self, stems: Iterable[bytes]) -> _Lexemes:
        return tuple([self._prefix + stem + b"\0" for stem in stems])


def _flat(known: Mapping[str, _Lexemes], words: str) -> _Lexemes:
    return tuple([lexeme for word in words.split() for lexeme in known[word]])


_stemmers: dict[tuple[str, int, str, Language], _Stemmer] = {}


def _stemmer(connection: Connection, language: Language) -> _Stemmer:
    info = connection.info
    key = (info.host, info.port, info.dbname, language)
    if key not in _stemmers:
        _stemmers[key] = _Stemmer(connection, language)
    return _stemmers[key]
