"""Garbage collection: unreferenced vectors, revisions and queued contents, and old tombstones.

Candidates are found in slices, without a lock. Each slice is deleted under the exclusive lock of the index, by a
statement that checks again. Staging relies on vectors under the shared lock: it comes first and its chunks keep the
vector, or it comes later and queues the content anew.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from psycopg import errors as pg
from psycopg import sql

from worker.store import builds, refusals
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock, walking
from worker.store.statements import SCHEMA, statement, statements, tables

SLICE = 2_000  # rows that one statement looks at
TOMBSTONE_DAYS = 30  # how long id and version of a deleted document fence late messages
KEPT_SHARE = 0.2  # share of unreferenced vectors that a build keeps, in case their content returns

Key = int | bytes | str
LOWEST, HIGHEST = {"hash": b""}, {"hash": b"\xff" * 33}  # other keys are numbers from 1
PLACE = "ctid"  # key of a walk in the order in which rows are stored, of rows that are never updated
PAGES = 100  # of a slice in that order


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a collection deleted, in rows."""

    embeddings: int = 0
    kept: int = 0  # unreferenced vectors that stay
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
    """Collect the garbage of all builds of an index, including retired ones.

    Old refusals go too. After a deletion of documents, all unreferenced vectors go: a deletion cannot find the vectors
    of earlier revisions, as those have no chunks any more.
    """
    row = connection.execute(statement("garbage.sql", "erased_at"), {"index_id": index_id}).fetchone()
    erased_at = row[0] if row else None
    every = builds.every(connection, index_id)
    each = [collect(connection, build, kept_share=0.0 if erased_at else KEPT_SHARE) for build in every]
    total = Collected(**{name: sum(getattr(one, name) for one in each) for name in asdict(Collected())})
    refusals.delete_expired(connection, index_id)
    if erased_at and not total.kept:
        parameters = {"index_id": index_id, "erased_at": erased_at}
        connection.execute(statement("garbage.sql", "clear_erased"), parameters)
    return replace(total, tombstones=sum(delete_tombstones(connection, build) for build in every[:1]))


def collect(connection: Connection, build: Build, *, kept_share: float = KEPT_SHARE) -> Collected:
    """Collect the garbage of a build: vectors only if more than `kept_share` of them are unreferenced.

    Revisions hold text, so unreferenced ones always go. Rows that cannot be locked within a second stay for the next
    collection.
    """
    total = connection.execute(build.sql("garbage.sql", "count_embeddings")).fetchone() or (0,)
    unreferenced = sum(map(len, unreferenced_embeddings(connection, build)))
    deleted = delete_embeddings(connection, build) if unreferenced > kept_share * total[0] else 0
    return Collected(
        embeddings=deleted,
        kept=max(0, unreferenced - deleted),
        revisions=delete_revisions(connection, build),
        pending=delete_pending(connection, build),
    )


def unreferenced_embeddings(connection: Connection, build: Build) -> Iterator[dict[Key, str]]:
    """Find vectors without a chunk, slice by slice: the name to show by hash."""
    return find_in_slices(
        connection,
        build,
        statement("garbage.sql", "unreferenced_embeddings", build.build),
        "embeddings",
        "hash",
    )


def unreferenced_pending(connection: Connection, build: Build) -> Iterator[dict[Key, str]]:
    """Find queued contents without a chunk, slice by slice: the name to show by hash."""
    return find_in_slices(
        connection, build, statement("garbage.sql", "unreferenced_pending", build.build), "pending", "hash"
    )


def unreferenced_revisions(connection: Connection, build: Build) -> Iterator[dict[Key, str]]:
    """Find unreferenced revisions of the index, slice by slice: the id of the document by revision."""
    return find_in_slices(
        connection,
        build,
        _statement_over_revisions(connection, build, "unreferenced_revisions"),
        "revisions",
        "doc",
    )


def delete_embeddings(connection: Connection, build: Build) -> int:
    """Delete vectors without a chunk; the number of them."""
    text = build.sql("garbage.sql", "delete_embeddings")
    return sum(
        _delete(connection, build, lambda: text, keys) for keys in unreferenced_embeddings(connection, build)
    )


