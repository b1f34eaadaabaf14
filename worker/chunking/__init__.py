"""Cut a text into chunks: exact spans within the token limits, at boundaries that depend on nearby text only.

The structure of the text cuts it into units. A chunk ends at the end of a unit, between a third of the limit and the
limit. It ends before a heading if there is one, otherwise between two paragraphs. Among several such places it ends
at the one with the smallest hash. So an edit changes the chunks around it, and the boundaries after it stay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from worker.chunking.units import INSIDE, Count, Unit, halves, units
from worker.documents import Chunk, digest, embedding_text
from worker.errors import SettingsError
from worker.tokens import CUT_TOKENS, JOINT, Counter
from worker.words import visible

# part of a build's recipe: another version makes different chunks
CHUNKER = "window-min/3"

MIN_TOKENS = 8  # of a chunk: room for a character of four bytes and the tokens that a tokenizer adds
MIN_FILL = 0.33  # of the limit, before a chunk may end
MAX_TITLE_SHARE = 0.25  # of TOKEN_LIMIT, for title and headings
PATH_SEPARATOR = " > "

_UNIT_TOKENS = 96
_WORD_CHARACTERS = 40  # how far from the end of a chunk to look for the start of its last word
_UNITS_PER_CHUNK = 4  # at least, so that there are several places to end a chunk


def chunk(
    text: str,
    *,
    title: str = "",
    prefix: str = "",
    chunk_tokens: int,
    token_limit: int,
    overlap_tokens: int = 0,
    count: Count,
    size: Count | None = None,
    sections: bool = False,
) -> list[Chunk]:
    """Cut a cleaned text into chunks, in order; a text of white space has none.

    Each chunk c has `text[c.start:c.end] == c.text`, without white space at its ends, and
    `size(c.text) <= chunk_tokens`. Its `c.tokens` are `count(embedding_text(prefix, c.heading, c.text))`, at most
    `token_limit`. The chunks together cover all of the text except white space. With `overlap_tokens` (at most half of
    `chunk_tokens`), a chunk starts with the last units of the chunk before it that fit into the overlap.

    `title` is the result of `embedding_title` and the heading of each chunk. With `sections`, the last two headings
    above the chunk follow the title, unless the chunk starts with a heading.
    Give `size` if `count` is only an upper bound: then `count` applies to `token_limit` alone.
    Raises SettingsError if prefix and title leave no room.
    """
    cutter = _Chunker(
        text=text,
        title=title,
        prefix=prefix,
        chunk_tokens=chunk_tokens,
        token_limit=token_limit,
        count=count,
        size=size or count,
        adds_up=size is None
        and isinstance(count, Counter)
        and count.adds_up(text)
        and all(visible(part) == part for part in (text, title)),
        sections=sections,
    )
    return list(cutter.chunks(overlap_tokens))


def embedding_title(*lines: str, token_limit: int, count: Count) -> str:
    """Join the title and the other strings that are embedded with every chunk, cut to a quarter of the limit."""
    title = "\n".join(line for line in map(_one_line, lines) if line)
    return cut(title, int(token_limit * MAX_TITLE_SHARE), count)


@dataclass(kw_only=True)
class _Chunker:
    """Cuts one text into chunks."""

    text: str
    title: str
    prefix: str
    chunk_tokens: int
    token_limit: int
    count: Count
    size: Count
    adds_up: bool  # whether the counts of units give the count of a chunk, except at its ends
    sections: bool

    def chunks(self, overlap: int) -> Iterator[Chunk]:
        # reserve a quarter for the headings, so that a heading never moves the boundaries
        lead = embedding_text(self.prefix, "" if self.sections else self.title, "")
        kept = int(self.token_limit * MAX_TITLE_SHARE) + CUT_TOKENS if self.sections else 0
        room = self.token_limit - self.count(lead) - kept - CUT_TOKENS
        limit = min(self.chunk_tokens, room)
        if limit < MIN_TOKENS:
            raise self._too_small()
        overlap = min(overlap, limit // 2)
        measure = self._measure(limit, room)
        unit_limit = max(MIN_TOKENS, min(_UNIT_TOKENS, limit // _UNITS_PER_CHUNK))
        found = units(self.text, unit_limit, limit - overlap, measure)
        before: Sequence[Unit] = ()
        waiting: list[Unit] = []
        tokens = 0
        while True:
            while tokens <= limit and (unit := next(found, None)):
                waiting.append(unit)
                tokens += unit.tokens
            if not waiting:
                return
            made, before = self._close(before, waiting, limit - overlap, overlap, measure)
            if made.text:  # a half of a unit may be white space alone
                yield made
            del waiting[: len(before)]
            tokens = sum(unit.tokens for unit in waiting)

    def _measure(self, limit: int, room: int) -> Count:
        """Return a count for units, so that units within `limit` make a chunk within both limits."""
        if isinstance(self.count, Counter) and self.adds_up:
            return self.count.inside
        if self.size is self.count:
            return self.count
        return lambda text: max(self.size(text), -(-self.count(text) * limit // room))

    def _close(
        self, before: Sequence[Unit], waiting: list[Unit], limit: int, overlap: int, measure: Count
    ) -> tuple[Chunk, Sequence[Unit]]:
        """Return the next chunk and its units. Removes units while their chunk is over a limit."""
        repeated = _reach_back(before, overlap)
        while True:
            chosen = waiting[: _last(waiting, limit) + 1]
            made = self._chunk([*repeated, *chosen])
            if made:
                return made, chosen
            if repeated:
                repeated = []
            elif len(chosen) > 1:
                limit = min(limit, sum(unit.tokens for unit in chosen)) * 9 // 10
            elif len(parts := halves(self.text, chosen[0], measure)) > 1:
                waiting[:1] = parts
            else:
                raise self._too_small()

    def _chunk(self, chosen: Sequence[Unit]) -> Chunk | None:
        """Make the chunk of these units; `None` if it is over a limit."""
        start, end = _strip(self.text, chosen[0].start, chosen[-1].end)
        body = self.text[start:end]
        heading = self._heading(chosen[0].path)
        sent = self._sent(heading, body)
        sizes = self._added_up(chosen, start, end, sent[: len(sent) - len(body)])
        size, tokens = sizes or self._counted(body, sent)
        if size > self.chunk_tokens or tokens > self.token_limit:
            return None
        return Chunk(start=start, end=end, heading=heading, text=body, tokens=tokens, hash=digest(sent))

    def _sent(self, heading: str, body: str) -> str:
        if heading and self.adds_up:  # the text has only visible characters, so its parts have no others
            return f"{visible(f'{self.prefix}{heading}')}\n{body}"
        return embedding_text(self.prefix, heading, body)

    def _counted(self, body: str, sent: str) -> tuple[int, int]:
        tokens = self.count(sent)
        return tokens if body == sent and self.size is self.count else self.size(body), tokens

    def _added_up(self, chosen: Sequence[Unit], start: int, end: int, lead: str) -> tuple[int, int] | None:
        """Sum up the tokens of text[start:end], without and with `lead`, from its units; `None` if they do not add up.

        Only the ends are counted again, and units that do not meet at a joint.
        """
        if not isinstance(self.count, Counter) or not self.adds_up:
            return None
        text, inside = self.text, self.count.inside
        spare = list(map(self._overcount, chosen, chosen[1:], repeat(inside)))
        first = JOINT.search(text, start + 1, chosen[0].end)
        joints = [
            match.start()
            for match in JOINT.finditer(text, max(chosen[-1].start, end - _WORD_CHARACTERS), end)
        ]
        if not first or not joints or first.start() > joints[-1] or None in spare:
            return None
        head, tail = text[start : first.start()], text[joints[-1] : chosen[-1].end]
        tokens = sum(unit.tokens for unit in chosen) - sum(filter(None, spare))
        tokens -= inside(text[chosen[0].start : first.start()])
        tokens += inside(text[joints[-1] : end]) - inside(tail) if joints[-1] + len(tail) > end else 0
        size = tokens + self.count(head)
        return size, tokens + self.count(lead + head) if lead else size

    def _overcount(self, before: Unit, after: Unit, inside: Count) -> int | None:
        """How many tokens fewer two neighbours have together than each by itself; `None` if that is not known.

        It is 0 at a joint. Elsewhere, as between blank lines, only the words around the place are counted again.
        """
        text, place = self.text, after.start
        if JOINT.match(text, place):
            return 0
        joints = [
            match.start()
            for match in JOINT.finditer(text, max(before.start, place - _WORD_CHARACTERS), place)
        ]
        end = JOINT.search(text, place + 1, after.end)
        if not joints or not end:
            return None
        left, right = text[joints[-1] : place], text[place : end.start()]
        return inside(left) + inside(right) - inside(left + right)

    def _heading(self, path: tuple[str, ...]) -> str:
        """The title, and below it the headings above the chunk, without those that the title contains."""
        if not self.sections or not path:
            return self.title
        said = _words(self.title)
        names = [name for name in map(_one_line, path) if _words(name) not in said]
        heading = "\n".join(filter(None, [self.title, PATH_SEPARATOR.join(names)]))
        return cut(heading, int(self.token_limit * MAX_TITLE_SHARE), self.count)

    def _too_small(self) -> SettingsError:
        return SettingsError(
            f"CHUNK_TOKENS ({self.chunk_tokens}) and TOKEN_LIMIT ({self.token_limit}), minus prefix and title, leave "
            f"no room for {MIN_TOKENS} tokens or for a single character: raise them, or shorten DOCUMENT_PREFIX"
        )


def _last(waiting: Sequence[Unit], limit: int) -> int:
    """The position of the last unit of a chunk that starts with the first unit, by the rule of this module."""
    tokens, best, lowest, filled = 0, None, (INSIDE + 1, 0), MIN_FILL * limit
    for at, unit in enumerate(waiting):
        tokens += unit.tokens
        if tokens < filled:
            continue
        if tokens > limit and at:
            return at - 1 if best is None else best
        if at + 1 == len(waiting):
            break
        after = waiting[at + 1]
        if after.opens > lowest[0]:
            continue
        # Hash both sides, since entries of one form end alike. Of equal hashes take the last, which fills the chunk.
        key = (after.opens, (unit.hash + 3 * after.hash) % 2**32)
        if key <= lowest:
            best, lowest = at, key
    return len(waiting) - 1


def _reach_back(before: Sequence[Unit], overlap: int) -> list[Unit]:
    """The last units of a chunk that fit into the overlap."""
    first = len(before)
    while first > 0 and before[first - 1].tokens <= overlap:
        first -= 1
        overlap -= before[first].tokens
    return list(before[first:])


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    span = text[start:end]
    start += len(span) - len(span.lstrip())
    return start, start + len(span.strip())


def _words(text: str) -> str:
    """Normalise a text to look for whole words in it: " install the guide " has " guide " but not " gui "."""
    return f" {' '.join(word.strip('.,:;!?()[]') for word in text.casefold().split())} "


def _one_line(text: str) -> str:
    return " ".join(text.split())


def cut(text: str, limit: int, count: Count) -> str:
    """Return the start of a text that has at most `limit` tokens."""
    while text and (tokens := count(text)) > limit:
        text = text[: min(len(text) - 1, len(text) * limit // tokens)].rstrip()
    return text
