"""Jobs: the result and the progress of one message's documents."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from worker.errors import InvalidQuery
from worker.results import Indexed, Progress, Reindexed, Rejected
from worker.store import builds, jobs
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.jobs import JobDocuments, JobLedger, StageCounts


@dataclass(frozen=True, kw_only=True)
class Staged:
    """What is known of a job once its documents are staged."""

    has_changes: bool  # whether it wrote a document that waits for its vectors; else its result may be there
    result: Indexed | None  # the result, if the job waits for nothing and was staged in this call


def job_result(conn: Connection, index: str, task_id: str) -> Indexed | None:
    """Return the result of a job, `None` while some of its documents are pending.

    Raises InvalidQuery when the database has no such job.
    """
    result = job_results(conn, index, [task_id])[task_id]
    if isinstance(result, InvalidQuery):
        raise result
    return result


def final_result(index: str, counts: StageCounts, rejected: Sequence[Mapping[str, str]]) -> Indexed:
    """Return the result of a job of one slice that waits for no document; `rejected`: id and error of each."""
    failed = [Rejected(id=each["id"], error=each["error"]) for each in rejected]
    ledger = JobLedger(
        counts=asdict(counts), rejected=failed, slices=1, complete=True, report=None, seconds=0.0
    )
    job = _Job(task_id="", build=None, ledger=ledger, groups=())
    return _result(index, job, {"embedded": 0, "tokens": 0})


def job_results(
    conn: Connection, index: str, task_ids: Sequence[str]
) -> dict[str, Indexed | InvalidQuery | None]:
    """Return the results of jobs of one index by task id; an error for a job that the database does not have."""
    build = builds.live(conn, index)
    ledgers = jobs.ledgers(conn, task_ids)
    staged = [task_id for task_id in task_ids if ledgers[task_id].complete]
    done = staged if build is None or not staged else jobs.settled(conn, build, staged)
    groups = jobs.documents(conn, build, done) if build and done else {}
    if done:
        jobs.finish(conn, done)
    results: dict[str, Indexed | InvalidQuery | None] = {
        task_id: None if ledgers[task_id].slices else _unknown(task_id) for task_id in task_ids
    }
    for task_id in done:
        job = _Job(task_id=task_id, build=build, ledger=ledgers[task_id], groups=groups.get(task_id, []))
        results[task_id] = _result(index, job, job.embedded(conn))
    return results


def job_progress(conn: Connection, index: str, task_id: str) -> Progress:
    """Return the counts of a job so far: documents, those of them that are done, chunks, embedded chunks.

    It also notes that the waiting task of the job is alive. Raises InvalidQuery when the database has no such job.
    """
    build = builds.live(conn, index)
    ledger = jobs.ledger(conn, task_id)
    if not ledger.slices:
        raise _unknown(task_id)
    jobs.touch(conn, task_id)
    groups = [] if build is None else jobs.documents(conn, build, [task_id])[task_id]
    job = _Job(task_id=task_id, build=build, ledger=ledger, groups=groups)
    documents = job.states.total()
    return {
        "documents": documents + job.unchanged,
        "done": documents - job.states["pending"] + job.unchanged,
        "chunks": job.counts.get("chunks", 0),
        "embedded": job.embedded(conn)["embedded"],
    }


def _unknown(task_id: str) -> InvalidQuery:
    return InvalidQuery(
        f"job {task_id} is unknown: it staged nothing, its index was dropped, or its record was deleted "
        "because of its age; send its documents again"
    )


def _result(index: str, job: "_Job", embedded: Mapping[str, int]) -> Indexed:
    """The result of a job without pending documents."""
    live: Counter[str] = Counter()  # by outcome
    for group in job.groups:
        if group.state == "live":
            live[group.outcome] += group.documents
    result: Indexed = {
        "index": index,
        "indexed": live["indexed"],
        "unchanged": live["unchanged"] + job.unchanged,
        "stale": job.counts.get("stale", 0) + job.states["overtaken"],
        "failed": [*job.ledger.rejected, *(failure for group in job.groups for failure in group.failed)],
        "chunks": job.counts.get("chunks", 0),
        "embedded": embedded["embedded"],
        "tokens": embedded["tokens"],
    }
    if left_out := job.counts.get("left_out", 0):
        result["left_out"] = left_out
    if job.ledger.report is None:
        return result
    reindexed: Reindexed = {
        **result,
        "deleted": job.counts.get("deleted", 0),
        "seconds": round(job.ledger.seconds, 2),
        **job.ledger.report,
    }
    return reindexed


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A job as the database has it."""

    task_id: str
    build: Build | None
    ledger: JobLedger
    groups: Sequence[JobDocuments]

    @property
    def counts(self) -> Mapping[str, int]:
        return self.ledger.counts

    @property
    def unchanged(self) -> int:
        """Documents that were searchable as they came, so that the job does not wait for them."""
        return self.counts.get("unchanged", 0)

    @property
    def states(self) -> Counter[str]:
        """Numbers of documents by state."""
        states: Counter[str] = Counter()
        for group in self.groups:
            states[group.state] += group.documents
        return states

    def embedded(self, conn: Connection) -> dict[str, int]:
        """Chunks that staging queued and that have a vector now, and the tokens of these chunks.

        A content that another job has queued too may be missing here: never less than 0.
        """
        chunks, tokens = self.counts.get("embedded", 0), self.counts.get("tokens", 0)
        if chunks and self.build is not None and (self.states["pending"] or self.states["failed"]):
            missing = jobs.missing_vectors(conn, self.build, self.task_id)
            chunks, tokens = max(0, chunks - missing.chunks), max(0, tokens - missing.tokens)
        return {"embedded": chunks, "tokens": tokens}
