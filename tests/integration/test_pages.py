"""The pages of a search have the same rows as one large page."""

import random

import pytest

from tests.fixtures.application import Application
from worker.search.queries import MODES
from worker.store import connection

NOUNS = "owl house window street river bridge tower market garden forest"


@pytest.mark.slow
@pytest.mark.parametrize("per_document", [None, 1, 2])
@pytest.mark.parametrize(
    ("mode", "threshold"), [*((mode, 0.0) for mode in MODES), ("vector", 0.65), ("hybrid", 0.65)]
)
def test_pages_together_equal_one_large_page_in_every_mode(
    application: Application,
    mode: str,
    threshold: float,
    per_document: int | None,
) -> None:
    """Rows below the threshold, further rows of a document and merged neighbours do not count for a page.

    So no row is lost between two pages, and a passage has the same chunks on every page.
    """
    chosen = random.Random(5)

    def text() -> str:
        return "\n\n".join(" ".join(chosen.choices(NOUNS.split(), k=12)) + "." for _ in range(12))

    application.put(*[{"id": n, "text": text()} for n in range(12)])
    with connection.checkout(application.url) as conn:
        conn.execute("ANALYZE")  # the rarity of words depends on it, and autovacuum may run between two pages

    def rows(limit: int, offset: int = 0) -> list[tuple[str, tuple[int, int], float]]:
        found = application.passages(
            "the owl at the window of the tower",
            mode=mode,
            limit=limit,
            offset=offset,
            similarity_threshold=threshold,
            per_document=per_document,
        )
        return [(row.document_id, row.chunks, row.score) for row in found]

    whole = rows(12)
    assert len(whole) >= 4
    assert [row for at in range(0, 12, 3) for row in rows(3, at)] == whole
