"""What travels with a chunk into its embedding, from the document to the request."""

from tests.fixtures.application import HashBackend
from worker.configuration import IndexSettings
from worker.indexing import staging
from worker.indexing.draining.drainer import Drainer

SECTIONS = "# Handbook\n\n## Install\n\n" + "\n\n".join(
    f"Step {n} says what is to be done next." for n in range(20)
)


def put(
    url: str, index: IndexSettings, backend: HashBackend, drainer: Drainer, **document: object
) -> list[str]:
    """What the document made the backend embed."""
    known = len(backend.requests)
    staging.stage(url, index, backend, f"job-{known}-{document}", [{"id": "a", **document}], max_bytes=10_000)
    drainer.drain()
    return [text for request in backend.requests[known:] for text in request]


def test_the_headings_above_a_chunk_are_sent_with_it(
    url: str, index: IndexSettings, backend: HashBackend, drainer: Drainer
) -> None:
    sent = put(url, index, backend, drainer, text=SECTIONS, title="Manual")
    assert all(text.startswith("Manual\n") for text in sent)
    assert any(text.startswith("Manual\nHandbook > Install\nStep ") for text in sent)


def test_important_fields_are_sent_with_every_chunk_and_other_metadata_with_none(
    url: str, index: IndexSettings, backend: HashBackend, drainer: Drainer
) -> None:
    """A change of what is important embeds the document again, a change of other metadata nothing."""
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
