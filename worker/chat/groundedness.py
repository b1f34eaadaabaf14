"""How much of an answer its passages hold: the share of its sentences whose words occur in them. Pure functions.

A sentence is counted if most of its content words occur, and all of its numbers. Content words have at least four
letters, or are pairs of characters in scripts without spaces. Endings make no difference. It is a figure to watch over
many answers, and no proof for one: a model may deny what a passage states with the same words.
"""

import re
from collections.abc import Iterable, Sequence

from worker.words import index_words

MIN_SHARE = 0.6  # of the content words of a sentence
MIN_LETTERS = 4  # of a content word in scripts with spaces
STEM_SHARE, MIN_STEM = 0.7, 4  # how much of a word its stem is: a share of its letters, and a number of them

_SENTENCE_END = re.compile(r"(?<=:)\s+|(?<=[.!?])[\"'”’»)*\]]*\s+|(?<=[。！？।؟۔])|\n+")
_CITATION = re.compile(r"[\[【](?:\^|\w+\s)?[\d\s,;–†-]+(?:source)?[\]】]")


def groundedness(answer: str, passages: Iterable[str]) -> float | None:
    """Return the share, from 0 to 1, of the sentences of an answer that the passages hold.

    `None` for an answer without a content word or a number.
    """
    sentences = [words for sentence in _sentences(answer) if (words := _content(sentence))]
    if not sentences:
        return None
    held = {stem for passage in passages for stem in _content(passage)}
    return round(sum(_is_held(words, held) for words in sentences) / len(sentences), 3)


def _sentences(answer: str) -> Sequence[str]:
    pieces = _SENTENCE_END.split(_CITATION.sub(" ", answer))
    return [piece for piece in pieces if not piece.endswith(":")]  # which only announces what follows


def _content(text: str) -> set[str]:
    """The stems of the content words, and the numbers, of a text."""
    found = index_words(text)
    return {_stem(word) for word in f"{found.words} {found.parts}".split() if _is_content(word)}


def _is_content(word: str) -> bool:
    return (
        word.isdigit()
        or len(word) >= MIN_LETTERS
        or (len(word) > 1 and not word.isascii() and not _has_case(word))
    )


def _has_case(word: str) -> bool:
    """Whether its script has capital letters, and so spaces."""
    return word.upper() != word or word.lower() != word


def _stem(word: str) -> str:
    if not word.isalpha():
        return word
    return word[: max(MIN_STEM, round(STEM_SHARE * len(word)))]


def _is_held(words: set[str], held: set[str]) -> bool:
    if any(word.isdigit() and word not in held for word in words):
        return False
    return sum(word in held for word in words) >= MIN_SHARE * len(words)
