"""The parts that chunks are made of: paragraphs; where these are long items, sentences, lines, at last pieces."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import NamedTuple
from zlib import crc32

from worker.chunking.structure import blocks, near_hash
from worker.tokens import JOINT

Count = Callable[[str], int]
_Span = tuple[int, int, int]  # start, end, tokens

# What a unit starts: the better place to end the chunk before it, the lower.
HEADING, BLOCK, INSIDE = 0, 1, 2

# Tokens have about four characters: a longer span is cut without being counted first.
_CHARACTERS_PER_TOKEN = 4

# The end of a match is where the text is cut: before blanks and after line feeds, where counts add up.
_ITEMS = re.compile(
    r"\n(?=[ \t]*+(?:(?:[-*+•|>]|\d{1,9}[.)]|\.\.)[ \t]|<))"
    r"|>\s*+(?=<(?:p|li|tr|dt|dd|div|table|[uo]l|dl|section|article|blockquote)\b)",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"""[.!?]["')\]]*+(?:[^\S\n]*+\n(?:[^\S\n]*+\n)*+|(?=[ \t]))|[。！？]+[」』）”]*+""")
_LINES = re.compile(r"\n(?:[^\S\n]*+\n)*+")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*+\n)++")
_PROSE = (_ITEMS, _SENTENCES, _LINES)
_CODE = (_BLANK_LINES, _LINES)


class Unit(NamedTuple):
    """Each starts where its predecessor ends: a unit has the white space around its text."""

    start: int
    end: int
    tokens: int
    hash: int
    opens: int  # HEADING, BLOCK or INSIDE
    path: tuple[str, ...]  # titles of the headings above it, those that it starts with left out


def units(text: str, limit: int, chunk_limit: int, measure: Count) -> Iterator[Unit]:
    """Units of at most `limit` tokens where there is a place to cut.

    A block of code is one unit if it fits into `chunk_limit`, and a heading is one with what follows it.
    """
    levels: list[int] = []
    titles: tuple[str, ...] = ()
    start, opens, path = 0, BLOCK, titles
    for block in blocks(text):
        if block.level is not None:
            if opens == HEADING and block.end - start > limit * _CHARACTERS_PER_TOKEN:
                for span in _spans(text, start, block.start, limit, measure, _PROSE):
                    yield _unit(text, span, opens, path)
                    opens = INSIDE
                start, opens = block.start, BLOCK
            while levels and levels[-1] >= block.level:
                levels.pop()
            if opens != HEADING:
                opens, path = HEADING, titles[: len(levels)]
            titles = (*titles[: len(levels)], block.title)
            levels.append(block.level)
            continue
        for at, end, tokens in _block_spans(
            text, block.start, block.end, block.code, limit, chunk_limit, measure
        ):
            if not text[start:end].strip():
                continue
            if start < at:
                tokens = measure(text[start:end])
                if tokens > chunk_limit and text[start:at].strip():
                    for span in _spans(text, start, at, limit, measure, _PROSE):
                        yield _unit(text, span, opens, path)
                        opens = INSIDE
                    start, tokens = at, measure(text[at:end])
            yield _unit(text, (start, end, tokens), opens, path)
            start, opens, path = end, INSIDE, titles
        if opens != HEADING:
            opens, path = BLOCK, titles
    if text[start:].strip():
        for span in _spans(text, start, len(text), limit, measure, _PROSE):
            yield _unit(text, span, opens, path)
            opens = INSIDE


