"""Make passages of hits: drop repeated texts, and join neighbouring chunks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from worker.chunking.structure import section
from worker.passages import Passage
from worker.search.similarity import similarity
from worker.store import search
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.search import Chunk, Excluded, Hit, Place

SECTION_CHUNKS = 50  # before and after a passage, where its section is looked for

ScoredHit = tuple[Hit, float]


class Selection:
    """The hits of a page: each text once, whatever its title, and at most `per_document` chunks of a document."""

    def __init__(self, per_document: int | None) -> None:
        self.hits: list[ScoredHit] = []
        self._per_document = per_document
        self._seen: set[int] = set()  # keys of texts
        self._taken: Counter[int] = Counter()  # chunks by document

    def add(self, ranked: Iterable[ScoredHit]) -> None:
        """Select from hits that come after those before, best first."""
        for hit, score in ranked:
            if hit.text_key in self._seen or self._is_full(hit.doc):
                continue
            self._seen.add(hit.text_key)
            self._taken[hit.doc] += 1
            self.hits.append((hit, score))

    @property
    def excluded(self) -> Excluded:
        """What a further ranking can leave out, as it would be passed over here."""
        documents = frozenset(filter(self._is_full, self._taken))
        return Excluded(documents=documents, texts=frozenset(self._seen))

    def _is_full(self, doc: int) -> bool:
        return self._per_document is not None and self._taken[doc] >= self._per_document


@dataclass(frozen=True, kw_only=True)
class Details:
    """What each passage gets beside its text."""

    with_index: bool = False  # the name of its index
    # how much of its document is its context: chunks before and after it, or its section; only for one build
    around: int | Literal["section"] | None = None


PLAIN = Details()


def read_passages(
    connection: Connection,
    builds: Sequence[Build],
    groups: Sequence[Sequence[ScoredHit]],
    details: Details = PLAIN,
) -> Iterator[Passage]:
    """Yield one passage for each group of neighbouring chunks, with the score and similarity of its best chunk.

    A context is that in the first build.
    """
    around = details.around
    build = builds[0]
    ends = _ends(connection, builds, [(group[0][0], group[-1][0]) for group in groups])
    texts = search.spans(
        connection, [(first.rev, first.start, last.end) for first, last in ends if first is not last]
    )
    places = [(first.rev, first.ordinal, last.ordinal) for first, last in ends] if around else []
    reach = SECTION_CHUNKS if around == "section" else around or 0
    contexts = search.neighbours(connection, build, places, reach) if places else {}
    for group, (first, last) in zip(groups, ends, strict=True):
        similarities = [similar for hit, _ in group if (similar := similarity(hit, build)) is not None]
        yield Passage(
            document_id=first.document_id,
            title=first.title,
            metadata=first.metadata,
            text=first.text if first is last else texts[first.rev, first.start],
            start=first.start,
            end=last.end,
            chunks=(first.ordinal, last.ordinal),
            score=max(score for _, score in group),
            similarity=max(similarities, default=None),
            index=group[0][0].index_name if details.with_index else None,
            context=_context(contexts.get((first.rev, first.ordinal)), first.start, last.end, around),
        )


def _ends(
    connection: Connection, builds: Sequence[Build], ends: Sequence[tuple[Hit, Hit]]
) -> list[tuple[Chunk, Chunk]]:
    """The first and the last chunk of each passage, which is one chunk where they are the same."""
    found: dict[tuple[str, Place], Chunk] = {}
    for build in builds:
        places = {(hit.rev, hit.ordinal) for end in ends for hit in end if hit.index_name == build.index}
        if places:
            read = search.chunks(connection, build, list(places))
            found |= {(build.index, place): chunk for place, chunk in read.items()}
    return [
        (
            found[first.index_name, (first.rev, first.ordinal)],
            found[last.index_name, (last.rev, last.ordinal)],
        )
        for first, last in ends
    ]


def _context(
    wide: tuple[int, str] | None, start: int, end: int, around: int | Literal["section"] | None
) -> tuple[int, str] | None:
    """The text around a passage, cut to its section if that is asked for."""
    if wide is None or around != "section":
        return wide
    at, text = wide
    first, last = section(text, start - at, end - at)
    return at + first, text[first:last]
