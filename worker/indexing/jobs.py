"""Watch: what became of a job, and how far it is."""

from collections import Counter
from typing import Any

from worker.errors import InvalidQuery
from worker.store import builds, jobs
from worker.store.connection import Connection


def report(conn: Connection, index: str, task_id: str) -> tuple[dict[str, Any] | None, dict[str, int]]:
    """The result of a job once nothing of it is pending, else None; and its progress.

    Raises InvalidQuery when the database knows no such job.
    """
    build = builds.live(conn, index)
    ledger = jobs.ledger(conn, task_id)
    if not ledger.slices:
        raise InvalidQuery(
            f"nothing was staged by the task {task_id}, or so long ago that it is forgotten: send its documents again"
        )
    alike = [] if build is None else jobs.documents(conn, build, task_id)
    states: Counter[str] = Counter()
    live: Counter[str] = Counter()  # by outcome
    for some in alike:
        states[some.state] += some.documents
        if some.state == "live":
            live[some.outcome] += some.documents
    counts = ledger.counts
    unchanged = counts.get("unchanged", 0)  # of a reindexing, which stages only what is new
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
        "failed": [*ledger.rejected, *(failure for some in alike for failure in some.failed)],
        "chunks": counts.get("chunks", 0),
        "embedded": counts.get("embedded", 0),
        "tokens": counts.get("tokens", 0),
    }
    if ledger.report is not None:
        reread = {"deleted": counts.get("deleted", 0), "seconds": round(ledger.seconds, 2)}
        result |= reread | dict(ledger.report)
    return result, progress
