"""What each word of a question adds to the relevance of chunks that a search has found."""

from collections.abc import Mapping, Sequence

from psycopg import sql

from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.rankings import word_terms, word_values
from worker.store.rarity import Words
from worker.store.statements import statements, tables


def word_shares(
    connection: Connection, build: Build, words: Words, places: Sequence[tuple[int, int]]
) -> Mapping[tuple[int, int], Mapping[str, float]]:
    """Return the share of each word in the relevance of each chunk, given as revision and ordinal.

    The shares of a chunk add up to its relevance.
    """
    array = sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(word_terms(len(words.weights))))
    shares = sql.SQL(statements("search.sql")["relevance"]).format(terms=array)
    text = sql.SQL(statements("search.sql")["word_shares"]).format(shares=shares, **tables(build.build))
    revs, ordinals = (list(column) for column in zip(*places, strict=True))
    values = {"revs": revs, "ordinals": ordinals, **word_values(build, words)}
    names = [_shown(word) for word in words.weights]
    return {
        (rev, ordinal): dict(zip(names, found, strict=True))
        for rev, ordinal, found in connection.execute(text, values)
    }


def _shown(word: str) -> str:
    """A lexeme without the quotes of tsquery."""
    return word.removesuffix(":*")[1:-1].replace("''", "'").replace("\\\\", "\\")
