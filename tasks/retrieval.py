"""search and find_similar: find the passages nearest to a question, or to a document."""

from typing import Any

from worker import wiring
from worker.celery.application import app
from worker.documents import document_id as checked_id
from worker.errors import InvalidDocument, InvalidQuery
from worker.search import retrieval, similar
from worker.search.queries import SearchQuery, SimilarQuery


@app.task(name="tasks.search", resultrepr_maxsize=1)
def search(
    query: str,
    limit: int = 5,
    offset: int = 0,
    filter: dict[str, Any] | None = None,
    similarity_threshold: float = 0.0,
    mode: str = "hybrid",
    per_document: int | None = None,
    index: str = "default",
) -> list[dict[str, Any]]:
    """Return passages as rows, best first.

    Changes nothing. The caller is waiting, so an invalid argument and an unavailable service are reported at once.
    """
    wanted = SearchQuery(
        text=query,
        limit=limit,
        offset=offset,
        filter=filter,
        similarity_threshold=similarity_threshold,
        per_document=per_document,
        mode=mode,
    )
    found = retrieval.retrieve(wiring.index(index), wanted)
    return [passage.as_json() for passage in found]


@app.task(name="tasks.find_similar", resultrepr_maxsize=1)
def find_similar(
    document_id: Any,
    limit: int = 5,
    filter: dict[str, Any] | None = None,
    similarity_threshold: float = 0.0,
    include_self: bool = False,
    index: str = "default",
) -> list[dict[str, Any]]:
    """Return the documents nearest to an indexed one, each with its best passage, as rows of search.

    Compares stored vectors, without a request to the provider. Changes nothing; errors are reported at once.
    """
    try:
        wanted = SimilarQuery(
            id=checked_id(document_id),
            limit=limit,
            filter=filter,
            similarity_threshold=similarity_threshold,
            include_self=include_self,
        )
    except InvalidDocument as error:
        raise InvalidQuery(f"document_id: {error}") from error
    found = similar.find_similar(wiring.index(index), wanted)
    return [passage.as_json() for passage in found]
