"""index_documents, delete_documents, and await_indexing, which waits until documents are searchable."""

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

from celery import Task
from celery.states import SUCCESS
from celery.worker import state

from tasks.arguments import Documents, Filter, Ids, Index, Jobs, Version
from worker import configuration, wiring
from worker.celery.application import app
from worker.celery.batching import Call, RunAlone
from worker.celery.reporting import Reported, report
from worker.celery.retries import BROKER_ERRORS, WAIT_FOR_SERVICES
from worker.celery.upstream.memory_limit import past_memory_limit
from worker.documents import document_ids, document_version
from worker.errors import Bug, InvalidDocument, InvalidQuery, TemporaryError, UnknownIndex
from worker.indexing import batches, jobs, staging, wakeups
from worker.observability import events
from worker.reference import Meaning
from worker.results import Deleted, Indexed
from worker.store import connection
from worker.store.batches import NotBatchable
from worker.store.writing import StalePreparation

logger = logging.getLogger("vector_index.indexing")

SLICE_SECONDS = 1.5  # that a waiting task keeps its slot before the next one gets it


def _index_together(self: Any, calls: Sequence[Call]) -> list[str]:
    """Stage the documents of several messages; `tasks.await_jobs` reports their results.

    Returns the ids of the messages. It leaves out those with wrong arguments, which fail by themselves.
    """
    staged: dict[str, list[Reported]] = defaultdict(list)  # by index
    documents: dict[str, list[Any]] = {}  # by task id
    for call in calls:
        with suppress(InvalidQuery, UnknownIndex):
            given = self.arguments(*call.args, **call.kwargs)
            wiring.index(given["index"])
            if call.request.id in documents:
                raise RunAlone  # the second one is refused
            documents[call.request.id] = _checked_documents(given["documents"])
            staged[given["index"]].append(Reported.of(call.request))
    limit = configuration.current().max_document_bytes
    for index, each in staged.items():
        try:
            sent = {job.id: documents[job.id] for job in each}
            batches.stage_batch(wiring.index(index), sent, max_bytes=limit)
        except (NotBatchable, StalePreparation) as error:
            raise RunAlone from error
    for index, each in staged.items():
        with past_memory_limit():
            await_jobs.apply_async(kwargs={"jobs": [job.as_json() for job in each], "index": index})
    return list(documents)


@app.task(name="tasks.index_documents", bind=True, run_together=_index_together, **WAIT_FOR_SERVICES)
def index_documents(self: Task, documents: Documents, index: Index = "default") -> Indexed:
    """Index documents. When the task has succeeded, each of them is searchable or listed under `failed`.

    It stages the documents, then becomes `tasks.await_indexing` with the same id, unless none of them has changed. A
    staged document is never lost.

    Second run: stages nothing, because the ledger of jobs has its id, and reports the same documents.

    Errors: InvalidQuery, UnknownIndex, SettingsError.
    """
    checked = _checked_documents(documents)
    target = wiring.index(index)
    limit = configuration.current().max_document_bytes
    staged = staging.stage(target, self.request.id, checked, max_bytes=limit)
    result = staged.result
    if result is None and not staged.has_changes:
        result = _result(index, self.request.id)
    if result is not None:
        return result
    raise self.replace(await_indexing.si(index=index))


def _checked_documents(documents: object) -> list[Any]:
    if not isinstance(documents, list):
        raise InvalidQuery(f"documents must be a list of objects, not {type(documents).__name__}")
    return documents


def _result(index: str, task_id: str) -> Indexed | None:
    """Return the result of a job; `None` while some of its documents are pending."""
    with connection.checkout(wiring.addresses().database_url) as conn:
        return jobs.job_result(conn, index, task_id)


