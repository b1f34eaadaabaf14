"""Real prose that is on every machine: Python's own language reference."""

from collections.abc import Iterator
from itertools import islice
from pydoc_data.topics import topics


def documents(count: int, *, edition: int = 0) -> list[dict[str, str]]:
    """Documents of 3 to 6 kB, no two with a chunk in common; every `edition` has other words."""
    return [
        {"id": str(number), "title": f"Document {number}", "text": text}
        for number, text in enumerate(islice(_texts(edition), count))
    ]


def _texts(edition: int) -> Iterator[str]:
    lap = 0
    while True:
        for name in sorted(topics):
            text = topics[name]
            for at in range(0, len(text) - 3_000, 6_000):
                # a word of its own in each paragraph: nothing is shared, so nothing is saved by sharing
                mark = f"({name} {at} {lap} {edition})\n\n"
                yield text[at : at + 6_000].replace("\n\n", mark)
        lap += 1
