"""Widen the passages of a prompt by the text around them (CONTEXT of an index). Pure functions.

Each character of a document is sent once: a passage gets neither the text of another passage, nor the context of a
better one.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from worker.passages import Passage

# that a cut may have split; a text without spaces stays
_FIRST_WORD, _LAST_WORD = re.compile(r"\A\S*(?=\s)"), re.compile(r"(?<=\s)\S*\Z")


@dataclass(frozen=True, kw_only=True)
class Room:
    """Characters that may be sent with a passage."""

    before: int = 0
    after: int = 0

    @property
    def most(self) -> int:
        return max(self.before, self.after)


def rooms(passages: Sequence[Passage]) -> list[Room]:
    """Return the room of each passage, best first: its context up to the next text that is sent anyway."""
    taken: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for passage in passages:
        taken[passage.document_id].append((passage.start, passage.end))
    found = []
    for passage in passages:
        others = taken[passage.document_id]
        room = _room(passage, others)
        others.append((passage.start - room.before, passage.end + room.after))
        found.append(room)
    return found


def _room(passage: Passage, taken: Sequence[tuple[int, int]]) -> Room:
    if passage.context is None:
        return Room()
    start, text = passage.context
    first, last = min(start, passage.start), max(start + len(text), passage.end)
    for other_start, other_end in taken:
        if other_start < passage.start:
            first = max(first, min(other_end, passage.start))
        if other_end > passage.end:
            last = min(last, max(other_start, passage.end))
    return Room(before=passage.start - first, after=last - passage.end)


def widened(passage: Passage, room: Room, reach: int) -> str:
    """Return the text of a passage with at most `reach` characters of its room on each side, cut between words."""
    if passage.context is None:
        return passage.text
    start, text = passage.context
    at, end = passage.start - start, passage.end - start
    before = text[max(0, at - min(reach, room.before)) : at]
    after = text[end : end + min(reach, room.after)]
    if reach < room.before:
        before = _FIRST_WORD.sub("", before)
    if reach < room.after:
        after = _LAST_WORD.sub("", after)
    return f"{before}{passage.text}{after}"
