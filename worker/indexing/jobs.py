"""Jobs: the result and the progress of one message's documents."""

from collections import Counter
from typing import Any

from worker.errors import InvalidQuery
from worker.store import builds, jobs
from worker.store.connection import Connection


def job_result(conn: Connection, index: str, task_id: str) -> tuple[dict[str, Any] | None, dict[str, int]]:
    """Return the result of a job (`None` while some of its documents are pending) and its progress.

    Raises InvalidQuery when the database has no such job.
    """
    build = builds.live(conn, index)
    ledger = jobs.ledger(conn, task_id)
    if not ledger.slices:
        raise InvalidQuery(
            f"job {task_id} is unknown: it staged nothing, or its record was deleted because of its age; "
            "send its documents again"
        )
    groups = [] if build is None else jobs.documents(conn, build, task_id)
    states: Counter[str] = Counter()
    live: Counter[str] = Counter()  # by outcome
    for group in groups:
        states[group.state] += group.documents
        if group.state == "live":
            live[group.outcome] += group.documents
    counts = ledger.counts
    unchanged = counts.get("unchanged", 0)  # a reindexing stages only documents that changed
    progress = {
        "documents": states.total() + unchanged,
        "done": states.total() - states["pending"] + unchanged,
        "chunks": counts.get("chunks", 0),
        "embedded": counts.get("embedded", 0),
    }
    if states["pending"] or not ledger.complete:
        return None, progress
    jobs.finish(conn, task_id)
    result = {
        "index": index,
        "indexed": live["indexed"],
        "unchanged": live["unchanged"] + unchanged,
        "stale": counts.get("stale", 0) + states["overtaken"],
        "failed": [*ledger.rejected, *(failure for group in groups for failure in group.failed)],
        "chunks": counts.get("chunks", 0),
        "embedded": counts.get("embedded", 0),
        "tokens": counts.get("tokens", 0),
    }
    if ledger.report is not None:
        of_reindexing = {"deleted": counts.get("deleted", 0), "seconds": round(ledger.seconds, 2)}
        result |= of_reindexing | dict(ledger.report)
    return result, progress
