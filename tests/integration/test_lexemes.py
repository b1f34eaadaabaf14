"""The lexemes that the workers build are those that `to_tsvector` makes of the same words."""

import pytest

from worker import languages
from worker.store import connection, lexemes
from worker.store.connection import Connection
from worker.store.languages import Language
from worker.store.tsvectors import TsVector, tsvector
from worker.words import index_words

TEXTS = [
    "The runners were running; a run of INV-2024-0042 and of snake_case, snake_case and the camelCaseName.",
    "Die Häuser der Bäume, viele Häuser: das Haus. Straße und STRASSE",
    "Книги и книга, дома дом. שלום 语义搜索 ห้องสมุด हिन्दी نهر",
    "x86 3.14 1e5 C++ C# https://example.org/a/b?c=d 100% don't the's O'Neill \\ ' \" `quoted` a b",
    "",
    "the of and",
    "word " * 300 + "snake_case " * 300,
]
OCCURRENCES = """
SELECT lexeme, cardinality(positions), (SELECT count(*) FROM unnest(weights) AS w WHERE w = 'B')
FROM unnest({}) AS l (lexeme, positions, weights) ORDER BY lexeme
"""
WHOLE = (
    "to_tsvector(%(of)s::regconfig, %(words)s) || setweight(to_tsvector(%(of)s::regconfig, %(parts)s), 'B')"
)


def readable(conn: Connection, made: list[TsVector]) -> list[str]:
    """The lexemes as Postgres has them."""
    return [text for (text,) in conn.execute("SELECT unnest(%b::tsvector[])::text", [made])]


def own(configuration: str) -> Language:
    return Language(name=configuration, configuration=configuration, tag="")


@pytest.mark.parametrize("configuration", ["english", "german", "russian", "arabic", "simple"])
def test_lexemes_occur_as_often_as_in_to_tsvector(url: str, configuration: str) -> None:
    chunks = [("", text, own(configuration)) for text in TEXTS]
    with connection.checkout(url) as conn:
        made = lexemes.of_chunks(conn, chunks)
        again = lexemes.of_chunks(conn, chunks)
        for text, found in zip(TEXTS, made, strict=True):
            words, parts = index_words(text)
            values = {"of": configuration, "words": words, "parts": parts, "made": found}
            expected = conn.execute(OCCURRENCES.format(WHOLE), values).fetchall()
            assert conn.execute(OCCURRENCES.format("%(made)s::tsvector"), values).fetchall() == expected
    assert again == made


def test_lexemes_of_another_language_have_its_tag_and_its_marker(url: str) -> None:
    german = Language(name="german", configuration="german", tag=languages.tag("german", "english"))
    with connection.checkout(url) as conn:
        mixed = readable(
            conn, lexemes.of_chunks(conn, [("", "Häuser", german), ("", "Häuser", own("english"))])
        )
    assert mixed == ["'de|haus':1 '|de'", "'häuser':1"]


def test_lexemes_with_quotes_and_backslashes_reach_a_query_as_they_are(url: str) -> None:
    with connection.checkout(url) as conn:
        made = tsvector({b"it's \\n\0": 1}, {})
        row = conn.execute(
            "SELECT %s::tsvector @@ %s::tsquery", [made, lexemes.quoted("it's \\n")]
        ).fetchone()
    assert row == (True,)


def test_a_chunk_without_words_has_no_lexemes(url: str) -> None:
    without = Language(name=None, configuration=None, tag="")
    with connection.checkout(url) as conn:
        assert readable(conn, lexemes.of_chunks(conn, [("", "A text", without)])) == [""]


def test_phrases_of_a_thesaurus_are_read_as_phrases(url: str) -> None:
    with connection.checkout(url) as conn:
        conn.execute(
            "CREATE TEXT SEARCH DICTIONARY public.phrases "
            "(TEMPLATE = thesaurus, DictFile = thesaurus_sample, Dictionary = english_stem)"
        )
        conn.execute("CREATE TEXT SEARCH CONFIGURATION public.with_phrases (COPY = english)")
        conn.execute(
            "ALTER TEXT SEARCH CONFIGURATION public.with_phrases "
            "ALTER MAPPING FOR asciiword WITH public.phrases, english_stem"
        )
        chunk = ("", "seven supernovae stars and supernovae stars", own("public.with_phrases"))
        [made] = lexemes.of_chunks(conn, [chunk])
        found = conn.execute(OCCURRENCES.format("%(made)s::tsvector"), {"made": made}).fetchall()
    assert found == [("seven", 1, 0), ("sn", 2, 0)]


@pytest.mark.parametrize("kept", ["WORDS_KEPT", "TOKENS_KEPT", "TOKEN_CHARACTERS"])
def test_words_beyond_the_kept_ones_are_read_again(
    url: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexemes, kept, 3)
    texts = ("cats dogs", "birds cats", "fishes horses cows mice")
    chunks = [("", text, own("english")) for text in texts]
    with connection.checkout(url) as conn:
        made = [readable(conn, lexemes.of_chunks(conn, [chunk])) for chunk in chunks * 2]
    assert made == [["'cat':1 'dog':1"], ["'bird':1 'cat':1"], ["'cow':1 'fish':1 'hors':1 'mice':1"]] * 2


def test_a_long_chunk_has_the_lexemes_of_its_tokens(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [(heading, text, own("english")) for heading in ("", "On snake_case") for text in TEXTS]
    with connection.checkout(url) as conn:
        made = lexemes.of_chunks(conn, chunks)
        monkeypatch.setattr(lexemes, "USUAL_CHARACTERS", 0)
        assert lexemes.of_chunks(conn, chunks) == made
