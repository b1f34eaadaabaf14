"""Retrieve the passages that fit a question.

A search reads the live build once and embeds its questions with the recipe of that build. So a switch of builds during
the search cannot compare vectors of two different models.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.documents import Passage
from worker.index import Index
from worker.observability import events
from worker.search.embedding import embed_questions
from worker.search.modes import Ranker
from worker.search.passages import ScoredHit, Selection, read_passages
from worker.search.queries import SearchQuery
from worker.search.ranking import WINDOW, merge_neighbours
from worker.search.similarity import check_threshold, passes_threshold
from worker.store import builds, connection, search, status
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import EVERYTHING, compile_filter

MIN_CANDIDATES = 10  # contents in a ranking; one that does not fill the page is followed by the next contents


def retrieve(index: Index, query: SearchQuery) -> list[Passage]:
    """Return the passages that fit the question best, best first; none while the index is empty.

    Raises InvalidQuery for a filter that cannot be compiled or lacks the tenant, SettingsError when the backend no
    longer makes the vectors that the index holds, TemporaryError when Postgres or the provider does not answer.
    """
    with events.search(index.name, query.mode):
        condition = compile_filter(query.filter, tenant_field=index.settings.tenant_field)
        with connection.checkout(index.url) as conn:
            build = builds.live(conn, index.name)
        if build is None:
            return []
        check_threshold(query.similarity_threshold, build)
        vectors = None if query.mode == "text" else embed_questions(index, build, query.texts)
        with (
            connection.checkout(index.url) as conn,
            search.snapshot(conn, ef_search=index.settings.ef_search),
        ):
            ranker = Ranker(
                connection=conn,
                build=build,
                query=query,
                vectors=vectors,
                where=condition,
                weights=index.settings.hybrid_weights,
            )
            return list(read_passages(conn, build, _page(ranker)))


def emptiness(index: Index) -> str | None:
    """Return the sentence about an index that has nothing to search; `None` if one of its documents is searchable."""
    with connection.checkout(index.url) as conn:
        any_documents, any_searchable = status.holdings(conn, builds.live(conn, index.name))
    if any_searchable:
        return None
    missing = "no searchable documents yet" if any_documents else "no documents"
    return f"The index {index.name!r} holds {missing}."


def rank_documents(
    connection: Connection,
    build: Build,
    query: SearchQuery,
    vectors: Sequence[NDArray[np.float32]] | None,  # of the questions; None in mode "text"
    *,
    weights: tuple[float, float],
) -> list[str]:
    """Return the ids of the documents that a search of this build would find, best first."""
    with search.snapshot(connection):
        ranker = Ranker(
            connection=connection,
            build=build,
            query=query,
            vectors=vectors,
            where=(EVERYTHING, {}),
            weights=weights,
        )
        return [group[0][0].document_id for group in _page(ranker)]


def _page(ranker: Ranker) -> list[list[ScoredHit]]:
    """Groups of neighbouring chunks, one for each passage of the page; ranks more contents until it is full."""
    query = ranker.query
    wanted = query.offset + query.limit
    selection = Selection(query.per_document)
    while True:
        ranking = ranker.rank(max(MIN_CANDIDATES, 2 * wanted), selection.excluded)
        selection.add(
            (hit, score)
            for hit, score in ranking.hits
            if passes_threshold(hit, ranker.build, query.similarity_threshold)
        )
        chosen = selection.hits
        groups = merge_neighbours([(hit.document_id, hit.ordinal) for hit, _ in chosen])
        # a chunk within WINDOW ranks may still join the last passage of the page, and pages must fit together
        complete = len(groups) >= wanted and min(groups[wanted - 1]) + WINDOW < len(chosen)
        if complete or not ranking.more:
            return [[chosen[at] for at in group] for group in groups[query.offset : wanted]]
