"""status, failures, retry: the state of documents, and another attempt at failed ones."""

from datetime import UTC
from typing import Annotated, Any

from celery import Task

from tasks.arguments import IdsOrAll, Index
from worker import configuration, wiring
from worker.celery.application import app
from worker.celery.retries import WAIT_FOR_SERVICES
from worker.documents import document_ids
from worker.errors import InvalidDocument, InvalidQuery, described
from worker.indexing import staging
from worker.reference import Meaning
from worker.results import DocumentStates, Failures, IndexState, Retried
from worker.store import builds, connection, indexes, outbox
from worker.store.status import document_states, failed_documents, index_status

MAX_FAILURES = 1000


@app.task(name="tasks.status")
def status(ids: IdsOrAll = None, index: Index = "default") -> IndexState | DocumentStates:
    """Count the documents of an index by state, with its pending work; with `ids`, return the state of each of them.

    Second run: looks again. It changes nothing.

    Errors: InvalidQuery, UnknownIndex, SettingsError, ServiceUnreachable, BuildDropped.
    """
    target = wiring.index(index)
    chosen = None if ids is None else _checked(ids)
    with connection.checkout(target.url) as conn:
        build = builds.live(conn, index)
        if chosen is not None:
            return {"index": index, "documents": document_states(conn, build, chosen)}
        paused = indexes.paused_at(conn, index)
        since = None if paused is None else paused.astimezone(UTC).isoformat(timespec="seconds")
        known = list(configuration.current().indexes)
        return {
            "index": index,
            "paused": since,
            **index_status(conn, build, index, target.settings.hnsw),
            "outbox": {
                **outbox.counts(conn, index),
                "unknown_indexes": outbox.rows_of_unknown_indexes(conn, known),
            },
        }


@app.task(name="tasks.failures")
def failures(
    limit: Annotated[int, Meaning(f"the most documents of a page, 1 to {MAX_FAILURES:,}")] = 100,
    after: Annotated[Any, Meaning("`next` of the page before", type="string")] = "",
    index: Index = "default",
) -> Failures:
    """List failed and refused documents by id, a page at a time.

    Second run: lists them again. It changes nothing.

    Errors: InvalidQuery, UnknownIndex, SettingsError, ServiceUnreachable, BuildDropped.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_FAILURES:
        raise InvalidQuery(f"limit must be a whole number from 1 to {MAX_FAILURES:,}, not {described(limit)}")
    start = "" if after == "" else _checked([after])[0]
    target = wiring.index(index)
    with connection.checkout(target.url) as conn:
        build = builds.live(conn, index)
        page = [] if build is None else failed_documents(conn, build, after=start, limit=limit)
    return {"index": index, "failures": page, "next": page[-1]["id"] if len(page) == limit else None}


@app.task(name="tasks.retry", bind=True, **WAIT_FOR_SERVICES)
def retry(self: Task, ids: IdsOrAll = None, index: Index = "default") -> Retried:
    """Queue failed documents again, these or all of the index, without waiting for them.

    Refused documents were never stored, so they are ignored.

    Second run: finds the documents that have failed again, or none.

    Errors: InvalidQuery, UnknownIndex, SettingsError.
    """
    target = wiring.index(index)
    chosen = None if ids is None else _checked(ids)
    found = staging.failed_ids(target) if chosen is None else chosen
    done = staging.retry(target, found)
    return {"index": index, "retried": len(done.docs) + done.rows, "chunks": done.chunks}


def _checked(ids: list[Any]) -> list[str]:
    try:
        return document_ids(ids)
    except InvalidDocument as error:
        raise InvalidQuery(str(error)) from error
