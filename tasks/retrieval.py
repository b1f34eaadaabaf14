"""search and find_similar: the passages nearest to a question, or to a document."""

from typing import Any

from worker import configuration, wiring
from worker.celery.application import app
from worker.documents import document_id as checked_id
from worker.errors import InvalidDocument, InvalidQuery
from worker.search import retrieval


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
    """Passages as rows, best first. Changes nothing; an argument that is wrong or a service that is away is
    reported at once, as the caller is waiting."""
    target = wiring.index(index)
    wanted = retrieval.Query(
        text=query,
        limit=limit,
        offset=offset,
        filter=filter,
        similarity_threshold=similarity_threshold,
        per_document=per_document,
        mode=mode,
    )
    found = retrieval.retrieve(target.url, target.settings, target.backend, wanted, target.budget)
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
    """The documents nearest to one that is indexed, each with its best passage: rows as of search.

    From stored vectors, without a request. Changes nothing; what is wrong is reported at once, as in search.
    """
    settings = configuration.current().index(index)
    try:
        like = retrieval.LikeDocument(
            id=checked_id(document_id),
            limit=limit,
            filter=filter,
            similarity_threshold=similarity_threshold,
            include_self=include_self,
        )
    except InvalidDocument as error:
        raise InvalidQuery(f"document_id: {error}") from error
    found = retrieval.find_similar(wiring.addresses().database_url, settings, like)
    return [passage.as_json() for passage in found]
