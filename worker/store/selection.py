"""Select the documents that a deletion by filter takes: enqueued texts and newest revisions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from worker.store.connection import Connection
from worker.store.filters import Filter
from worker.store.statements import statements

PAGE = 100  # documents of one transaction


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Documents to delete in one transaction."""

    # by id: the newest revision, or None; a document with another newest revision by then stays
    heads: Mapping[str, int | None] = field(default_factory=dict)
    seqs: Sequence[int] = ()  # outbox rows


def select(connection: Connection, index_id: int, name: str, where: Filter) -> Iterator[Selection]:
    """Yield what passes a filter, page by page: enqueued texts first, as they may be staged meanwhile."""
    yield from enqueued(connection, index_id, name, where)
    after, more = "", True
    while more:
        heads = newest_revisions(connection, index_id, where=where, after=after, limit=PAGE)
        if more := bool(heads):
            after = list(heads)[-1]  # in the order of the database
            yield Selection(heads=heads)


def enqueued(connection: Connection, index_id: int, name: str, where: Filter) -> Iterator[Selection]:
    """Yield the enqueued texts that pass a filter.

    When the newest enqueued text of a document passes, the document goes with it. When only an older one passes, only
    that text goes.
    """
    condition, parameters = where
    text = sql.SQL(statements("selection.sql")["enqueued"]).format(filter=condition)
    after, more = "", True
    while more:
        values = {"index_id": index_id, "name": name, "after": after, "limit": PAGE, **parameters}
        rows = connection.execute(text, values).fetchall()
        if more := bool(rows):
            after = rows[-1][0]
            yield Selection(
                heads={id: head for id, _, head, newest in rows if newest},
                seqs=[seq for _, seqs, _, _ in rows for seq in seqs],
            )


def newest_revisions(
    connection: Connection, index_id: int, *, where: Filter, after: str, limit: int
) -> Mapping[str, int]:
    """Documents with ids above `after`, in order, whose newest revision passes the filter; that revision by id."""
    condition, parameters = where
    text = sql.SQL(statements("selection.sql")["newest_revisions"]).format(filter=condition)
    values = {"index_id": index_id, "after": after, "limit": limit}
    return dict(connection.execute(text, {**values, **parameters}))
