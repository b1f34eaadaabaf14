"""Retrieve the passages that fit a question.

A search reads the live build once and embeds its questions with the recipe of that build. So a switch of builds during
the search cannot compare vectors of two different models.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worker.documents import clean
from worker.errors import InvalidQuery
from worker.index import Index
from worker.observability import events
from worker.passages import Passage
from worker.recipes import COMPARED, Difference, Recipe
from worker.search.embedding import embed_questions
from worker.search.explaining import explain
from worker.search.halves import Halves, Target
from worker.search.modes import Ranker
from worker.search.passages import Details, ScoredHit, Selection, read_passages
from worker.search.queries import SearchQuery
from worker.search.ranking import MAX_MERGED, WINDOW, merge_neighbours
from worker.search.reranking import Reranker, rerank
from worker.search.similarity import check_threshold, passes_threshold
from worker.store import builds, connection, rarity, search, status
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import EVERYTHING, compile_filter


def retrieve(
    index: Index,
    query: SearchQuery,
    reranker: Reranker | None = None,
    *,
    around: int | Literal["section"] | None = None,
) -> list[Passage]:
    """Return the passages that fit the question best, best first; none while the index is empty.

    `around`: the context that each passage gets, as CONTEXT of an index has it; `None`: none.

    Raises InvalidQuery for a filter that cannot be compiled or lacks the tenant, SettingsError when the backend no
    longer makes the vectors that the index holds, TemporaryError when Postgres or the provider does not answer.
    """
    return _retrieve([index], query, reranker, Details(around=around))


def retrieve_across(
    indexes: Sequence[Index], query: SearchQuery, reranker: Reranker | None = None
) -> list[Passage]:
    """Search several indexes of one database as one; each passage names its index.

    The filter must satisfy the TENANT_FIELD of each index. Raises InvalidQuery also for indexes whose scores cannot be
    compared, and names the first difference.
    """
    return _retrieve(indexes, query, reranker, Details(with_index=True))


def _retrieve(
    indexes: Sequence[Index], query: SearchQuery, reranker: Reranker | None, details: Details
) -> list[Passage]:
    names = "+".join(index.name for index in indexes)
    with events.search(names, query.mode):
        # all pages begin with the same reranked passages, so each page within them ranks them again
        reranks = reranker is not None and query.offset < reranker.passages
        start, wanted = query.offset, query.offset + query.limit
        if reranker is not None and reranks:
            start, wanted = 0, max(wanted, reranker.passages)
        found = _ranked(indexes, query, slice(start, wanted), details)
        if reranker is not None and reranks:
            # without a connection to Postgres, which others may need meanwhile
            found = rerank(reranker, names, "\n".join(query.texts), found)
        elif reranker is not None:
            found = [
                replace(passage, rerank={"model": reranker.backend.model_id, "score": None})
                for passage in found
            ]
        return found[query.offset - start :][: query.limit]


def _ranked(indexes: Sequence[Index], query: SearchQuery, places: slice, details: Details) -> list[Passage]:
    """Return the passages at these places of the ranking."""
    conditions = [compile_filter(query.filter, tenant_field=index.settings.tenant_field) for index in indexes]
    with connection.checkout(indexes[0].url) as conn:
        found = [builds.live(conn, index.name) for index in indexes]
    searched = [
        (index, Target(build=build, where=condition))
        for index, build, condition in zip(indexes, found, conditions, strict=True)
        if build is not None
    ]
    if not searched:
        return []
    _check_comparable(searched)
    first, build = searched[0][0], searched[0][1].build
    query = _possible(query, first.name, build)
    check_threshold(query.similarity_threshold, build)
    vectors = None if query.mode == "text" else embed_questions(first, build, query.texts)
    ef_search = max(index.settings.ef_search for index, _ in searched)
    with connection.checkout(first.url) as conn, search.snapshot(conn, ef_search=ef_search):
        halves = Halves(
            connection=conn, targets=[target for _, target in searched], query=query, vectors=vectors
        )
        ranker = Ranker(halves=halves, weights=first.settings.hybrid_weights)
        groups = _groups(ranker, places.stop)[places]
        builds_read = [target.build for _, target in searched]
        passages = list(read_passages(conn, builds_read, groups, details))
        if not query.explain:
            return passages
        explanations = explain(ranker, groups)
        return [replace(passage, explain=each) for passage, each in zip(passages, explanations, strict=True)]


def _possible(query: SearchQuery, index: str, build: Build) -> SearchQuery:
    """The query as an index without words can answer it: by vector in place of hybrid. Raises InvalidQuery."""
    if build.language is not None:
        return query
    if query.mode == "text":
        raise InvalidQuery(
            f'index {index!r} has no words, because its LANGUAGE is None: use mode "vector", or set LANGUAGE and run '
            "`vector-index rebuild`"
        )
    return replace(query, mode="vector")


def _check_comparable(searched: Sequence[tuple[Index, Target]]) -> None:
    """Raise InvalidQuery if the scores of two indexes differ by more than their contents."""
    (first, target), *others = searched
    recipe = Recipe.stored(target.build.recipe)
    for other, its in others:
        differences = recipe.differences(Recipe.stored(its.build.recipe), only=COMPARED)
        weights = first.settings.hybrid_weights, other.settings.hybrid_weights
        if weights[0] != weights[1]:
            differences.append(Difference(setting="HYBRID_WEIGHTS", is_value=weights[0], will_be=weights[1]))
        if differences:
            found = differences[0]
            raise InvalidQuery(
                f"indexes {first.name!r} and {other.name!r} cannot be searched together: {found.setting} is "
                f"{found.is_value!r} in the one and {found.will_be!r} in the other; search one at a time, or give "
                "one the value of the other"
            )


def emptiness(index: Index) -> str | None:
    """Return the sentence about an index that has nothing to search; `None` if one of its documents is searchable."""
    with connection.checkout(index.url) as conn:
        any_documents, any_searchable = status.holdings(conn, builds.live(conn, index.name))
    if any_searchable:
        return None
    missing = "no searchable documents yet" if any_documents else "no documents"
    return f"The index {index.name!r} holds {missing}."


def unknown_words(index: Index, text: str) -> Sequence[str]:
    """Return the words of a question that occur nowhere in an index, stemmed, without stop words.

    None for an index with a TENANT_FIELD: they would tell a tenant which words the others have.
    """
    if index.settings.tenant_field is not None:
        return []
    with connection.checkout(index.url) as conn:
        build = builds.live(conn, index.name)
        return rarity.read_words(conn, build, clean(text)).unknown if build else []


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
        halves = Halves(
            connection=connection,
            targets=[Target(build=build, where=(EVERYTHING, {}))],
            query=query,
            vectors=vectors,
        )
        ranker = Ranker(halves=halves, weights=weights)
        places = [(group[0][0].rev, group[0][0].ordinal) for group in _groups(ranker, query.limit)]
        found = search.chunks(connection, build, places)
        return [found[place].document_id for place in places]


def _groups(ranker: Ranker, wanted: int) -> list[list[ScoredHit]]:
    """Groups of neighbouring chunks, one for each of the first passages; ranks more contents until there are enough."""
    query = ranker.halves.query
    # a chunk within these ranks may still join the last passage of the page, and pages must fit together
    window = WINDOW if query.per_document != 1 else 0
    enough = MAX_MERGED * wanted + WINDOW  # unless texts repeat or `per_document` leaves chunks out
    selection = Selection(query.per_document)
    groups: list[list[int]] = []
    while True:
        ranking = ranker.rank(enough, selection.excluded)
        for start in range(0, len(ranking.hits), enough):
            selection.add(
                (hit, score)
                for hit, score in ranking.hits[start : start + enough]
                if passes_threshold(hit, ranker.halves.build, query.similarity_threshold)
            )
            groups = merge_neighbours([(hit.doc, hit.ordinal) for hit, _ in selection.hits])
            if len(groups) >= wanted and min(groups[wanted - 1]) + window < len(selection.hits):
                return [[selection.hits[at] for at in group] for group in groups[:wanted]]
        if not ranking.more:
            return [[selection.hits[at] for at in group] for group in groups[:wanted]]