def halves(text: str, unit: Unit, measure: Count) -> list[Unit]:
    """A unit in smaller ones; a single character stays as it is."""
    spans = _pieces(text, unit.start, unit.end, (unit.tokens + 1) // 2, measure)
    return [_unit(text, span, INSIDE if at else unit.opens, unit.path) for at, span in enumerate(spans)]


def _unit(text: str, span: _Span, opens: int, path: tuple[str, ...]) -> Unit:
    start, end, tokens = span
    return Unit(start, end, tokens, crc32(text[start:end].strip().encode()), opens, path)


def _block_spans(
    text: str, start: int, end: int, code: bool, limit: int, chunk_limit: int, measure: Count
) -> Iterator[_Span]:
    if not code:
        yield from _spans(text, start, end, limit, measure, _PROSE)
    elif (
        end - start <= chunk_limit * _CHARACTERS_PER_TOKEN
        and (tokens := measure(text[start:end])) <= chunk_limit
    ):
        yield start, end, tokens
    else:
        yield from _spans(text, start, end, limit, measure, _CODE)


def _spans(
    text: str, start: int, end: int, limit: int, measure: Count, separators: tuple[re.Pattern[str], ...]
) -> Iterator[_Span]:
    if end - start <= limit * _CHARACTERS_PER_TOKEN:
        tokens = measure(text[start:end])
        if tokens <= limit:
            yield start, end, tokens
            return
    if not separators:
        yield from _pieces(text, start, end, limit, measure)
        return
    for match in separators[0].finditer(text, start, end):
        yield from _spans(text, start, match.end(), limit, measure, separators[1:])
        start = match.end()
    if start < end:
        yield from _spans(text, start, end, limit, measure, separators[1:])


def _pieces(text: str, start: int, end: int, limit: int, measure: Count) -> Iterator[_Span]:
    """What has no structure left: cut between words, else characters, again where the smallest hash is.

    The places depend on what is near them, so they come back after an edit.
    """
    while start < end:
        stop = min(end, start + limit * _CHARACTERS_PER_TOKEN)
        tokens = measure(text[start:stop])
        while (tokens > limit or stop < end) and stop - start > 1:
            full = start + max(1, (stop - start) * limit // max(tokens, limit))
            stop = _place(text, start, full if full < stop or stop < end else stop - 1)
            tokens = measure(text[start:stop])
            if tokens <= limit:
                break
        yield start, stop, tokens
        start = stop


def _place(text: str, start: int, full: int) -> int:
    """Where to end a piece that ends at `full` at the latest."""
    early = start + max(1, (full - start) * 2 // 5)
    places = [match.start() for match in JOINT.finditer(text, early, full)] or range(early, full + 1)
    nearby = sorted(places, key=lambda at: near_hash(text, at))
    return next((at for at in nearby if breaks(text, at)), full)


def breaks(text: str, at: int) -> bool:
    """Whether no grapheme cluster goes across `at`: UAX #29, but for rare marks that stand before their base."""
    left, right = text[at - 1 : at], text[at : at + 1]
    if not left or not right or left in "\r\n" or right in "\r\n":
        return not (left == "\r" and right == "\n")
    if left < "\u0300" and right < "\u0300":
        return True
    if right in "\u200c\u200d" or unicodedata.category(right) in ("Mn", "Mc", "Me"):
        return False
    if "\U0001f3fb" <= right <= "\U0001f3ff" or "\U000e0020" <= right <= "\U000e007f":
        return False  # a skin tone, or a part of a regional flag
    if left == "\u200d" or unicodedata.combining(left) == 9:
        return False  # after a joiner or a virama
    if _is_flag(left) and _is_flag(right):
        before = at
        while before and at - before < 64 and _is_flag(text[before - 1]):
            before -= 1
        return (at - before) % 2 == 0
    return not _joins_hangul(left, right)


def _is_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _joins_hangul(left: str, right: str) -> bool:
    """Whether two jamo, or a syllable and a jamo, are of one syllable."""
    initial = "\u1100" <= left <= "\u115f" or "\ua960" <= left <= "\ua97c"
    if initial:
        return "\u1100" <= right <= "\u11a7" or "\ua960" <= right <= "\ua97c" or "\uac00" <= right <= "\ud7a3"
    medial = "\u1160" <= right <= "\u11a7" or "\ud7b0" <= right <= "\ud7c6"
    final = "\u11a8" <= right <= "\u11ff" or "\ud7cb" <= right <= "\ud7fb"
    open_syllable = "\uac00" <= left <= "\ud7a3" and (ord(left) - 0xAC00) % 28 == 0
    if open_syllable or "\u1160" <= left <= "\u11a7" or "\ud7b0" <= left <= "\ud7c6":
        return medial or final
    return final and (
        "\uac00" <= left <= "\ud7a3" or "\u11a8" <= left <= "\u11ff" or "\ud7cb" <= left <= "\ud7fb"
    )
