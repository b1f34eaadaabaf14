"""Watch: what became of a job, and how far it is."""

from typing import Any

from worker.store import builds, upkeep
from worker.store.connection import Connection


def report(conn: Connection, index: str, task_id: str) -> tuple[dict[str, Any] | None, dict[str, int]]:
    """The result of a job once nothing of it is pending, else None; and its progress."""
    build = builds.live(conn, index)
    ledger = upkeep.job_ledger(conn, task_id)
    documents = [] if build is None else upkeep.job_documents(conn, build, task_id)
    states = [document.state for document in documents]
    counts = ledger.counts
    progress = {
        "documents": len(documents),
        "done": len(documents) - states.count("pending"),
        "chunks": counts.get("chunks", 0),
        "embedded": counts.get("embedded", 0),
    }
    if "pending" in states or not ledger.complete:
        return None, progress
    upkeep.finish_job(conn, task_id)
    live = [document.outcome for document in documents if document.state == "live"]
    failed = [{"id": d.id, "error": d.error} for d in documents if d.state == "failed"]
    result = {
        "index": index,
        "indexed": live.count("indexed"),
        "unchanged": live.count("unchanged"),
        "stale": counts.get("stale", 0) + states.count("overtaken"),
        "failed": [*ledger.rejected, *failed],
        "chunks": counts.get("chunks", 0),
        "embedded": counts.get("embedded", 0),
        "tokens": counts.get("tokens", 0),
    }
    if ledger.report is not None:
        reread = {"deleted": counts.get("deleted", 0), "seconds": round(ledger.seconds, 2)}
        result |= reread | dict(ledger.report)
    return result, progress
