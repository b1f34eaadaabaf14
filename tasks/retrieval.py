"""search and find_similar: find the passages nearest to a question, or to a document."""

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
    """Return passages as rows, best first. Changes nothing.

    The caller is waiting, so a wrong argument or an unreachable service is reported at once.
    """
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
    """Return the documents nearest to an indexed one, each with its best passage, as rows like those of search.

    Changes nothing. It uses stored vectors, so it sends no request. Errors are reported at once, as in search.
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
