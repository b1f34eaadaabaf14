"""Find the structure of a text: headings and code blocks of Markdown, reStructuredText and HTML.

The marks of the three formats do not collide, so every text is searched for all of them. A guess of the format could
change with an edit. For the same reason the text around a mark decides its meaning: a deleted fence changes only the
blocks near it.
"""

import re
from collections.abc import Iterable, Iterator
from html import unescape
from typing import NamedTuple
from zlib import crc32

# The longest span of one search, since a search holds the interpreter lock.
_WINDOW_CHARACTERS = 200_000
_NEAR_CHARACTERS = 8  # on each side of a place
_HEADING_CHARACTERS = 300  # a longer line is not a heading

# A match ends with its line feed, and the next block starts there.
# A search is several times as fast if the pattern begins with a set of characters instead of alternatives.
_BLOCK_END = re.compile(
    r"[\n>](?:(?<=\n)(?:(?:[^\S\n]*+\n)++|(?=#{1,6}[ \t]|[ \t]*+<[hH][1-6]\b))|(?<=>)[ \t]*+(?=<[hH][1-6]\b))"
)
_HTML_HEADING = re.compile(r"<h([1-6])\b[^<>]*+>([^<]*+(?:<(?!/?h[1-6]\b)[^<]*+)*+)</h[1-6]>", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*+>")
_BLANK_LINES = re.compile(r"(?:[ \t]*+\n)*+")
# Every heading matches this: it begins with a mark or a tag, or has a mark below its first line.
_MAY_BE_HEADING = re.compile(
    r"""(?:[ \t]*+\n)*+(?:[ \t]*+<|\#|(['"^`*+.:_#=\-~])\1\1|[^\n]*+\n['"^`*+.:_#=\-~])"""
)
_CLOSING_MARKS = re.compile(r"[ \t]++#++\Z")
_NO_TITLE = re.compile(r"[-*+>][ \t]|\|")
# Fixed levels in the customary order. reStructuredText numbers by first use, so an edit could renumber all headings.
_UNDERLINES = dict.fromkeys("'\"^`*+.:_#", 4) | {"=": 1, "-": 2, "~": 3}


class Block(NamedTuple):
    """A part of the text. Each block starts at the end of the one before."""

    start: int
    end: int
    level: int | None = None  # of a heading: 0 or more
    title: str = ""  # of a heading
    code: bool = False


def blocks(text: str) -> Iterator[Block]:
    """Yield the whole text as paragraphs, headings and blocks of code, in order."""
    at = 0
    for start, end in _code(text):
        yield from _paragraphs(text, at, start)
        yield Block(start, end, code=True)
        at = end
    yield from _paragraphs(text, at, len(text))


def section(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the section around text[start:end]: from the last heading before or at its start to the next one."""
    headings = [block for block in blocks(text) if block.level is not None]
    first = max((block.start for block in headings if block.start <= start), default=0)
    last = min((block.start for block in headings if block.start >= end), default=len(text))
    return first, last


def _paragraphs(text: str, start: int, end: int) -> Iterator[Block]:
    while start < end:
        stop = _window_end(text, start, end)
        for match in _BLOCK_END.finditer(text, start, stop):
            yield from _with_heading(text, start, match.end())
            start = match.end()
        if start < stop:
            yield from _with_heading(text, start, stop)
        start = stop


def _window_end(text: str, start: int, end: int) -> int:
    """The end of a window: after a blank line, a line or a word near its full size, so that edits before it keep it."""
    full = start + _WINDOW_CHARACTERS
    if full >= end:
        return end
    stop = min(end, full + _WINDOW_CHARACTERS // 10)
    blank = text.find("\n\n", full, stop)
    if blank >= 0:
        return blank + 2
    found = re.compile(r"\n|(?<=\S)(?=[ \t])").finditer(text, full, stop)
    lines = [match.end() for match in found]
    return landmark(text, [at for at in lines if text[at - 1] == "\n"] or lines or range(full, stop))


def landmark(text: str, places: Iterable[int]) -> int:
    """Choose the place with the smallest hash of the text around it: it stays the same after an edit elsewhere."""
    return min(places, key=lambda at: near_hash(text, at))


def near_hash(text: str, at: int) -> tuple[int, int]:
    """Hash the text around a place. Among equal hashes the last place is smallest, so repeated text fills its chunk."""
    return crc32(text[max(0, at - _NEAR_CHARACTERS) : at + _NEAR_CHARACTERS].encode()), -at


def _with_heading(text: str, start: int, end: int) -> tuple[Block, ...]:
    heading = _MAY_BE_HEADING.match(text, start, end) and _heading(text, start, end)
    if not heading:
        return (Block(start, end),)
    return (heading, Block(heading.end, end)) if heading.end < end else (heading,)


def _heading(text: str, start: int, end: int) -> Block | None:
    at = start
    if text[at] == "\n":
        blank = _BLANK_LINES.match(text, start, end)
        at = blank.end() if blank else start
    if at == end:
        return None
    mark, below = text[at], _line_end(text, at, end)
    if mark in "< \t":
        found = _HTML_HEADING.match(text, at, end)
        if found and found.end() - at <= _HEADING_CHARACTERS:
            return Block(start, found.end(), int(found[1]), _plain(found[2]))
        return None
    if mark not in _UNDERLINES and (below == end or text[below] not in _UNDERLINES):
        return None
    line = text[at : min(below, at + _HEADING_CHARACTERS)]
    if at + len(line) < below:
        return None
    if mark == "#" and line.strip("# \t\n"):
        level = len(line) - len(line.lstrip("#"))
        if 1 <= level <= 6 and line[level] in " \t":
            return Block(start, below, level, _CLOSING_MARKS.sub("", line[level:].strip()))
        return None
    return _underlined(text, start, below, end, line)


def _underlined(text: str, start: int, below: int, end: int, line: str) -> Block | None:
    over = _rule(line)
    if over:
        line = text[below : min(_line_end(text, below, end), below + _HEADING_CHARACTERS)]
        below += len(line)
    mark = _rule(text[below : min(_line_end(text, below, end), below + _HEADING_CHARACTERS)])
    title = line.strip()
    if not mark or not title or _rule(line) or (over and over != mark):
        return None
    if not over and _NO_TITLE.match(title):
        return None  # the line is a rule below a list, a quotation or a table
    # in reStructuredText, an underline with another mark is at least as long as its title
    if mark[0] not in "=-" and len(mark) < len(title):
        return None
    return Block(start, _line_end(text, below, end), 0 if over else _UNDERLINES[mark[0]], title)


def _rule(line: str) -> str:
    """Return the line if it repeats one mark three times or more; otherwise an empty string."""
    line = line.strip()
    return line if len(line) >= 3 and line[0] in _UNDERLINES and line == line[0] * len(line) else ""


def _line_end(text: str, at: int, end: int) -> int:
    found = text.find("\n", at, end)
    return end if found < 0 else found + 1


def _plain(html: str) -> str:
    return " ".join(unescape(_TAG.sub("", html)).split())


def _code(text: str) -> Iterator[tuple[int, int]]:
    """Yield closed blocks of code in whole lines: fenced, indented after `::`, or between <pre> and </pre>."""
    at = 0
    for start, end in sorted(
        [*_fenced(text, "```"), *_fenced(text, "~~~"), *_literal(text), *_preformatted(text)]
    ):
        if start >= at:
            yield start, end
            at = end


def _fenced(text: str, fence: str) -> Iterator[tuple[int, int]]:
    """Pair fences. One with a language opens a block; for another the blank lines around it decide, then the order."""
    opened = None
    for at in _each(text, fence):
        start, indent = _line_start(text, at)
        if indent is None or indent.strip(" \t>"):
            continue
        end = _line_end(text, at, min(len(text), at + _HEADING_CHARACTERS))
        info = text[at:end].lstrip(fence[0]).strip()
        if fence[0] in info:
            continue  # code within a line
        above_blank = not text[max(0, start - 80) : max(0, start - 1)].rpartition("\n")[2].strip()
        below_blank = not text[end : _line_end(text, end, end + 80)].strip()
        if info or (above_blank and not below_blank):
            opened = start
        elif opened is not None:
            yield opened, end
            opened = None
        elif above_blank or not below_blank:
            opened = start


def _literal(text: str) -> Iterator[tuple[int, int]]:
    """Yield indented blocks of reStructuredText, after a paragraph that ends with `::` or after a code directive."""
    done = 0
    for mark in ("::\n", ".. code"):
        for at in _each(text, mark):
            if at < done:
                continue
            _, indent = _line_start(text, at) if mark != "::\n" else (0, "")
            if indent is None or indent.strip():
                continue
            start = _line_end(text, at, len(text))
            line = text[max(0, at - _HEADING_CHARACTERS) : at].rpartition("\n")[2]
            end = _indented(text, start, len(line) - len(line.lstrip()))
            if end:
                yield start, end
                done = end if mark == "::\n" else done


def _indented(text: str, start: int, than: int) -> int | None:
    """The end of the block of lines that are blank or indented like the first; `None` unless that is over `than`."""
    blank = _BLANK_LINES.match(text, start)
    at = blank.end() if blank else start
    line = text[at : at + _HEADING_CHARACTERS]
    indent = line[: len(line) - len(line.lstrip(" \t"))]
    if len(indent) <= than or not line.strip():
        return None
    end = at
    while at < len(text):
        stop = _line_end(text, at, len(text))
        if text.startswith(indent, at):
            end = stop
        elif text[at:stop].strip():
            break
        at = stop
    return end


def _preformatted(text: str) -> Iterator[tuple[int, int]]:
    for tag in ("pre>", "PRE>"):
        end = 0
        for at in _each(text, "</" + tag):
            start = max(text.rfind("<" + tag[:3], end, at), end)
            if text.startswith("<" + tag[:3], start):
                yield start, at + len(tag) + 2
            end = at + len(tag) + 2


def _each(text: str, mark: str) -> Iterator[int]:
    at = text.find(mark)
    while at >= 0:
        yield at
        at = text.find(mark, at + len(mark))


def _line_start(text: str, at: int) -> tuple[int, str | None]:
    """The start of the line of `at`, and the text before `at` in that line; `None` if that text is long."""
    near = text[max(0, at - 40) : at]
    before = near.rpartition("\n")[2]
    if before == near and at > len(near):
        return at, None
    return at - len(before), before
