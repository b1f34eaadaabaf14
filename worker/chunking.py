"""Text to chunks: exact spans, never over a limit, with boundaries that the content chooses.

A text is cut into units (paragraphs; where these are long, lines, sentences, at last pieces of a sentence).
From the start of a chunk, among the units that end between 0.4 of the limit and the limit, the chunk closes
after the one with the smallest hash. So boundaries depend on nearby text only: an edit changes the chunks
around it, and the next boundaries fall where they fell before (1.0 to 1.7 new chunks an edit on average,
against 6 to 16 for filling each chunk as far as it goes).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

from semchunk.semchunk import chunk as split_semantically

from worker.documents import Chunk, digest, embedding_text
from worker.errors import SettingsError

Count = Callable[[str], int]
_Pieces = tuple[list[str], list[tuple[int, int]]]

# part of a build's recipe: another version cuts other chunks
CHUNKER = "window-min/1"

MIN_TOKENS = 8  # of a chunk: room for a character of four bytes and what a tokenizer adds around it
MIN_FILL = 0.4  # of the limit, before a chunk may close
MAX_TITLE_SHARE = 0.25  # of TOKEN_LIMIT

_UNIT_TOKENS = 96
_UNITS_PER_CHUNK = 4  # at least: a window of fewer units has little to choose from
# Two texts joined may count more than the sum of both, by up to 2 tokens (measured: BPE merges differently).
_JOIN_TOKENS = 2
# A longer text than this many characters a token is taken to be over a limit without counting it.
_CHARACTERS_PER_TOKEN = 5
# No sentence is this long; semchunk's recursion, and what it counts again, grow with what it is given.
_PIECE_CHARACTERS = 10_000

_SEPARATORS = (
    re.compile(r"\n[^\S\n]*\n\s*"),  # paragraphs
    re.compile(r"[\r\n]\s*"),  # lines
    re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*"),  # sentences
)


@dataclass(frozen=True, slots=True)
class _Unit:
    start: int
    end: int
    tokens: int  # with its share of the white space before it
    hash: bytes


def chunk(
    text: str,
    *,
    title: str = "",
    prefix: str = "",
    chunk_tokens: int,
    token_limit: int,
    overlap_tokens: int = 0,
    count: Count,
) -> list[Chunk]:
    """Cut a cleaned text into chunks, in order; a text of white space has none.

    For each chunk c: `text[c.start:c.end] == c.text`, which starts and ends with other than white space;
    `count(c.text) <= chunk_tokens`; `c.tokens`, which is `count(embedding_text(prefix, title, c.text))`, is
    at most `token_limit`. Together they cover all but white space. With `overlap_tokens` (at most half of
    `chunk_tokens`) a chunk starts with as many units of its predecessor as fit into them.
    `title` is what `embedding_title` returned. Raises SettingsError when prefix and title leave no room.
    """
    room = token_limit - count(embedding_text(prefix, title, "")) - _JOIN_TOKENS
    if min(chunk_tokens, room) < MIN_TOKENS:
        raise _too_small(chunk_tokens, token_limit)
    limit = min(chunk_tokens, room)
    overlap = min(overlap_tokens, limit // 2)

    def measure(start: int, end: int) -> Chunk | None:
        """The chunk of a span; None when it is over a limit."""
        body = text[start:end]
        sent = embedding_text(prefix, title, body)
        tokens = body_tokens = count(body)
        if sent != body:
            tokens = count(sent)
        if body_tokens > chunk_tokens or tokens > token_limit:
            return None
        return Chunk(start=start, end=end, heading=title, text=body, tokens=tokens, hash=digest(sent))

    try:
        units = list(_units(text, max(MIN_TOKENS, min(_UNIT_TOKENS, limit // _UNITS_PER_CHUNK)), count))
    except RecursionError:
        # semchunk halves a single character that is over the limit for ever
        raise _too_small(chunk_tokens, token_limit) from None
    chunks: list[Chunk] = []
    first = 0
    while first < len(units):
        last = _close(units, first, limit - overlap)
        start = units[_reach_back(units, first, overlap)].start
        found = measure(start, units[last].end)
        if found is None and start < units[first].start:
            found = measure(units[first].start, units[last].end)
        while found is None and last > first:
            last = first + (last - first) // 2
            found = measure(units[first].start, units[last].end)
        if found is None:
            raise _too_small(chunk_tokens, token_limit)
        chunks.append(found)
        first = last + 1
    return chunks


def embedding_title(title: str, *, token_limit: int, count: Count) -> str:
    """The title as it travels with every chunk: on one line, and cut to a quarter of the limit.

    Whoever rebuilds the string of a chunk passes the same title through this function first.
    """
    title = " ".join(title.split())
    limit = int(token_limit * MAX_TITLE_SHARE)
    while title and (tokens := count(title)) > limit:
        title = title[: min(len(title) - 1, len(title) * limit // tokens)].rstrip()
    return title


def _too_small(chunk_tokens: int, token_limit: int) -> SettingsError:
    return SettingsError(
        f"CHUNK_TOKENS ({chunk_tokens}) and TOKEN_LIMIT ({token_limit}), less prefix and title, leave no "
        f"room for {MIN_TOKENS} tokens or for a single character: raise them, or shorten DOCUMENT_PREFIX"
    )


def _close(units: list[_Unit], first: int, limit: int) -> int:
    """The last unit of the chunk that starts at `first`: the window-min rule of the module."""
    tokens, best, last = 0, None, first
    for last in range(first, len(units)):
        tokens += units[last].tokens
        if tokens > limit and last > first:
            return max(first, last - 1) if best is None else best
        # of equal hashes the last one: repeated lines fill their chunk
        if tokens >= MIN_FILL * limit and (best is None or units[last].hash <= units[best].hash):
            best = last
    return last


def _reach_back(units: list[_Unit], first: int, overlap: int) -> int:
    while first > 0 and units[first - 1].tokens <= overlap:
        first -= 1
        overlap -= units[first].tokens
    return first


def _units(text: str, limit: int, count: Count) -> Iterator[_Unit]:
    end = 0
    for start, stop, tokens in _spans(text, 0, len(text), limit, count, _SEPARATORS):
        # white space is a token or more; tokenizers have tokens for runs of it
        gap = 1 + (start - end) // 16
        core = " ".join(text[start:stop].split())  # so that a new indentation or line width moves no boundary
        yield _Unit(start, stop, tokens + gap, blake2b(core.encode(), digest_size=8).digest())
        end = stop


def _spans(
    text: str, start: int, end: int, limit: int, count: Count, separators: tuple[re.Pattern[str], ...]
) -> Iterator[tuple[int, int, int]]:
    """Spans of at most `limit` tokens with their counts, none of them white space or with it at its ends."""
    start, end = _strip(text, start, end)
    if start == end:
        return
    if end - start <= limit * _CHARACTERS_PER_TOKEN:
        tokens = count(text[start:end])
        if tokens <= limit:
            yield start, end, tokens
            return
    if not separators:
        yield from _pieces(text, start, end, limit, count)
        return
    at = start
    for match in separators[0].finditer(text, start, end):
        yield from _spans(text, at, match.start(), limit, count, separators[1:])
        at = match.end()
    yield from _spans(text, at, end, limit, count, separators[1:])


def _pieces(text: str, start: int, end: int, limit: int, count: Count) -> Iterator[tuple[int, int, int]]:
    """What has no structure left that this module knows."""
    while start < end:
        stop = min(end, start + _PIECE_CHARACTERS)
        if stop < end:
            space = max(text.rfind(" ", start, stop), text.rfind("\t", start, stop))
            stop = space if space > start else stop
        # with offsets=True, and only then, the result is a pair
        _, offsets = cast(
            _Pieces, split_semantically(text[start:stop], limit, count, memoize=False, offsets=True)
        )
        for first, last in offsets:
            first, last = _strip(text, start + first, start + last)
            yield first, last, count(text[first:last])
        start = stop


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    span = text[start:end]
    start += len(span) - len(span.lstrip())
    return start, start + len(span.strip())
