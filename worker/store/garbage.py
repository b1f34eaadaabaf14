"""What nothing refers to: vectors, revisions and queued contents that were left behind.

Candidates are looked for without a lock, in slices; each slice is deleted under the exclusive lock of the index, by
a statement that looks again. Staging relies on a vector under the shared lock: it comes before, and its chunks keep
the vector, or after, and queues the content anew.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from psycopg import errors as pg
from psycopg import sql

from worker.store import builds
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.statements import SCHEMA, statement, statements, tables

SLICE = 2_000  # rows that one statement looks at
TOMBSTONE_DAYS = 30  # how long a deleted document's id and version fence messages that are late
KEPT_SHARE = 0.2  # of a build's vectors may be unreferenced: they serve the same content when it comes again

Key = int | bytes | str
LOWEST, HIGHEST = {"hash": b""}, {"hash": b"\xff" * 33}  # of other keys: numbers from 1


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a collection deleted."""

    embeddings: int = 0
    kept: int = 0  # vectors that nothing refers to, and that stay
    revisions: int = 0
    pending: int = 0
    tombstones: int = 0


def collections_due(connection: Connection, *, seconds: float, erased_seconds: float) -> list[str]:
    """Take the indexes whose garbage was last collected `seconds` ago or earlier; each is given to one caller.

    For an index whose documents were deleted since, `erased_seconds` counts instead.
    """
    parameters = {"seconds": seconds, "erased_seconds": erased_seconds}
    rows = connection.execute(statement("garbage.sql", "collections_due"), parameters)
    return [row[0] for row in rows]


def collect_index(connection: Connection, index_id: int) -> Collected:
    """Collect all builds of an index, retired ones too; once documents were deleted, all unreferenced vectors go.

    A deleted document's earlier contents have no chunks by which their vectors could be found when it is deleted.
    """
    row = connection.execute(statement("garbage.sql", "erased_at"), {"index_id": index_id}).fetchone()
    erased_at = row[0] if row else None
    every = builds.every(connection, index_id)
    each = [collect(connection, build, kept_share=0.0 if erased_at else KEPT_SHARE) for build in every]
    total = Collected(**{name: sum(getattr(one, name) for one in each) for name in asdict(Collected())})
    if erased_at and not total.kept:
        parameters = {"index_id": index_id, "erased_at": erased_at}
        connection.execute(statement("garbage.sql", "all_erased"), parameters)
    return replace(total, tombstones=sum(delete_tombstones(connection, build) for build in every[:1]))


def collect(connection: Connection, build: Build, *, kept_share: float = KEPT_SHARE) -> Collected:
    """Delete what nothing refers to; vectors only where more than `kept_share` of the build's are.

    Revisions, which hold text, always: of all builds of the index. What cannot be locked within a second stays
    for the next time.
    """
    total = connection.execute(build.sql("garbage.sql", "count_embeddings")).fetchone() or (0,)
    unreferenced = sum(map(len, embeddings(connection, build)))
    deleted = delete_embeddings(connection, build) if unreferenced > kept_share * total[0] else 0
    return Collected(
        embeddings=deleted,
        kept=max(0, unreferenced - deleted),
        revisions=delete_revisions(connection, build),
        pending=delete_pending(connection, build),
    )


def embeddings(connection: Connection, build: Build) -> Iterator[dict[Key, str]]:
    """Vectors that no chunk refers to, a slice at a time: hash, and what to call it."""
    return found(connection, build, statement("garbage.sql", "embeddings", build.build), "embeddings", "hash")


def pending(connection: Connection, build: Build) -> Iterator[dict[Key, str]]:
    """Queued contents that no chunk has, as `embeddings`."""
    return found(connection, build, statement("garbage.sql", "pending", build.build), "pending", "hash")


def revisions(connection: Connection, build: Build) -> Iterator[dict[Key, str]]:
    """Revisions of the index that nothing refers to, by number, each with the id of its document."""
    return found(connection, build, _referring(connection, build, "revisions"), "revisions", "doc")