def delete_pending(connection: Connection, build: Build) -> int:
    """Delete queued contents without a chunk; the number of them."""
    text = build.sql("garbage.sql", "delete_pending")
    return sum(
        _delete(connection, build, lambda: text, keys) for keys in unreferenced_pending(connection, build)
    )


def delete_revisions(connection: Connection, build: Build) -> int:
    """Delete unreferenced revisions of the index; the number of them."""

    def text() -> sql.Composed:
        return _statement_over_revisions(connection, build, "delete_revisions")

    return sum(_delete(connection, build, text, keys) for keys in unreferenced_revisions(connection, build))


def delete_tombstones(connection: Connection, build: Build) -> int:
    """Delete tombstones older than TOMBSTONE_DAYS from the index of a build; the number of them."""
    text = statement("garbage.sql", "delete_tombstones")
    old = {"days": TOMBSTONE_DAYS}
    each = find_in_slices(
        connection, build, statement("garbage.sql", "old_tombstones"), "documents", "doc", old
    )
    return sum(_delete(connection, build, lambda: text, keys, old) for keys in each)


def delete_unreferenced(connection: Connection, build: Build, hashes: Iterable[bytes]) -> None:
    """Delete contents from the queue and their vectors where no chunk has them any more.

    Runs inside a transaction that holds the exclusive lock. Queued rows go first, as a request in flight saves only
    contents that are still queued: if it saves before, its vector goes too; if later, it saves nothing.
    """
    parameters = {"keys": sorted(set(hashes))}
    connection.execute(build.sql("garbage.sql", "delete_pending"), parameters)
    connection.execute(build.sql("garbage.sql", "delete_embeddings"), parameters)


def find_in_slices(
    connection: Connection,
    build: Build,
    text: sql.Composed,
    table: str,
    key: str,
    parameters: Mapping[str, Any] | None = None,
) -> Iterator[dict[Key, str]]:
    """Run a statement over each slice of a table: the name to show by key. Each slice is one snapshot."""
    for after, until in slices(connection, build, table, key):
        values = {"after": after, "until": until, "index_id": build.index_id, **(parameters or {})}
        with walking(connection):
            rows = connection.execute(text, values).fetchall()
        if rows:
            yield dict(rows)


def slices(connection: Connection, build: Build, table: str, key: str) -> Iterator[tuple[Key, Key]]:
    """The bounds of slices in key order: above the first bound, up to and including the second.

    A slice has SLICE rows. In the order of PLACE it has PAGES pages, and the last one ends with the table as it was.
    """
    walked = tables(build.build).get(table, sql.Identifier(SCHEMA, table))
    if key == PLACE:
        [(pages,)] = connection.execute(
            sql.SQL(statements("garbage.sql")["pages"]).format(table=walked)
        ).fetchall()
        yield from ((f"({at},0)", f"({at + PAGES},0)") for at in range(0, pages, PAGES))
        return
    text = sql.SQL(statements("garbage.sql")["slice_end"]).format(key=sql.Identifier(key), table=walked)
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
    """Delete rows that are still unreferenced, under the exclusive lock; 0 if the lock is not free within a second.

    Calls `text` under the lock, as the list of builds cannot change then.
    """
    try:
        with connection.transaction():
            connection.execute(statement("garbage.sql", "lock_timeout"))
            with builds.locked(connection, build.index_id, exclusive=True):
                return connection.execute(text(), {"keys": list(keys), **(parameters or {})}).rowcount
    except pg.LockNotAvailable:
        return 0


def _statement_over_revisions(connection: Connection, build: Build, name: str) -> sql.Composed:
    """A statement over revisions that skips those served or wanted by any build of the index, even a retired one."""
    each = [other.sql("garbage.sql", "is_referenced") for other in builds.every(connection, build.index_id)]
    return sql.SQL(statements("garbage.sql")[name]).format(referenced=sql.SQL(" OR ").join(each))
