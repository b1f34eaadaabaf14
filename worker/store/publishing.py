"""Publish: make complete revisions live.

Rows are locked in one statement and checked in the next, as docs/internals/protocol.md says.
"""

from collections.abc import Sequence

from worker.errors import BuildDropped
from worker.observability import events
from worker.store import builds
from worker.store.builds import Build, publishing_key
from worker.store.connection import DROPPED, Connection, lookups, prepared, retry_on_deadlock
from worker.store.statements import statement

PUBLISH_SLICE = 200  # documents locked at once, as thousands may share one content


@retry_on_deadlock
def publish(connection: Connection, build: Build, docs: Sequence[int]) -> int:
    """Make every wanted revision live that has all of its vectors; the number of documents.

    Run it after the commit that saved vectors, after staging for its own documents, and in the sweep.
    It waits for locks: with SKIP LOCKED, two workers that complete one document together would both skip it.

    While another build is about to replace the live one, the live build publishes only what that build has already.
    A retired build publishes nothing more.
    """
    published = 0
    for at in range(0, len(docs), PUBLISH_SLICE):
        some = sorted(docs)[at : at + PUBLISH_SLICE]
        with connection.transaction(), prepared(connection):
            connection.execute(statement("builds.sql", "lock_publishing"), publishing_key(build.index_id))
            every = {each.build: each for each in builds.every(connection, build.index_id)}
            if build.build not in every:
                raise BuildDropped(DROPPED)
            state = every[build.build].state
            closing = next((each for each in every.values() if each.state == "closing"), None)
            live = [] if state == "retired" else _publish(connection, build, some, _gate(state, closing))
        published += len(live)
        if state == "live":
            events.published(build.index, live)
        elif state == "closing":  # what the live build has withheld for it
            publish(connection, next(each for each in every.values() if each.state == "live"), some)
    return published


def _gate(state: str, closing: Build | None) -> Build | None:
    """The build that must have a revision before a build in this state publishes it."""
    return closing if state == "live" else None


def _publish(connection: Connection, build: Build, docs: Sequence[int], gate: Build | None) -> list[str]:
    """Publish documents in a transaction; the ids of those that became live."""
    rows = connection.execute(build.sql("publishing.sql", "lock_wanted"), {"docs": list(docs)}).fetchall()
    if gate is not None:
        parameters = {"docs": [row[0] for row in rows], "revs": [row[1] for row in rows]}
        found = connection.execute(gate.sql("publishing.sql", "has_revisions"), parameters)
        docs = [row[0] for row in found]
    found = connection.execute(build.sql("publishing.sql", "publish"), {"docs": list(docs)})
    return [row[0] for row in found]


def documents_waiting_for(connection: Connection, build: Build, hashes: Sequence[bytes]) -> list[int]:
    """The documents whose wanted revision has one of these contents, by doc."""
    parameters = {"hashes": list(hashes)}
    with lookups(connection):
        rows = connection.execute(build.sql("publishing.sql", "documents_waiting_for"), parameters).fetchall()
    return [row[0] for row in rows]
