"""Make passages of hits: drop repeated texts, and join neighbouring chunks."""

from collections.abc import Iterator, Sequence

from worker.documents import Passage
from worker.search.similarity import similarity
from worker.store import search
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.search import Hit

ScoredHit = tuple[Hit, float]


def distinct(ranked: Sequence[ScoredHit], per_document: int | None) -> Iterator[ScoredHit]:
    """Yield each text once, whatever its title, and at most `per_document` chunks of one document."""
    seen: set[str] = set()
    taken: dict[str, int] = {}
    for hit, score in ranked:
        if hit.text in seen or (per_document is not None and taken.get(hit.document_id, 0) >= per_document):
            continue
        seen.add(hit.text)
        taken[hit.document_id] = taken.get(hit.document_id, 0) + 1
        yield hit, score


def read_passages(
    connection: Connection, build: Build, groups: Sequence[Sequence[ScoredHit]]
) -> Iterator[Passage]:
    """Yield one passage for each group of neighbouring chunks, with the score and similarity of its best chunk."""
    ends = [(group[0][0], group[-1][0]) for group in groups]
    texts = search.spans(
        connection, [(first.rev, first.start, last.end) for first, last in ends if first is not last]
    )
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
        )
