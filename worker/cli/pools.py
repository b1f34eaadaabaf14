"""The kinds of worker process: which queues each consumes, and with what concurrency."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.keyspace import CHAT, EMBED, QUEUES, STAGING


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How a worker process consumes its queues."""

    queues: Sequence[str]
    kind: str  # name of Celery's pool implementation
    concurrency: int | None  # threads or processes; None: one per core
    niceness: int = 0  # of the process, 0 to 19: the system prefers processes of less


# Somebody waits for an answer, so on a busy machine chat gets the CPU time first, and indexing the rest.
INDEXING_NICENESS = 5

# Staging parses and hashes, which takes CPU time; the others wait for a provider or for Postgres.
# `processes` is Celery's prefork pool: Celery reads `--pool prefork` as "not given" and uses the app's setting instead.
POOLS = {
    "staging": Pool(queues=[STAGING], kind="processes", concurrency=None, niceness=INDEXING_NICENESS),
    "embed": Pool(queues=[EMBED], kind="threads", concurrency=64, niceness=INDEXING_NICENESS),
    "chat": Pool(queues=[CHAT], kind="threads", concurrency=16),
    "all": Pool(queues=QUEUES, kind="threads", concurrency=64),
}
UP_POOLS = ("staging", "embed", "chat")  # a process each, so that a backlog of documents delays no answer
SMALL_POOLS = ("all",)  # of a small machine
PERIODIC_POOLS = ("embed", "all")  # they also send the periodic tasks