def delete_embeddings(connection: Connection, build: Build) -> int:
    text = build.sql("garbage.sql", "delete_embeddings")
    return sum(_delete(connection, build, lambda: text, keys) for keys in embeddings(connection, build))


def delete_pending(connection: Connection, build: Build) -> int:
    text = build.sql("garbage.sql", "delete_pending")
    return sum(_delete(connection, build, lambda: text, keys) for keys in pending(connection, build))


def delete_revisions(connection: Connection, build: Build) -> int:
    def text() -> sql.Composed:
        return _referring(connection, build, "delete_revisions")

    return sum(_delete(connection, build, text, keys) for keys in revisions(connection, build))


def delete_tombstones(connection: Connection, build: Build) -> int:
    """Forget documents of the index of a build that were deleted long ago."""
    text = statement("garbage.sql", "delete_tombstones")
    old = {"days": TOMBSTONE_DAYS}
    each = found(connection, build, statement("garbage.sql", "tombstones"), "documents", "doc", old)
    return sum(_delete(connection, build, lambda: text, keys, old) for keys in each)


def delete_unreferenced(connection: Connection, build: Build, hashes: Iterable[bytes]) -> None:
    """Delete what is queued and what is embedded of contents, where no chunk has them any more.

    Inside a transaction that holds the exclusive lock. What is queued goes first: a request that is under way saves
    what is queued still, and so comes before, and its vector goes too, or after, and saves nothing.
    """
    parameters = {"keys": sorted(set(hashes))}
    connection.execute(build.sql("garbage.sql", "delete_pending"), parameters)
    connection.execute(build.sql("garbage.sql", "delete_embeddings"), parameters)


def found(
    connection: Connection,
    build: Build,
    text: sql.Composed,
    table: str,
    key: str,
    parameters: Mapping[str, Any] | None = None,
) -> Iterator[dict[Key, str]]:
    """What a statement finds, slice by slice of the table: key, and what to call it. Each slice is one snapshot."""
    for after, until in slices(connection, build, table, key):
        values = {"after": after, "until": until, "index_id": build.index_id, **(parameters or {})}
        rows = connection.execute(text, values).fetchall()
        if rows:
            yield dict(rows)


def slices(connection: Connection, build: Build, table: str, key: str) -> Iterator[tuple[Key, Key]]:
    """The bounds of slices of SLICE rows, in the order of the key: above the first, up to the second."""
    walked = tables(build.build).get(table, sql.Identifier(SCHEMA, table))
    text = sql.SQL(statements("garbage.sql")["bound"]).format(key=sql.Identifier(key), table=walked)
    after: Any = LOWEST.get(key, 0)
    highest: Any = HIGHEST.get(key, 2**63 - 1)
    while after < highest:
        row = connection.execute(text, {"after": after, "size": SLICE - 1}).fetchone()
        until = row[0] if row else highest
        yield after, until
        after = until


@retry_on_deadlock
def _delete(
    connection: Connection,
    build: Build,
    text: Callable[[], sql.Composed],
    keys: Iterable[Key],
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """Delete what is still not referred to, under the exclusive lock; 0 when that cannot be had in time.

    `text` is asked under the lock, as the list of builds cannot change then.
    """
    try:
        with connection.transaction():
            connection.execute(statement("garbage.sql", "lock_timeout"))
            with builds.locked(connection, build.index_id, exclusive=True):
                return connection.execute(text(), {"keys": list(keys), **(parameters or {})}).rowcount
    except pg.LockNotAvailable:
        return 0


def _referring(connection: Connection, build: Build, name: str) -> sql.Composed:
    """A statement over revisions that leaves alone what any build of the index shows or wants, retired ones too."""
    each = [other.sql("garbage.sql", "referred") for other in builds.every(connection, build.index_id)]
    return sql.SQL(statements("garbage.sql")[name]).format(referred=sql.SQL(" OR ").join(each))
