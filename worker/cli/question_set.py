"""Make questions of the texts of an index: of headings and first sentences. Pure functions.

A question that copies a title finds its document by the title alone, and says nothing about search. So headings that
repeat the title or are shared are left out, and sentences lose the words of their title and headings.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from worker.chunking import PATH_SEPARATOR
from worker.store.samples import Piece
from worker.words import question_words

MIN_HEADING_WORDS = 2  # "Notes" could be anywhere
MIN_WORDS, MAX_WORDS = 5, 25  # of the words of a sentence that are left
MIN_WORD_CHARACTERS = 4  # of a word of the title that a sentence loses: "the" tells no document
MIN_LETTERS = 0.75  # of the characters of a sentence, or it is code or a table
MIN_KEPT = 2 / 3  # of the words of a sentence, or it says nothing any more

_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s|(?<=[。！？])|\n\s*\n")
_CLOSED = re.compile(r"[^\W\d_a-z].*(?<!e\.g)(?<!i\.e)(?:[.!?][\"'”’)]*|[。！？])", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class WrittenQuestion:
    """A question with the document that it was made of."""

    text: str
    id: str  # of the document
    made_of: str  # heading, sentence or chat

    def as_json(self) -> dict[str, Any]:
        return {"question": self.text, "documents": [self.id], "made_of": self.made_of}


def documents(pieces: Sequence[Piece]) -> Iterator[tuple[str, list[Piece]]]:
    """Yield each document with its pieces, which follow each other."""
    for id, some in groupby(pieces, key=lambda piece: piece.id):
        yield id, list(some)


def from_texts(pieces: Sequence[Piece], *, count: int, seed: int) -> list[WrittenQuestion]:
    """Make at most `count` questions, one for each document at most; the same ones for a seed.

    Each document has a heading or a sentence first, by chance, and the other if it has none.
    """
    titles = Counter(
        heading for _, some in documents(pieces) for heading in {question_words(_section(p)) for p in some}
    )
    found: list[WrittenQuestion] = []
    for id, some in documents(pieces):
        ways: list[tuple[str, Callable[[Piece], str | None]]] = [
            ("sentence", _sentence),
            ("heading", _heading),
        ]
        if random.Random(f"{seed}:{id}").random() < 0.5:  # noqa: S311 - no secret
            ways.reverse()
        made = next(
            (
                WrittenQuestion(text=text, id=id, made_of=way)
                for way, make in ways
                for piece in some
                if (text := make(piece)) and not (way == "heading" and titles[question_words(text)] > 1)
            ),
            None,
        )
        if made is not None and len(found) < count:
            found.append(made)
    return found


def _section(piece: Piece) -> str:
    """The nearest heading above a piece; empty if there is none below the title."""
    title, _, sections = piece.heading.rpartition("\n")
    return sections.rsplit(PATH_SEPARATOR, 1)[-1] if title else ""


def _heading(piece: Piece) -> str | None:
    section = _section(piece)
    words = set(question_words(section).split())
    return section if len(words - _words(piece.title)) >= MIN_HEADING_WORDS else None


def _sentence(piece: Piece) -> str | None:
    """The first sentence of a piece, without the words of its title and headings; `None` if none fits."""
    named = {word for word in _words(piece.heading) if len(word) >= MIN_WORD_CHARACTERS}
    for sentence in map(" ".join, map(str.split, _END.split(piece.text))):
        words = sentence.split()
        kept = [word for word in words if not named & _words(word)]
        # a sentence without spaces is a word for `split`, and pairs of characters for the index
        length = max(len(kept), len(question_words(sentence).split()) // 4)
        fits = MIN_WORDS <= length <= MAX_WORDS and len(kept) >= MIN_KEPT * len(words)
        if fits and _CLOSED.fullmatch(sentence) and _letters(sentence) >= MIN_LETTERS:
            return " ".join(kept)
    return None


def _words(text: str) -> set[str]:
    return set(question_words(text).split())


def _letters(text: str) -> float:
    return sum(character.isalpha() or character.isspace() for character in text) / max(len(text), 1)
