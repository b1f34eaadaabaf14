"""Spell the words of existing chunks again when a release spells words in another way. Searches and writes go on."""

import time
from typing import Any

from worker.store import languages, lexemes
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.statements import statement
from worker.words import SPELLING

# words of each kind that a parser tells apart, in several scripts; no stop words
SAMPLE = ("albatross", "naïve", "0042", "zx42", "слово", "שלום", "हिन्दी", "نهر", "语义", "ภา")

CHUNKS_AT_ONCE = 200  # of one transaction
SECONDS = 10.0  # of one sweep


def spell_again(connection: Connection, build: Build, *, seconds: float = SECONDS) -> int:
    """Spell chunks of a build that have the words of an older release, for `seconds`; the number of chunks read.

    Any number of workers may call it: each batch counts once, and a worker that finds another one at it leaves off.
    New chunks have new words, so it ends.
    """
    deadline, read = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        chunks = _spell_batch(connection, build)
        if not chunks:
            break
        read += chunks
    return read


@retry_on_deadlock
def _spell_batch(connection: Connection, build: Build) -> int:
    """Spell the next chunks; their number, 0 if there are none left or another worker spells them."""
    values: dict[str, Any] = {"build": build.build, "spelling": SPELLING, "chunks": CHUNKS_AT_ONCE}
    with connection.transaction():
        place = connection.execute(statement("spelling.sql", "place"), values).fetchone()
        if place is None:
            return 0
        values |= {"rev": place[0], "ordinal": place[1]}
        rows = connection.execute(build.sql("spelling.sql", "next"), values).fetchall()
        if not rows:
            connection.execute(statement("spelling.sql", "finish"), values)
            return 0
        values |= {"to_rev": rows[-1][0], "to_ordinal": rows[-1][1]}
        if not connection.execute(statement("spelling.sql", "move"), values).rowcount:
            return 0
        named = languages.of_revisions(connection, build, [rev for rev, _, _, _ in rows])
        spoken = [(heading, text, named.get(rev, languages.own(build))) for rev, _, heading, text in rows]
        values |= {
            "revs": [rev for rev, _, _, _ in rows],
            "ordinals": [ordinal for _, ordinal, _, _ in rows],
            "lexemes": lexemes.of_chunks(connection, spoken),
        }
        connection.execute(build.sql("spelling.sql", "spell"), values)
        return len(rows)


def misread(connection: Connection, language: str) -> list[str]:
    """Words of each kind that this text search configuration drops or parts; search by words misses such words.

    Raises SettingsError for one that the server does not have.
    """
    values = {"language": language, "words": list(SAMPLE)}
    return [row[0] for row in connection.execute(statement("spelling.sql", "misread"), values)]