# Each slice is a task of its own. Its STARTED would hide the PROGRESS of the last slice, and its start event would
# show monitors another beginning.
@app.task(name="tasks.await_indexing", bind=True, track_started=False, send_events=False, **WAIT_FOR_SERVICES)
def await_indexing(self: Task, index: Index = "default") -> Indexed:
    """Wait for the documents of the job with this id, in slices of time; then report on them.

    Sent by: `tasks.index_documents` and `tasks.reindex`, which become it, and the sweep.

    Second run: reports the same. It only reads, so the documents are indexed no matter how often it runs.

    Errors: InvalidQuery for a job that is unknown, or too old.
    """
    wakeups.queued.notify()
    result = wiring.job_watcher().result(index, self.request.id, timeout_seconds=SLICE_SECONDS)
    if result is not None:
        return result
    looked = time.monotonic()
    with connection.checkout(wiring.addresses().database_url) as conn:
        progress = jobs.job_progress(conn, index, self.request.id)
    self.update_state(state="PROGRESS", meta=progress)
    # reading a job of a million documents takes a while: spend at most half of the time on it
    time.sleep(time.monotonic() - looked)
    raise self.replace(await_indexing.si(index=index))


# Monitors see the jobs and not this task.
@app.task(
    name="tasks.await_jobs",
    bind=True,
    ignore_result=True,
    track_started=False,
    send_events=False,
    **WAIT_FOR_SERVICES,
)
def await_jobs(self: Task, jobs: Jobs, index: Index = "default") -> None:
    """Wait until the documents of several jobs are searchable, and report each job as it is done.

    A job that takes longer gets a `tasks.await_indexing` of its own.

    Sent by: `tasks.index_documents`, for small messages that arrive together, which it stages together.

    Second run: reports the same.
    """
    began = time.monotonic()
    wakeups.queued.notify()
    waiting = {job["id"]: Reported(**job) for job in jobs}
    watcher = wiring.job_watcher()
    for done in watcher.results(index, list(waiting), timeout_seconds=SLICE_SECONDS):
        # the worker ends a revoked job once it gets the message of its own
        ended = {
            id: result
            for id, result in done.items()
            if not isinstance(result, Exception) and id not in state.revoked
        }
        try:
            report(self, [(waiting[id], result) for id, result in ended.items()])
        except (TemporaryError, *BROKER_ERRORS):
            raise  # the task runs again, and reports all of them
        except Exception as error:  # each of them reports by itself below
            logger.error("%d results cannot be reported together", len(ended), exc_info=Bug.of(error))
            continue
        for id in ended:  # metrics count jobs under the task that waits for one
            del waiting[id]
            events.task(await_indexing.name, SUCCESS, time.monotonic() - began)
    with past_memory_limit():
        for job in waiting.values():
            await_indexing.apply_async(kwargs={"index": index}, **job.successor())


@app.task(name="tasks.delete_documents", bind=True, **WAIT_FOR_SERVICES)
def delete_documents(
    self: Task,
    ids: Ids = None,
    filter: Filter = None,
    version: Version = None,
    all: Annotated[bool, Meaning("delete every document of the index; without `ids` and `filter`")] = False,
    index: Index = "default",
) -> Deleted:
    """Delete documents by id, by filter over metadata, or all. Give one of the three.

    Unknown ids are ignored. A filter also removes enqueued documents that match it. A filter without a
    condition is refused.

    Second run: reports the result of the first, from the ledger of jobs.

    Errors: InvalidQuery, UnknownIndex, SettingsError.
    """
    target = wiring.index(index)
    if not isinstance(all, bool):
        raise InvalidQuery(f"all must be true or false, not {type(all).__name__}")
    if all and (ids is not None or filter):
        raise InvalidQuery("all deletes every document: send it without ids and without a filter")
    if not all and (ids is None) == (filter is None):
        raise InvalidQuery("give either ids or filter, to say which documents to delete")
    fence, chosen = _checked(version, ids)
    if chosen is not None:
        done = staging.delete(target, self.request.id, chosen, fence)
    else:
        done = staging.delete_matching(target, self.request.id, filter or {}, fence, everything=all)
    return {"index": index, "deleted": done.deleted, "stale": done.stale}


def _checked(version: Version, ids: Ids) -> tuple[int | None, list[str] | None]:
    try:
        return document_version(version), None if ids is None else document_ids(ids)
    except InvalidDocument as error:
        raise InvalidQuery(str(error)) from error
