"""The queue of contents that need a vector: claim, save, give back, fail, split.

A claim is a lease by the database's clock. Saving is not fenced, as saving twice is a no-op; giving back,
failing and splitting are fenced by the claim's token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from psycopg import sql
from psycopg.rows import namedtuple_row

from worker.documents import Chunk
from worker.store import builds
from worker.store.builds import Build
from worker.store.connection import Connection, retry_on_deadlock
from worker.store.statements import statements, tables

PRIORITIES = (0, 1, 2)  # jobs, reindexing, rebuilding
ALONE_FROM_ATTEMPT = 3  # from then on a content travels alone, so that only the guilty one can fail


@dataclass(frozen=True, kw_only=True)
class Input:
    """One content of a claim: what to send, and how often it was claimed before."""

    hash: bytes
    heading: str
    text: str
    tokens: int
    attempts: int  # this claim included


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What one request will carry; other workers leave it alone until the lease ends."""

    build: Build
    token: UUID
    inputs: Sequence[Input]  # may be empty, when all that was claimed falls under the next two
    saved: Sequence[bytes]  # contents that had their vector already: publish what wants them
    orphans: Sequence[bytes]  # contents that no chunk has any more: forget them
    expired: int  # contents of it that another claim held until its lease ended
    suspect: bool  # it travels alone, and the claim before this one never ended: it may be what kills workers


Fill = Callable[[Sequence[int]], int]  # how many of these token counts, in order, fill one request


def waiting(connection: Connection, build: Build, *, limit: int) -> tuple[int, int]:
    """How many contents nobody holds, looked at as far as `limit`, and the tokens of the largest of them."""
    parameters = {"limit": limit, "priorities": list(PRIORITIES)}
    [(number, tokens)] = connection.execute(build.sql("queue.sql", "count_waiting"), parameters)
    return number, tokens


@retry_on_deadlock
def claim(
    connection: Connection, build: Build, *, limit: int, fill: Fill, lease_seconds: float
) -> Claim | None:
    """Claim what fills one request, the most urgent first; None when nothing waits.

    `limit` bounds the inputs, `fill` the tokens. A content that failed twice travels alone.
    """
    token = uuid4()
    with connection.transaction():
        rows = _claimable(connection, build, limit)
        rows = rows[: fill([row.tokens for row in rows])]
        alone = next((at for at, row in enumerate(rows) if row.attempts + 1 >= ALONE_FROM_ATTEMPT), None)
        rows = rows if alone is None else rows[: max(alone, 1)]
        if not rows:
            return None
        attempts = {row.hash: row.attempts + 1 for row in rows}
        tokens = {row.hash: row.tokens for row in rows}
        gone = connection.execute(
            build.sql("queue.sql", "drop_embedded"), {"hashes": list(attempts)}
        ).fetchall()
        saved = [row[0] for row in gone]
        wanted = [hash for hash in attempts if hash not in set(saved)]
        connection.execute(
            build.sql("queue.sql", "lease"), {"hashes": wanted, "seconds": lease_seconds, "token": token}
        )
        found = connection.execute(build.sql("queue.sql", "inputs"), {"hashes": wanted}).fetchall()
    inputs = {
        hash: Input(hash=hash, heading=heading, text=text, tokens=tokens[hash], attempts=attempts[hash])
        for hash, heading, text in found
    }
    return Claim(
        build=build,
        token=token,
        inputs=[inputs[hash] for hash in wanted if hash in inputs],
        saved=saved,
        orphans=[hash for hash in wanted if hash not in inputs],
        expired=sum(row.abandoned for row in rows),
        suspect=alone == 0 and rows[0].abandoned,
    )


@retry_on_deadlock
def renew(connection: Connection, held: Claim, *, lease_seconds: float) -> bool:
    """Begin the lease of a claim again that waited before its request; false when somebody else has it by now."""
    parameters = {
        "hashes": [item.hash for item in held.inputs],
        "token": held.token,
        "seconds": lease_seconds,
    }
    return connection.execute(held.build.sql("queue.sql", "renew"), parameters).rowcount == len(held.inputs)


