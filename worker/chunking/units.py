"""Cut a text into the units of chunks: paragraphs, or parts of long ones (items, sentences, lines, pieces)."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from zlib import crc32

from worker.chunking.structure import Block, blocks, near_hash
from worker.tokens import JOINT

Count = Callable[[str], int]
_Span = tuple[int, int, int]  # start, end, tokens

# The start of a unit. The lower, the better the place before it is for the end of a chunk.
HEADING, BLOCK, INSIDE = 0, 1, 2

# An edited heading embeds its chunks again: at worst 18 chunks with all headings above a chunk, 6 with two.
_HEADINGS = 2
# Tokens have about four characters. A span of more than four times the limit is cut without a count.
_CHARACTERS_PER_TOKEN = 4
_CLUSTER_CHARACTERS = 32  # longer grapheme clusters may be cut

# The text is cut at the end of a match: before blanks and after line feeds, so that counts add up.
# A search is several times as fast if the pattern begins with a set of characters instead of alternatives.
_ITEMS = re.compile(
    r"[\n>](?:(?<=\n)(?=[ \t]*+(?:(?:[-*+•|>]|\d{1,9}[.)]|\.\.)[ \t]|<))"
    r"|(?<=>)\s*+(?=<(?i:p|li|tr|dt|dd|div|table|[uo]l|dl|section|article|blockquote)\b))"
)
_SENTENCES = re.compile(
    r"""[.!?。！？](?:(?<=[.!?])["')\]]*+(?:[^\S\n]*+\n(?:[^\S\n]*+\n)*+|(?=[ \t]))|(?<=[。！？])[」』）”]*+)"""
)
_LINES = re.compile(r"\n(?:[^\S\n]*+\n)*+")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*+\n)++")
_PROSE = (_ITEMS, _SENTENCES, _LINES)
_CODE = (_BLANK_LINES, _LINES)


class Unit(NamedTuple):
    """A part of a chunk. It starts at the end of the unit before it, so it includes the white space around its text."""

    start: int
    end: int
    tokens: int
    hash: int
    opens: int  # HEADING, BLOCK or INSIDE
    path: tuple[str, ...]  # titles of the nearest headings above it; empty if it starts with a heading


def units(text: str, limit: int, chunk_limit: int, measure: Count) -> Iterator[Unit]:
    """Yield units of at most `limit` tokens, as far as there are places to cut.

    A block of code is one unit if it fits into `chunk_limit`. A heading is one unit with the text below it.
    """
    levels: list[int] = []
    titles: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    start, opens = 0, BLOCK
    for block in blocks(text):
        if block.level is not None:
            if opens == HEADING and block.end - start > limit * _CHARACTERS_PER_TOKEN:
                for span in _spans(text, start, block.start, limit, measure, _PROSE):
                    yield _unit(text, span, opens, path)
                    opens = INSIDE
                start, opens = block.start, BLOCK
            while levels and levels[-1] >= block.level:
                levels.pop()
            opens, path = HEADING, ()
            titles = (*titles[: len(levels)], block.title)
            levels.append(block.level)
            continue
        for at, end, tokens in _block_spans(text, block, limit, chunk_limit, measure):
            piece = text[start:end]
            if piece.isspace():
                continue
            if start < at:
                tokens = measure(piece)
                if tokens > chunk_limit and text[start:at].strip():
                    for span in _spans(text, start, at, limit, measure, _PROSE):
                        yield _unit(text, span, opens, path)
                        opens = INSIDE
                    start, tokens = at, measure(text[at:end])
                    piece = text[at:end]
            yield Unit(start, end, tokens, _hash(piece), opens, path)
            start, opens, path = end, INSIDE, titles[-_HEADINGS:]
        if opens != HEADING:
            opens = BLOCK
    if text[start:].strip():
        for span in _spans(text, start, len(text), limit, measure, _PROSE):
            yield _unit(text, span, opens, path)
            opens = INSIDE


