"""search: the passages nearest to a question."""

from typing import Any

from worker import process, retrieval
from worker.celery import app
from worker.errors import InvalidQuery

MODES = ("vector",)


@app.task(name="tasks.search", resultrepr_maxsize=1)
def search(
    query: str,
    limit: int = 5,
    offset: int = 0,
    filter: dict[str, Any] | None = None,
    similarity_threshold: float = 0.0,
    mode: str = "vector",
    per_document: int | None = None,
    index: str = "default",
) -> list[dict[str, Any]]:
    """Passages as rows, nearest first. Changes nothing; an argument that is wrong or a service that is away is
    reported at once, as the caller is waiting."""
    if mode not in MODES:
        raise InvalidQuery(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    target = process.index(index)
    wanted = retrieval.Query(
        text=query,
        limit=limit,
        offset=offset,
        filter=filter,
        similarity_threshold=similarity_threshold,
        per_document=per_document,
    )
    found = retrieval.retrieve(target.url, target.settings, target.backend, wanted)
    return [passage.as_json() for passage in found]
