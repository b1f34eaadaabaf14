"""search and find_similar: find the passages nearest to a question, or to a document."""

from typing import Annotated, Any

from tasks.arguments import (
    Boosts,
    Explain,
    Filter,
    Index,
    Indexes,
    Limit,
    Mode,
    Offset,
    OptionalQuery,
    PerDocument,
    Queries,
    Rerank,
    Threshold,
)
from worker import wiring
from worker.celery.application import app
from worker.documents import document_id as checked_id
from worker.errors import InvalidDocument, InvalidQuery
from worker.passages import bounded_result
from worker.reference import Meaning
from worker.search import retrieval, similar
from worker.search.queries import MAX_TEXT_CHARACTERS, SearchQuery, SimilarQuery, checked_indexes
from worker.search_results import Row


@app.task(name="tasks.search", resultrepr_maxsize=1)
def search(
    query: OptionalQuery = None,
    limit: Limit = 5,
    offset: Offset = 0,
    filter: Filter = None,
    similarity_threshold: Threshold = 0.0,
    mode: Mode = "hybrid",
    per_document: PerDocument = None,
    index: Index = "default",
    queries: Queries = None,
    indexes: Indexes = None,
    rerank: Rerank = None,
    boosts: Boosts = None,
    explain: Explain = False,
) -> list[Row]:
    """Find the passages nearest to a question, or to several questions together, best first.

    The caller is waiting, so an invalid argument and an unavailable service are reported at once.

    Second run: searches again. It changes nothing.

    Errors: InvalidQuery (also for indexes whose scores cannot be compared), UnknownIndex, SettingsError,
    ProviderUnavailable, ServiceUnreachable, BuildDropped, TooLarge and Refused.
    """
    wanted = SearchQuery(
        text=query,
        queries=queries,
        limit=limit,
        offset=offset,
        filter=filter,
        similarity_threshold=similarity_threshold,
        per_document=per_document,
        mode=mode,
        boosts=boosts,
        explain=explain,
    )
    names = [index] if indexes is None else checked_indexes(indexes, index)
    targets = [wiring.index(name) for name in names]
    reranker = wiring.reranker(targets[0].settings, rerank)
    if indexes is None:
        found = retrieval.retrieve(targets[0], wanted, reranker)
    else:
        found = retrieval.retrieve_across(targets, wanted, reranker)
    return bounded_result(found)


@app.task(name="tasks.find_similar", resultrepr_maxsize=1)
def find_similar(
    document_id: Annotated[
        Any,
        Meaning("id of an indexed document; this or `text` is required", type="string or integer, or null"),
    ] = None,
    limit: Limit = 5,
    filter: Filter = None,
    similarity_threshold: Threshold = 0.0,
    include_self: Annotated[bool, Meaning("let the document itself be among the rows")] = False,
    index: Index = "default",
    text: Annotated[
        str | None,
        Meaning(
            "instead of `document_id`: a text to compare with, which need not be indexed; at most "
            f"{MAX_TEXT_CHARACTERS:,} characters"
        ),
    ] = None,
) -> list[Row]:
    """Find the documents nearest to an indexed one, or to a text, each with its best passage, nearest first.

    It compares stored vectors, without a request to the provider. A text is embedded as a document is. A document
    without vectors has no neighbours yet.

    Second run: searches again. It changes nothing.

    Errors: InvalidQuery (also for a document that the index does not have), UnknownIndex, SettingsError,
    ServiceUnreachable and BuildDropped; with `text`, also ProviderUnavailable, TooLarge and Refused.
    """
    try:
        wanted = SimilarQuery(
            id=None if document_id is None else checked_id(document_id),
            text=text,
            limit=limit,
            filter=filter,
            similarity_threshold=similarity_threshold,
            include_self=include_self,
        )
    except InvalidDocument as error:
        raise InvalidQuery(f"document_id: {error}") from error
    found = similar.find_similar(wiring.index(index), wanted)
    return bounded_result(found)
