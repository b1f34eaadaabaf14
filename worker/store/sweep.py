"""The sweep: publish and queue again the work that a dead worker left behind."""

from dataclasses import asdict, dataclass

from worker.store import builds, publishing
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.statements import statement

SWEEP_LIMIT = 500  # documents of one sweep: it never reads the whole backlog


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """What a sweep repaired."""

    published: int = 0  # complete documents: a worker died between save and publish
    queued: int = 0  # contents neither embedded nor pending: the protocol has no such state, so each is a bug


@retry_on_deadlock
def sweep_build(connection: Connection, build: Build, *, unchecked_seconds: float = 10.0) -> Repairs:
    """Publish or queue the pending documents that were checked longest ago, up to SWEEP_LIMIT.

    Skips documents that were checked within the last `unchecked_seconds`.
    """
    with connection.transaction():
        parameters = {"limit": SWEEP_LIMIT, "seconds": unchecked_seconds}
        rows = connection.execute(build.sql("sweep.sql", "least_recently_checked"), parameters).fetchall()
    docs = [row[0] for row in rows]
    published = publishing.publish(connection, build, docs)
    with builds.locked(connection, build.index_id, exclusive=False):
        queued = connection.execute(build.sql("sweep.sql", "queue_missing"), {"docs": docs}).fetchall()
    repairs = Repairs(published=published, queued=len(queued))
    if repairs != Repairs():
        parameters = {"build": build.build, **asdict(repairs)}
        connection.execute(statement("sweep.sql", "count_repairs"), parameters)
    return repairs
