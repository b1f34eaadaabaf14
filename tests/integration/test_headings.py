"""Titles, headings and important metadata are embedded with each chunk."""

from tests.fixtures.application import HashBackend, make_index
from worker.configuration import IndexSettings
from worker.indexing import staging
from worker.indexing.draining.drainer import Drainer

SECTIONS = "# Handbook\n\n## Install\n\n" + "\n\n".join(
    f"Step {n} says what is to be done next." for n in range(20)
)


def put(
    url: str, index: IndexSettings, backend: HashBackend, drainer: Drainer, **document: object
) -> list[str]:
    """Index a document; return the texts that the backend embedded for it."""
    known = len(backend.requests)
    target = make_index(url, index, backend)
    staging.stage(target, f"job-{known}-{document}", [{"id": "a", **document}], max_bytes=10_000)
    drainer.drain()
    return [text for request in backend.requests[known:] for text in request]


def test_headings_above_a_chunk_are_embedded_with_it(
    url: str, index: IndexSettings, backend: HashBackend, drainer: Drainer
) -> None:
    sent = put(url, index, backend, drainer, text=SECTIONS, title="Manual")
    assert all(text.startswith("Manual\n") for text in sent)
    assert any(text.startswith("Manual\nHandbook > Install\nStep ") for text in sent)


def test_only_important_metadata_is_embedded_with_every_chunk(
    url: str, index: IndexSettings, backend: HashBackend, drainer: Drainer
) -> None:
    """A change of important metadata embeds the document again; other metadata changes embed nothing."""
    fields = {"text": "It chases mice.", "title": "Cats"}
    assert put(url, index, backend, drainer, **fields, metadata={"important": ["A pet", "grey"], "n": 1}) == [
        "Cats\nA pet\ngrey\nIt chases mice."
    ]
    assert (
        put(url, index, backend, drainer, **fields, metadata={"important": ["A pet", "grey"], "n": 2}) == []
    )
    assert put(url, index, backend, drainer, **fields, metadata={"important": "A pet"}) == [
        "Cats\nA pet\nIt chases mice."
    ]
