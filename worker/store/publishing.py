"""Publish: make complete revisions live.

Rows are locked in one statement and checked in the next, as docs/protocol.md says.
"""

from collections.abc import Sequence

from worker.observability import events
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock

PUBLISH_SLICE = 200  # documents locked at once, as thousands may share one content


@retry_on_deadlock
def publish(connection: Connection, build: Build, docs: Sequence[int]) -> int:
    """Make every wanted revision live that has all of its vectors; the number of documents.

    Run it after the commit that saved vectors, after staging for its own documents, and in the sweep.
    It waits for locks: with SKIP LOCKED, two workers that complete one document together would both skip it.
    """
    published = 0
    for at in range(0, len(docs), PUBLISH_SLICE):
        parameters = {"docs": sorted(docs)[at : at + PUBLISH_SLICE]}
        with connection.transaction():
            connection.execute(build.sql("publishing.sql", "lock_wanted"), parameters)
            live = [row[0] for row in connection.execute(build.sql("publishing.sql", "publish"), parameters)]
        published += len(live)
        if build.state == "live":
            events.published(build.index, live)
    return published


def documents_waiting_for(connection: Connection, build: Build, hashes: Sequence[bytes]) -> list[int]:
    """The documents whose wanted revision has one of these contents, by doc."""
    rows = connection.execute(build.sql("publishing.sql", "documents_waiting_for"), {"hashes": list(hashes)})
    return [row[0] for row in rows]
