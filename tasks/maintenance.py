"""sweep, collect, index_vectors, verify: maintenance that runs by schedule, or when an operator asks."""

import logging
from contextlib import suppress
from typing import Annotated

from tasks.arguments import AnyIndex, Index
from worker import configuration, wiring
from worker.celery.application import app
from worker.celery.queue_lengths import queue_lengths
from worker.celery.retries import WAIT_FOR_SERVICES
from worker.errors import BuildDropped, InvalidQuery, described
from worker.indexing import verification
from worker.keyspace import EMBED
from worker.maintenance_results import Collected, VectorsIndexed, Verified
from worker.observability.logs import log_fields
from worker.reference import Meaning
from worker.store import builds, connection, garbage, hnsw, indexes, jobs, rebuilds, statistics
from worker.store.builds import Build
from worker.store.spelling import spell_again
from worker.store.sweep import sweep_build

QUIET_SECONDS = 120.0  # without a look at a job, until it gets a new waiting task
COLLECT_SECONDS = 3600.0  # between two collections of an index
ERASED_SECONDS = 600.0  # the same after a deletion
ABANDONED_SECONDS = 60.0  # without a worker, until a rebuild gets a new task
INDEX_VECTORS_SECONDS = 60.0  # after which the message expires: each sweep sends another while it is due

REPAIRED = "contents were neither embedded nor pending: the protocol has no such state"

logger = logging.getLogger("vector_index.sweep")


@app.task(name="tasks.sweep", ignore_result=True)
def sweep() -> None:
    """Find abandoned work: publish documents, requeue contents, resend waiting tasks, send due maintenance.

    It also lets Postgres analyze the tables of a build after a load.

    After an upgrade that spells words in another way, it also spells those of existing chunks, for ten seconds at most.

    Sent by: the beat every 30 seconds, and each embed worker at its start.

    Second run: finds less to do. Any number may run at once, as each step changes only rows that need it.
    """
    url = wiring.addresses().database_url
    with connection.checkout(url) as conn:
        written = builds.all_writable(conn)
    for build in written:
        with suppress(BuildDropped):  # since they were listed
            _sweep_build(url, build)
    with connection.checkout(url) as conn:
        jobs.delete_expired(conn)
        due = garbage.collections_due(conn, seconds=COLLECT_SECONDS, erased_seconds=ERASED_SECONDS)
        rebuilds.drop_expired(conn)
    resend_waiting_tasks()
    resume_rebuilds()
    for index in due:
        app.send_task("tasks.collect", kwargs={"index": index}, ignore_result=True)


def _sweep_build(url: str, build: Build) -> None:
    with connection.checkout(url) as conn:
        repairs = sweep_build(conn, build)
        if repairs.queued:
            logger.error("repaired", extra=log_fields(index=build.index, inputs=repairs.queued, bug=REPAIRED))
        if chunks := spell_again(conn, build):
            logger.info("spelled", extra=log_fields(index=build.index, inputs=chunks))
        statistics.analyze_if_stale(conn, build)
        index = configuration.current().indexes.get(build.index)  # another deployment looks after its own
        if index is not None and hnsw.look(conn, build, index.hnsw):
            app.send_task(
                "tasks.index_vectors",
                kwargs={"index": build.index},
                expires=INDEX_VECTORS_SECONDS,
                ignore_result=True,
            )


def resume_rebuilds() -> None:
    """Send the tasks of rebuilds again that no worker has touched for a minute: their message was lost."""
    known = configuration.current().indexes
    with connection.checkout(wiring.addresses().database_url) as conn:
        for index, build, task_id in rebuilds.abandoned(conn, seconds=ABANDONED_SECONDS):
            if index in known:
                kwargs = {"index": index, "build": build}
                app.send_task(
                    "tasks.continue_rebuild", kwargs=kwargs, task_id=task_id, expires=ABANDONED_SECONDS
                )


def resend_waiting_tasks() -> None:
    """Send the lost waiting tasks of jobs again, each with the id of its job.

    A job counts as lost after QUIET_SECONDS, longer if many tasks wait for a slot: with thousands of jobs their turn
    comes later, and each extra task would delay it further.
    """
    addresses = wiring.addresses()
    waiting = queue_lengths(addresses.broker_url, [EMBED])[EMBED]
    with connection.checkout(addresses.database_url) as conn:
        known = list(configuration.current().indexes)
        quiet = jobs.quiet(conn, seconds=QUIET_SECONDS, waiting=waiting, indexes=known)
    for task_id, index in quiet:
        app.send_task("tasks.await_indexing", task_id=task_id, kwargs={"index": index})


@app.task(name="tasks.collect")
def collect(index: AnyIndex = "default") -> Collected:
    """Delete unreferenced data: old revisions, unused vectors, and the remains of dropped indexes.

    Unused vectors go once they are more than a fifth of all, and all of them after a deletion. Rows that cannot be
    locked within a second stay for the next run.

    Sent by: the sweep once an hour, and ten minutes after a deletion. You may send it, too.

    Second run: finds nothing.

    Errors: ServiceUnreachable; the sweep sends it again later.
    """
    collected = garbage.Collected()
    with connection.checkout(wiring.addresses().database_url) as conn:
        build = builds.live(conn, index)
        if build is not None:
            collected = garbage.collect_index(conn, build.index_id)
        indexes.purge(conn)
    return {
        "index": index,
        "embeddings": collected.embeddings,
        "kept": collected.kept,
        "revisions": collected.revisions,
        "pending": collected.pending,
        "tombstones": collected.tombstones,
    }


@app.task(name="tasks.index_vectors")
def index_vectors(index: Index = "default") -> VectorsIndexed:
    """Create the vector index of each build that has grown enough, once its load is over. Takes minutes.

    A load of half the vectors or more is faster without the index: then it is dropped, and created again afterwards.

    Sent by: the sweep while something is due.

    Second run: finds nothing to do, or the lease of the first; after a crash the lease expires.

    Errors: ServiceUnreachable; the sweep sends it again later. UnknownIndex.
    """
    url, settings = wiring.addresses().database_url, configuration.current().index(index)
    with connection.checkout(url) as conn:
        written = [build for build in builds.all_writable(conn) if build.index == index]
    done = {build.build: hnsw.apply(url, build, settings.hnsw) for build in written}
    return {
        "index": index,
        "builds": [build for build, action in done.items() if action == "create"],
        "dropped": [build for build, action in done.items() if action == "drop"],
    }


@app.task(name="tasks.verify", **WAIT_FOR_SERVICES)
def verify(
    repair: Annotated[bool, Meaning("repair the faults, and delete unused data")] = False,
    index: Index = "default",
) -> Verified:
    """Compare each document with its chunks and vectors, under any load; with `repair`, repair the faults.

    Second run: checks again, and repairs the rest. Without `repair` it changes nothing.

    Errors: InvalidQuery, UnknownIndex, SettingsError.
    """
    if not isinstance(repair, bool):
        raise InvalidQuery(f"repair must be true or false, not {described(repair)}")
    target = wiring.index(index)
    verifier = verification.Verifier(index=target, wake=resend_waiting_tasks)
    return verifier.verify(repair=repair)