@retry_on_deadlock
def save(connection: Connection, build: Build, hashes: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
    """Turn pending contents into embeddings, in one commit; `vectors` has a row per hash. Late or twice: no-op."""
    column = Vector if build.vector == "vector" else HalfVector
    order = sorted(range(len(hashes)), key=lambda at: hashes[at])
    parameters = {
        "hashes": [hashes[at] for at in order],
        "embeddings": [column(vectors[at]) for at in order],
    }
    with connection.transaction():
        connection.execute(_save_statement(build), parameters)
        connection.execute(build.sql("queue.sql", "drop_saved"), parameters)


@retry_on_deadlock
def release(connection: Connection, held: Claim, *, seconds: float = 0.0, counted: bool = True) -> None:
    """End a claim without a result; its contents are visible again after `seconds`.

    Not `counted`, the claim was no attempt: waiting for a rate limit or for mended settings punishes nobody.
    """
    hashes = [*(item.hash for item in held.inputs), *held.orphans]
    parameters = {
        "hashes": hashes,
        "token": held.token,
        "seconds": seconds,
        "uncounted": 0 if counted else 1,
    }
    connection.execute(held.build.sql("queue.sql", "release"), parameters)


@retry_on_deadlock
def fail(connection: Connection, held: Claim, hash: bytes, error: str) -> list[str]:
    """Give one content up and fail the documents that want it; their ids. None when the claim no longer holds it.

    Exclusive: a staging that relies on the queued content either comes before, and its document fails too, or
    after, and queues it anew.
    """
    parameters: dict[str, Any] = {"hashes": [hash], "token": held.token, "error": error}
    build = held.build
    with builds.locked(connection, build.index_id, exclusive=True):
        if not connection.execute(build.sql("queue.sql", "give_up"), parameters).fetchall():
            return []
        docs = [row[0] for row in connection.execute(build.sql("queue.sql", "lock_wanting"), parameters)]
        failed = connection.execute(build.sql("queue.sql", "mark_failed"), parameters | {"docs": docs})
        return [row[0] for row in failed]


@retry_on_deadlock
def split(connection: Connection, held: Claim, cut: Sequence[tuple[Input, Sequence[Chunk]]]) -> list[int]:
    """Put smaller chunks in the place of contents that are too large; the documents to publish.

    Of each content at least two pieces, whose spans count from its start. Contents that the claim no longer holds
    are left alone. Exclusive, as `fail` is: whoever stages the same content comes before, and has it replaced too,
    or after, and queues it anew.
    """
    build = held.build
    with builds.locked(connection, build.index_id, exclusive=True):
        parameters: dict[str, Any] = {"hashes": [item.hash for item, _ in cut], "token": held.token}
        given_up = connection.execute(build.sql("queue.sql", "give_up"), parameters).fetchall()
        if not given_up:
            return []
        mine = {hash for hash, _ in given_up}
        parameters |= _columns([(item, pieces) for item, pieces in cut if item.hash in mine])
        docs = [row[0] for row in connection.execute(build.sql("queue.sql", "lock_wanting"), parameters)]
        parameters |= {"docs": docs, "priority": min(priority for _, priority in given_up)}
        # the same string may be another heading and text elsewhere: that content is queued again, and cut in its turn
        parameters["wanted"] = [*parameters["pieces"], *parameters["hashes"]]
        connection.execute(build.sql("queue.sql", "put_pieces"), parameters)
        connection.execute(build.sql("queue.sql", "queue_pieces"), parameters)
        return docs


@retry_on_deadlock
def delete_orphans(connection: Connection, build: Build, hashes: Sequence[bytes]) -> None:
    """Take contents out of the queue that no chunk has any more; exclusive, as `fail` is."""
    with builds.locked(connection, build.index_id, exclusive=True):
        connection.execute(build.sql("queue.sql", "delete_orphans"), {"hashes": list(hashes)})


def _columns(cut: Sequence[tuple[Input, Sequence[Chunk]]]) -> dict[str, list[Any]]:
    """Contents and their pieces as the arrays of `put_pieces`."""
    each = [(item.hash, at, piece) for item, pieces in cut for at, piece in enumerate(pieces)]
    return {
        "hashes": [item.hash for item, _ in cut],
        "headings": [item.heading for item, _ in cut],
        "texts": [item.text for item, _ in cut],
        "sizes": [len(pieces) for _, pieces in cut],
        "of": [hash for hash, _, _ in each],
        "at": [at for _, at, _ in each],
        "pieces": [piece.hash for _, _, piece in each],
        "starts": [piece.start for _, _, piece in each],
        "ends": [piece.end for _, _, piece in each],
        "tokens": [piece.tokens for _, _, piece in each],
        "piece_headings": [piece.heading for _, _, piece in each],
        "piece_texts": [piece.text for _, _, piece in each],
    }


def _save_statement(build: Build) -> sql.Composed:
    text = sql.SQL(statements("queue.sql")["save_embeddings"])
    return text.format(column=sql.SQL(build.vector), **tables(build.build))


def _claimable(connection: Connection, build: Build, limit: int) -> list[Any]:
    """Rows that nobody holds, locked; one query per priority, so that leased rows of one are not walked for another."""
    rows: list[Any] = []
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        for priority in PRIORITIES:
            if len(rows) < limit:
                parameters = {"priority": priority, "limit": limit - len(rows)}
                rows += cursor.execute(build.sql("queue.sql", "claimable"), parameters).fetchall()
    return rows
