"""What a deletion takes beside the documents of the index: texts that are enqueued and not yet staged.

A worker stages them under the shared lock of the index, a deletion takes them under the exclusive one: a text is staged
before, and deleted with its document, or never.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from worker.store import search
from worker.store.connection import Connection
from worker.store.search import Filter
from worker.store.statements import statement, statements

PAGE = 100  # documents of one transaction


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Documents that a deletion is to take, all in one transaction."""

    heads: Mapping[str, int | None] = field(
        default_factory=dict
    )  # by id: what has another newest revision by then stays
    seqs: Sequence[int] = ()  # rows of the outbox


def matching(connection: Connection, index_id: int, name: str, where: Filter) -> Iterator[Chosen]:
    """What passes a filter, page by page: enqueued texts, as they may be staged meanwhile, then newest revisions."""
    yield from enqueued(connection, index_id, name, where)
    after, more = "", True
    while more:
        heads = search.matching(connection, index_id, where=where, after=after, limit=PAGE)
        if more := bool(heads):
            after = list(heads)[-1]  # in the order of the database
            yield Chosen(heads=heads)


def enqueued(connection: Connection, index_id: int, name: str, where: Filter) -> Iterator[Chosen]:
    """The enqueued texts that pass a filter.

    A document whose newest text is enqueued and passes goes with it; where only an older one does, that text alone.
    """
    condition, parameters = where
    text = sql.SQL(statements("erasure.sql")["enqueued"]).format(filter=condition)
    after, more = "", True
    while more:
        values = {"index_id": index_id, "name": name, "after": after, "limit": PAGE, **parameters}
        rows = connection.execute(text, values).fetchall()
        if more := bool(rows):
            after = rows[-1][0]
            yield Chosen(
                heads={id: head for id, _, head, newest in rows if newest},
                seqs=[seq for _, seqs, _, _ in rows for seq in seqs],
            )


def erase_rows(connection: Connection, index_id: int, seqs: Sequence[int], version: int | None) -> None:
    """Delete enqueued texts that were chosen, where nobody has staged them meanwhile; otherwise as `erase_enqueued`."""
    _erase(connection, index_id, "seq", seqs, version)


def erase_enqueued(connection: Connection, index_id: int, ids: Sequence[str], version: int | None) -> None:
    """Delete what is enqueued of documents that are being deleted, unless it has a higher version.

    The highest version that goes becomes that of the document, or of a tombstone: what is older comes too late, as it
    would have behind the text.
    """
    _erase(connection, index_id, "id", ids, version)


def erase_rejected(
    connection: Connection,
    index_id: int,
    ids: Sequence[str],
    version: int | None,
    *,
    before: Mapping[str, int] | None = None,
) -> None:
    """As `erase_enqueued`, of what could not be staged alone; with `before`, by id, of what has a lower number."""
    parameters = {"index_id": index_id, "ids": list(ids), "before": [before and before[id] for id in ids]}
    rows = connection.execute(statement("outbox.sql", "rejected"), parameters).fetchall()
    erase_rows(connection, index_id, [seq for (seq,) in rows], version)


def _erase(
    connection: Connection, index_id: int, key: str, keys: Sequence[int | str], version: int | None
) -> None:
    if keys:
        text = sql.SQL(statements("erasure.sql")["erase"]).format(key=sql.Identifier(key))
        connection.execute(text, {"index_id": index_id, "keys": list(keys), "version": version})
