"""The cost of a search depends on the rows that it returns, and not on the chunks that it skips."""

from collections.abc import Callable

import pytest

from benchmarks.skipping import CROWDS, OTHERS, SEARCHES, buffers, loaded
from worker.index import Index
from worker.search.queries import SearchQuery, SimilarQuery
from worker.search.retrieval import retrieve
from worker.search.similar import find_similar
from worker.store import rarity, search

SMALL, LARGE = 2_500, 25_000


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that both crowds exceed, as a crowd of 100,000 exceeds the usual ones."""
    for module, name in ((search, "EXACT_CHUNKS"), (rarity, "LEXICAL_CHUNKS"), (search, "RANKED_CHUNKS")):
        monkeypatch.setattr(module, name, 2_000)


@pytest.mark.slow
@pytest.mark.parametrize("crowd", CROWDS)
def test_a_chunk_that_a_search_skips_costs_less_than_half_a_buffer(
    databases: Callable[[], str], crowd: str
) -> None:
    read = {}
    for size in (SMALL, LARGE):
        with loaded(databases(), crowd, size) as index:
            read[size] = {name: buffers(ask, index) for name, ask in SEARCHES.items()}
    for name in SEARCHES:
        assert read[LARGE][name] - read[SMALL][name] < (LARGE - SMALL) / 2, (name, read)


def test_what_is_behind_the_skipped_chunks_is_found(databases: Callable[[], str]) -> None:
    for crowd, documents in (("chunks of 4 documents", 4), ("one text, many titles", 1)):
        with loaded(databases(), crowd, SMALL) as index:
            for mode in ("vector", "hybrid"):
                query = SearchQuery(text="apples in the garden", limit=100, per_document=1, mode=mode)
                assert len({row.document_id for row in retrieve(index, query)}) == documents + OTHERS
            found = find_similar(index, SimilarQuery(id="1", limit=100))
            assert len({row.document_id for row in found}) == min(
                100, SMALL - 1 if documents == 1 else 3 + OTHERS
            )


def test_pages_behind_each_other_show_every_document_once(databases: Callable[[], str]) -> None:
    def page(index: Index, offset: int) -> list[str]:
        query = SearchQuery(
            text="apples in the garden", limit=10, offset=offset, per_document=1, mode="hybrid"
        )
        return [row.document_id for row in retrieve(index, query)]

    with loaded(databases(), "chunks of 4 documents", SMALL) as index:
        pages = [page(index, offset) for offset in range(0, 60, 10)]
    assert [len(rows) for rows in pages] == [10, 10, 10, 10, 4, 0]
    assert len({id for rows in pages for id in rows}) == 4 + OTHERS
