"""The results of tasks: JSON objects, each field with its meaning. An application gets them as dictionaries.

tests/acceptance/test_results.py compares them with the results of real tasks.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from worker.reference import Meaning

IndexName = Annotated[str, Meaning("name of the index")]


class Rejected(TypedDict):
    """A document that failed, alone."""

    id: Annotated[str, Meaning("your id; a document without a usable id is named by its place, as in `#3`")]
    error: Annotated[str, Meaning("one sentence: the reason and the fix")]


class Indexed(TypedDict):
    """Counts of the documents that you sent."""

    index: IndexName
    indexed: Annotated[int, Meaning("documents that are new or changed, and searchable now")]
    unchanged: Annotated[int, Meaning("documents that the index already had; they cost no request")]
    stale: Annotated[
        int, Meaning("documents that a newer version, a newer message or a delete has overtaken")
    ]
    failed: Annotated[
        list[Rejected],
        Meaning("documents that cannot be indexed. An older revision, if there is one, stays searchable"),
    ]
    chunks: Annotated[int, Meaning("chunks of these documents that were written")]
    embedded: Annotated[int, Meaning("chunks among them that got a new vector from the model")]
    tokens: Annotated[int, Meaning("tokens of the chunks that `embedded` counts")]
    left_out: NotRequired[
        Annotated[int, Meaning("characters that no reader sees and were left out; only there if some were")]
    ]


class RunReport(TypedDict):
    """What a run of `tasks.reindex` says beside its counts."""

    warning: NotRequired[
        Annotated[
            str,
            Meaning(
                "why the run deleted nothing, or did nothing: another run is active, or the index is paused"
            ),
        ]
    ]


class Reindexed(Indexed, RunReport):
    """Counts of a run of `tasks.reindex`."""

    deleted: Annotated[int, Meaning("documents that the source no longer has")]
    seconds: Annotated[float, Meaning("duration of the run, until all its documents were searchable")]


class Progress(TypedDict):
    """Counts so far: `AsyncResult.info` in the state `PROGRESS`."""

    documents: Annotated[int, Meaning("documents of the task; for `tasks.reindex`, documents read so far")]
    done: Annotated[int, Meaning("documents that are searchable, or have failed")]
    chunks: Annotated[int, Meaning("chunks of these documents that were written")]
    embedded: Annotated[int, Meaning("chunks among them that have got a new vector so far")]


class Deleted(TypedDict):
    """Counts of a deletion."""

    index: IndexName
    deleted: Annotated[int, Meaning("documents that were deleted; unknown ids are not counted")]
    stale: Annotated[int, Meaning("documents that stay, because their version is higher than `version`")]


class EmbeddedTexts(TypedDict):
    """Vectors of your own texts."""

    vectors: Annotated[
        list[list[float]], Meaning("a vector for each text, in order, with the digits of four bytes")
    ]
    model: Annotated[str, Meaning("name of the model")]
    dimensions: Annotated[int, Meaning("the length of each vector")]
    tokens: Annotated[int, Meaning("tokens of all texts with their prefixes, as the worker counts them")]


class DocumentState(TypedDict):
    """The state of one document."""

    state: Annotated[
        Literal["pending", "live", "failed", "refused", "absent"],
        Meaning(
            "waits for vectors; searchable in its newest revision; given up; could not be taken, and was never stored; "
            "unknown or deleted"
        ),
    ]
    version: Annotated[int | None, Meaning("the highest `version` that you sent")]
    searchable: Annotated[bool, Meaning("whether a revision is searchable, be it an older one")]
    error: Annotated[str | None, Meaning("why it failed or was refused")]


class DocumentStates(TypedDict):
    """The states of single documents."""

    index: IndexName
    documents: Annotated[Mapping[str, DocumentState], Meaning("by id, each id that you asked for")]


class DocumentCounts(TypedDict):
    """Documents of an index by state."""

    pending: Annotated[int, Meaning("documents that wait for vectors; an older revision may be searchable")]
    live: Annotated[int, Meaning("documents that are searchable in their newest revision")]
    failed: Annotated[int, Meaning("documents that were given up")]


class Repairs(TypedDict):
    """Repairs of the sweep so far."""

    published: Annotated[int, Meaning("documents published, because a worker died before it could")]
    queued: Annotated[int, Meaning("contents queued that had been lost: a bug, please report it")]


class RebuildProgress(TypedDict):
    """How far the build that is to replace the live one is."""

    documents: Annotated[int, Meaning("documents of the index")]
    filled: Annotated[int, Meaning("documents that are split under the new settings")]
    done: Annotated[int, Meaning("documents that are complete in the new build")]
    pending_chunks: Annotated[int, Meaning("chunks that wait for a vector")]
    copied: Annotated[
        int,
        Meaning("vectors that cost no request: copied from the live build, or kept since this one was live"),
    ]
    embedded: Annotated[int, Meaning("vectors that the model made for it")]
    failed: Annotated[int, Meaning("documents that failed in it")]
    seconds: Annotated[float, Meaning("time since the build was begun")]
    seconds_left: Annotated[float | None, Meaning("estimate of the time left; null while it is unknown")]


class RebuildFailure(TypedDict):
    """A document that is searchable today and fails under the new settings."""

    id: Annotated[str, Meaning("your id")]
    error: Annotated[str | None, Meaning("one sentence: the reason and the fix")]


class Rebuilt(TypedDict):
    """The end of a rebuild."""

    index: IndexName
    build: Annotated[int | None, Meaning("number of the build that was filled; null: none")]
    outcome: Annotated[
        Literal["live", "unchanged", "cancelled", "dropped", "blocked"],
        Meaning(
            "`live`: searches read the new build; `unchanged`: nothing was to be done; `cancelled`; `dropped`: the "
            "earlier builds are gone; `blocked`: `failed` documents keep it from the switch, which happens once they "
            "are fixed or deleted"
        ),
    ]
    documents: Annotated[int, Meaning("documents of the index")]
    copied: Annotated[
        int,
        Meaning("vectors that cost no request: copied from the live build, or kept since this one was live"),
    ]
    embedded: Annotated[int, Meaning("vectors that the model made for it")]
    seconds: Annotated[float, Meaning("time since the build was begun")]
    failures: Annotated[int, Meaning("documents that are searchable today and fail under the new settings")]
    failed: Annotated[list[RebuildFailure], Meaning("the first five of them")]


class VectorIndexState(TypedDict):
    """The vector index (HNSW) of a build."""

    state: Annotated[
        Literal["ready", "building", "waiting", "none"],
        Meaning(
            "`building`, and `waiting` for the end of a load: until then, searches compare all vectors; `none`: it is "
            "too small to need one, or its vectors are too long"
        ),
    ]
    progress: Annotated[float | None, Meaning("how much is built, from 0 to 1; null unless `building`")]


class BuildState(TypedDict):
    """A build: one complete copy of an index under one recipe."""

    build: Annotated[int, Meaning("number of the build, and of its tables")]
    state: Annotated[Literal["filling", "closing", "live", "retired"], Meaning("`live`: searches read it")]
    recipe: Annotated[dict[str, Any], Meaning("model, length of vectors, chunk size, distance, language")]
    repairs: Annotated[Repairs, Meaning("repairs of the sweep so far")]
    documents: Annotated[int | None, Meaning("searchable documents; null if `retired`")]
    vector_index: Annotated[VectorIndexState, Meaning("the index that spares searches most comparisons")]
    drift: Annotated[
        list[str],
        Meaning("of the live build: settings that differ from its recipe, which `tasks.rebuild` applies"),
    ]
    rebuild: Annotated[
        RebuildProgress | None, Meaning("how far a build is that is to become live; else null")
    ]


class OutboxCounts(TypedDict):
    """Rows of an index that applications enqueued with the SQL functions."""

    waiting: Annotated[int, Meaning("rows that no worker has staged yet")]
    rejected: Annotated[int, Meaning("rows that cannot be staged; `tasks.failures` lists them")]
    oldest_seconds: Annotated[float, Meaning("age of the oldest waiting row; 0 without one")]


class OutboxState(OutboxCounts):
    """Rows that applications enqueued with the SQL functions."""

    unknown_indexes: Annotated[
        dict[str, int], Meaning("numbers of waiting rows, by name of indexes that are not in the settings")
    ]


class IndexFigures(TypedDict):
    """Counts of an index."""

    documents: Annotated[DocumentCounts, Meaning("documents by state")]
    refused: Annotated[int, Meaning("documents that could not be taken, and were never stored")]
    pending_chunks: Annotated[int, Meaning("chunks that wait for a vector")]
    pending_tokens: Annotated[int, Meaning("tokens of these chunks")]
    oldest_seconds: Annotated[float, Meaning("age of the oldest pending document; 0 without one")]
    embedded_chunks: Annotated[int, Meaning("chunks embedded so far; an estimate that is good for a rate")]
    last_error: Annotated[str | None, Meaning("the provider's last error, until it succeeds again")]
    builds: Annotated[list[BuildState], Meaning("builds of the index, the oldest first")]


class IndexState(IndexFigures):
    """The state of a whole index."""

    index: IndexName
    paused: Annotated[str | None, Meaning("since when the index is paused, ISO 8601 in UTC")]
    outbox: Annotated[OutboxState, Meaning("rows that applications enqueued with the SQL functions")]


class Failure(TypedDict):
    """A document that failed, or was refused."""

    id: Annotated[str, Meaning("your id")]
    state: Annotated[
        Literal["failed", "refused"],
        Meaning(
            "`failed`: `tasks.retry` tries it again; `refused`: it was never stored, correct it and send it again"
        ),
    ]
    error: Annotated[str, Meaning("one sentence: the reason and the fix")]
    since: Annotated[str, Meaning("since when the document waits, ISO 8601 in UTC")]
    searchable: Annotated[bool, Meaning("whether an older revision is searchable")]


class Failures(TypedDict):
    """A page of failed and refused documents."""

    index: IndexName
    failures: Annotated[list[Failure], Meaning("in the order of their ids")]
    next: Annotated[str | None, Meaning("`after` of the next page; null at the end")]


class Retried(TypedDict):
    """Counts of documents that were queued again."""

    index: IndexName
    retried: Annotated[int, Meaning("documents that were queued again")]
    chunks: Annotated[int, Meaning("chunks of them that have to be sent to the model")]


class Run(TypedDict):
    """A run of `tasks.reindex`."""

    task_id: Annotated[str, Meaning("id of its task")]
    scheduled_for: Annotated[str | None, Meaning("when it was due, ISO 8601; null: started by hand")]
    started_at: Annotated[str, Meaning("when it began, ISO 8601")]
    finished_at: Annotated[str | None, Meaning("when it had staged all, ISO 8601; null: it is running")]
    outcome: Annotated[
        Literal["running", "done", "failed", "skipped"],
        Meaning("`failed`: it deleted nothing; `skipped`: it read nothing; `message` says why"),
    ]
    incremental: Annotated[bool, Meaning("true if it read only documents that changed since the last run")]
    read: Annotated[int, Meaning("documents that the source returned")]
    staged: Annotated[int, Meaning("new or changed documents among them")]
    unchanged: Annotated[int, Meaning("documents among them that were indexed as they are")]
    deleted: Annotated[int, Meaning("documents that the source no longer has")]
    rejected: Annotated[int, Meaning("documents that cannot be indexed")]
    message: Annotated[str | None, Meaning("why it failed, was skipped, or deleted nothing")]


class Schedule(TypedDict):
    """The schedule of an index."""

    index: IndexName
    schedule: Annotated[str, Meaning("`SCHEDULE` of the index: a crontab, or seconds")]
    timezone: Annotated[str, Meaning("time zone of the crontab")]
    due_at: Annotated[str, Meaning("when the next run is due, ISO 8601 in UTC")]
    due_in_seconds: Annotated[float, Meaning("time until then; negative: overdue")]
    last_run: Annotated[Run | None, Meaning("the last run that was not skipped")]
    skipped: Annotated[Run | None, Meaning("the last skipped run since")]


class Schedules(TypedDict):
    """The schedules of indexes."""

    schedules: Annotated[list[Schedule], Meaning("in the order of their names")]


class Paused(TypedDict):
    """Whether an index is paused."""

    index: IndexName
    paused: Annotated[str | None, Meaning("since when it is paused, ISO 8601 in UTC; null: it is not")]


class Dropped(TypedDict):
    """Counts of a drop."""

    index: IndexName
    documents: Annotated[int, Meaning("documents that were dropped")]
    builds: Annotated[int, Meaning("builds that were dropped")]
    enqueued: Annotated[int, Meaning("rows of the outbox that were dropped")]
    configured: Annotated[
        bool, Meaning("true: the settings name the index, so its next document creates it again")
    ]
