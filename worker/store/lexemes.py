"""The lexemes of chunks: Postgres stems each word once per process.

`to_tsvector` parses and stems every word of every chunk: it took half of the CPU time of Postgres in a load. Words are
letters and digits between spaces (`worker/words.py`), so a word has the same lexemes in every text. So has a token, as
`Word`, `word` and `word.`: the words of a token are spelled once per process, too.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, count
from operator import itemgetter

from worker.languages import tagged
from worker.store.connection import Connection
from worker.store.languages import Language
from worker.store.statements import statement
from worker.words import index_words, spell, tokens

WORDS_KEPT = 50_000  # of a language, about 12 MB
TOKENS_KEPT = 30_000  # of a language, about 5 MB
TOKEN_CHARACTERS = 64  # of a token that is kept: longer ones seldom come again
USUAL_CHARACTERS = 20_000  # of a chunk that is looked up token by token: its words are far below their limit

# between the words of an answer, and between the lexemes of a word
WORDS, LEXEMES = "\x1e", "\x1f"

# The lexemes of words, then those of parts, in the syntax of tsvector, without their places. A tuple of strings, which
# the garbage collector of Python does not visit again and again
_Lexemes = tuple[tuple[str, ...], tuple[str, ...]]
_words, _parts = itemgetter(0), itemgetter(1)
# how a place is written after a lexeme and after another place. To format a number takes longer than all else here
_PLACES = 2_000
_FIRST = [f":{place}" for place in range(1, _PLACES + 1)]
_OTHER = [f",{place}" for place in range(1, _PLACES + 1)]
_Token = str | tuple[str, str]  # or a whole chunk: its heading and its text


def of_chunks(connection: Connection, chunks: Sequence[tuple[str, str, Language]]) -> list[str]:
    """Return the lexemes of chunks, given as heading, text and language, in the syntax of tsvector.

    Those of parts have the label B. In another language than the index's, each has the tag of the language before it,
    and one more lexeme marks it. There are none in an index without words.
    """
    made = [""] * len(chunks)
    for language in {language for _, _, language in chunks if language.configuration}:
        places = [at for at, (_, _, spoken) in enumerate(chunks) if spoken == language]
        found = _stemmer(connection, language).lexemes(connection, [chunks[at][:2] for at in places])
        for at, lexemes in zip(places, found, strict=True):
            made[at] = lexemes
    return made


def quoted(lexeme: str) -> str:
    """Return a lexeme in the syntax of tsvector and tsquery."""
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _joined(marker: Sequence[str], each: Sequence[_Lexemes]) -> str:
    """The lexemes of a chunk with their places: in the order of the words, then in that of the parts."""
    found: dict[str, str] = {}
    words = list(chain.from_iterable(map(_words, each)))
    first = chain(_FIRST, map(":{}".format, count(_PLACES + 1)))
    other = chain(_OTHER, map(",{}".format, count(_PLACES + 1)))
    for lexeme, at_first, at_other in zip(words, first, other, strict=False):
        found[lexeme] = found[lexeme] + at_other if lexeme in found else lexeme + at_first
    for place, lexeme in enumerate(chain.from_iterable(map(_parts, each)), len(words) + 1):
        found[lexeme] = f"{found[lexeme]},{place}B" if lexeme in found else f"{lexeme}:{place}B"
    return " ".join([*marker, *found.values()])


class _Stemmer:
    """Remembers the lexemes of tokens and words in a language, as one database stems them."""

    def __init__(self, connection: Connection, language: Language) -> None:
        self._language = language
        values = {"configuration": language.configuration}
        [(self._is_by_word,)] = connection.execute(statement("lexemes.sql", "is_by_word"), values)
        self._marker = [language.marker] if language.tag else []
        self._tokens: dict[_Token, _Lexemes] = {}
        self._words: dict[str, _Lexemes] = {}

    def lexemes(self, connection: Connection, chunks: Sequence[tuple[str, str]]) -> list[str]:
        """Return the lexemes of chunks, given as heading and text."""
        if not self._is_by_word:
            texts = [index_words(*chunk) for chunk in chunks]
            found = self._of_texts(connection, {text for both in texts for text in both})
            return [_joined(self._marker, [(found[words], found[parts])]) for words, parts in texts]
        split: list[Sequence[_Token]] = [
            tokens("\n".join(chunk)) if len(chunk[1]) <= USUAL_CHARACTERS else [chunk] for chunk in chunks
        ]
        known = self._tokens
        new = self._of_tokens(connection, set(chain.from_iterable(split)).difference(known))
        return [_joined(self._marker, _looked_up(each, known, new)) for each in split]

    def _of_tokens(self, connection: Connection, unknown: Collection[_Token]) -> Mapping[_Token, _Lexemes]:
        """Return the lexemes of new tokens, and remember them."""
        spelled = {
            token: spell(token) if isinstance(token, str) else index_words(*token) for token in unknown
        }
        known = self._of_words(connection, set(" ".join(chain.from_iterable(spelled.values())).split()))
        new: dict[_Token, _Lexemes] = {}
        for token, (words, parts) in spelled.items():
            of_one_word = None if parts else known.get(words)
            new[token] = of_one_word or (_flat(known, words.split()), _flat(known, parts.split()))
        kept = {
            token: found
            for token, found in new.items()
            if isinstance(token, str) and len(token) <= TOKEN_CHARACTERS
        }
        self._tokens.update(kept)
        if len(self._tokens) > TOKENS_KEPT:
            self._tokens = {}
        return new

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
        stems = found.split(WORDS)
        return [
            (word, (self._starts(each.split(LEXEMES)) if each else (), ()))
            for word, each in zip(words, stems, strict=True)
        ]

    def _of_texts(self, connection: Connection, texts: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the lexemes of texts under a configuration to which several words may be a phrase."""
        values = {"configuration": self._language.configuration, "texts": list(texts)}
        rows = connection.execute(statement("lexemes.sql", "of_texts"), values)
        return {text: self._starts(stems) for text, stems in rows}

    def _starts(self, stems: Iterable[str]) -> tuple[str, ...]:
        tag = self._language.tag
        return tuple([quoted(tagged(stem, tag)) for stem in stems])


def _looked_up(
    split: Sequence[_Token], known: Mapping[_Token, _Lexemes], new: Mapping[_Token, _Lexemes]
) -> list[_Lexemes]:
    try:
        return list(map(known.__getitem__, split))
    except KeyError:  # one of them is not kept
        return [known.get(token) or new[token] for token in split]


def _flat(known: Mapping[str, _Lexemes], words: Iterable[str]) -> tuple[str, ...]:
    return tuple([start for word in words for start in known[word][0]])


_stemmers: dict[tuple[str, int, str, Language], _Stemmer] = {}


def _stemmer(connection: Connection, language: Language) -> _Stemmer:
    info = connection.info
    key = (info.host, info.port, info.dbname, language)
    if key not in _stemmers:
        _stemmers[key] = _Stemmer(connection, language)
    return _stemmers[key]