def halves(text: str, unit: Unit, measure: Count) -> list[Unit]:
    """Split a unit into smaller ones, some perhaps of white space; a single character stays one unit."""
    spans = _pieces(text, unit.start, unit.end, (unit.tokens + 1) // 2, measure, clusters=False)
    return [_unit(text, span, INSIDE if at else unit.opens, unit.path) for at, span in enumerate(spans)]


def _unit(text: str, span: _Span, opens: int, path: tuple[str, ...]) -> Unit:
    start, end, tokens = span
    return Unit(start, end, tokens, _hash(text[start:end]), opens, path)


def _hash(piece: str) -> int:
    return crc32(piece.strip().encode())


def _block_spans(text: str, block: Block, limit: int, chunk_limit: int, measure: Count) -> Iterable[_Span]:
    if not block.code:
        return _spans(text, block.start, block.end, limit, measure, _PROSE)
    whole = text[block.start : block.end]
    if len(whole) <= chunk_limit * _CHARACTERS_PER_TOKEN and (tokens := measure(whole)) <= chunk_limit:
        return ((block.start, block.end, tokens),)
    return _spans(text, block.start, block.end, limit, measure, _CODE)


def _spans(
    text: str, start: int, end: int, limit: int, measure: Count, separators: tuple[re.Pattern[str], ...]
) -> Iterable[_Span]:
    if end - start <= limit * _CHARACTERS_PER_TOKEN:
        tokens = measure(text[start:end])
        if tokens <= limit:
            return ((start, end, tokens),)
    return _cut(text, start, end, limit, measure, separators)


def _split(
    text: str, start: int, end: int, limit: int, measure: Count, separators: tuple[re.Pattern[str], ...]
) -> Iterator[_Span]:
    most, finer = limit * _CHARACTERS_PER_TOKEN, separators[1:]
    for match in separators[0].finditer(text, start, end):
        stop = match.end()
        # most spans fit, and need no further cut
        if stop - start <= most and (tokens := measure(text[start:stop])) <= limit:
            yield start, stop, tokens
        else:
            yield from _cut(text, start, stop, limit, measure, finer)
        start = stop
    if start < end:
        yield from _spans(text, start, end, limit, measure, finer)


def _cut(
    text: str, start: int, end: int, limit: int, measure: Count, separators: tuple[re.Pattern[str], ...]
) -> Iterator[_Span]:
    """Cut a span that does not fit, at the coarsest separators that are left."""
    if separators:
        return _split(text, start, end, limit, measure, separators)
    return _pieces(text, start, end, limit, measure)


def _pieces(
    text: str, start: int, end: int, limit: int, measure: Count, *, clusters: bool = True
) -> Iterator[_Span]:
    """Cut a span without structure, between words or else characters, at the place with the smallest hash.

    The places depend on the text near them, so they stay after an edit elsewhere. With `clusters`, a grapheme cluster
    stays whole even if it is over the limit.
    """
    while start < end:
        full = min(end, start + limit * _CHARACTERS_PER_TOKEN)
        if not text[start:full].isascii():  # most other scripts have one or two characters a token
            full = min(end, start + limit)
        tokens = measure(text[start:full])
        room = (full - start) * limit // max(tokens, limit)
        while True:
            full = min(end, start + max(1, room))
            stop = full if full == end else _place(text, start, full, end if clusters else full)
            tokens = measure(text[start:stop])
            if tokens <= limit or stop - start == 1 or stop > full:
                break
            room = min(full - start - 1, (stop - start) * limit // tokens)
        yield start, stop, tokens
        start = stop


def _place(text: str, start: int, full: int, end: int) -> int:
    """Choose the end of a piece: at most `full`, or after a longer grapheme cluster, at most `end`."""
    early = start + max(1, (full - start) * 2 // 5)
    words = [match.start() for match in JOINT.finditer(text, early, full)]
    for places in (words or range(early, full + 1), range(start + 1, early)):
        for at in sorted(places, key=lambda at: near_hash(text, at)):
            if breaks(text, at):
                return at
    beyond = range(full + 1, min(end, full + _CLUSTER_CHARACTERS) + 1)
    return next((at for at in beyond if breaks(text, at)), full)


def breaks(text: str, at: int) -> bool:
    """Tell whether no grapheme cluster spans `at` (UAX #29, except for rare marks that precede their base)."""
    left, right = text[at - 1 : at], text[at : at + 1]
    if not left or not right or left in "\r\n" or right in "\r\n":
        return not (left == "\r" and right == "\n")
    if left < "\u0300" and right < "\u0300":
        return True
    if right in "\u200c\u200d" or unicodedata.category(right) in ("Mn", "Mc", "Me"):
        return False
    if "\U0001f3fb" <= right <= "\U0001f3ff" or "\U000e0020" <= right <= "\U000e007f":
        return False  # a skin tone or a part of a regional flag
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
    """Tell whether two jamo, or a syllable and a jamo, belong to one syllable."""
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
