"""The queue of contents that need a vector: claim, save, release, fail and split them.

A claim is a lease by the clock of the database. Saving twice is harmless, so it needs no fence. Releasing, failing and
splitting are fenced by the token of the claim.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from psycopg import sql
from psycopg.rows import namedtuple_row

from worker.documents import Chunk
from worker.store import builds, languages, lexemes
from worker.store.builds import Build
from worker.store.connection import Connection, lookups, retry_on_deadlock
from worker.store.statements import statements, tables

PRIORITIES = (0, 1, 2)  # jobs; reindexing and large documents; rebuilding
URGENT = (0, 1)  # those before rebuilding
ALONE_FROM_ATTEMPT = 3  # from this attempt on a content is sent alone, so that only the one at fault can fail


@dataclass(frozen=True, kw_only=True)
class Input:
    """One content of a claim: the string to embed, and its number of attempts."""

    hash: bytes
    heading: str
    text: str
    tokens: int
    attempts: int  # including this claim


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The contents of one request; other workers cannot claim them until the lease ends."""

    build: Build
    token: UUID
    inputs: Sequence[Input]  # empty if every claimed content is in one of the next two lists
    saved: Sequence[bytes]  # contents that already have a vector: publish the documents that want them
    orphans: Sequence[bytes]  # contents that no chunk has any more: delete them from the queue
    expired: int  # contents whose previous claim expired
    suspect: bool  # one content whose previous claim never ended: it may be what kills workers


Fill = Callable[[Sequence[int]], int]  # how many of these token counts, in order, one request can carry


def waiting(
    connection: Connection, build: Build, *, limit: int, priorities: Sequence[int] = PRIORITIES
) -> tuple[int, int]:
    """The number of claimable contents, counted up to `limit`, and the tokens of the largest of them."""
    parameters = {"limit": limit, "priorities": list(priorities)}
    [(number, tokens)] = connection.execute(build.sql("queue.sql", "count_waiting"), parameters)
    return number, tokens


@retry_on_deadlock
def claim(
    connection: Connection,
    build: Build,
    *,
    limit: int,
    fill: Fill,
    lease_seconds: float,
    donor: Build | None = None,
) -> Claim | None:
    """Claim the contents of one request, most urgent first; `None` if nothing is claimable.

    `limit` bounds the number of contents, `fill` their tokens. From ALONE_FROM_ATTEMPT on, a content is claimed alone.
    `donor`: another build whose vectors serve this one, while the index is being rebuilt. What it has got a vector of
    since the content was queued is copied, under the locks of the claim, and not sent.
    """
    token = uuid4()
    with lookups(connection):
        rows = _claimable(connection, build, limit)
        rows = rows[: fill([row.tokens for row in rows])]
        alone = next((at for at, row in enumerate(rows) if row.attempts + 1 >= ALONE_FROM_ATTEMPT), None)
        rows = rows if alone is None else rows[: max(alone, 1)]
        if not rows:
            return None
        attempts = {row.hash: row.attempts + 1 for row in rows}
        tokens = {row.hash: row.tokens for row in rows}
        if donor is not None:
            connection.execute(builds.copy_statement(build, donor), {"hashes": sorted(attempts)})
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
    """Restart the lease of a claim that waited for its turn; False if another worker has one of its contents."""
    parameters = {
        "hashes": [item.hash for item in held.inputs],
        "token": held.token,
        "seconds": lease_seconds,
    }
    return connection.execute(held.build.sql("queue.sql", "renew"), parameters).rowcount == len(held.inputs)


@retry_on_deadlock
def save(connection: Connection, build: Build, hashes: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
    """Save the vectors of queued contents, in one commit; `vectors` has one row per hash. Late or twice is a no-op."""
    parameters = _embeddings(build, dict(zip(hashes, vectors, strict=True)))
    with lookups(connection):
        connection.execute(_statement(build, "save_embeddings"), parameters)
        connection.execute(build.sql("queue.sql", "drop_saved"), parameters)


def supply(connection: Connection, build: Build, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
    """Save vectors that came with documents, inside a transaction that holds the shared lock of the index.

    Run it once the chunks are written, and before their contents are queued. Skips contents that nothing needs. Locks
    rows of the queue before it inserts vectors, as `save` does.
    """
    if not vectors:
        return
    parameters = _embeddings(build, vectors)
    rows = connection.execute(build.sql("queue.sql", "lock_queued"), parameters)
    parameters["queued"] = [row[0] for row in rows]
    connection.execute(_statement(build, "supply_embeddings"), parameters)
    connection.execute(build.sql("queue.sql", "drop_supplied"), parameters)


@retry_on_deadlock
def release(connection: Connection, held: Claim, *, seconds: float = 0.0, counted: bool = True) -> None:
    """End a claim without a result; its contents are claimable again after `seconds`.

    With `counted` False, the claim is not counted as an attempt: for waits on rate limits, settings or an outage.
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
    """Fail the documents that want a content, and remove it from the queue; their ids.

    Does nothing if the claim no longer holds the content. The lock is exclusive: a staging that relies on the queued
    content comes before, and its document fails too, or after, and queues the content anew.
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
    """Replace contents that are too large by smaller chunks; the documents to publish.

    `cut` has at least two pieces per content; their spans count from its start. Skips contents that the claim no longer
    holds. The lock is exclusive, as in `fail`: a staging of the same content comes before, and its chunk is replaced
    too, or after, and queues the content anew.
    """
    build = held.build
    with builds.locked(connection, build.index_id, exclusive=True):
        parameters: dict[str, Any] = {"hashes": [item.hash for item, _ in cut], "token": held.token}
        given_up = connection.execute(build.sql("queue.sql", "give_up"), parameters).fetchall()
        if not given_up:
            return []
        mine = {hash for hash, _ in given_up}
        parameters |= _columns(
            connection, build, [(item, pieces) for item, pieces in cut if item.hash in mine]
        )
        docs = [row[0] for row in connection.execute(build.sql("queue.sql", "lock_wanting"), parameters)]
        parameters |= {
            "docs": docs,
            "priority": min(priority for _, priority in given_up),
        }
        # elsewhere the same string may be split differently into heading and text: it is queued again, and cut later
        parameters["wanted"] = [*parameters["pieces"], *parameters["hashes"]]
        connection.execute(build.sql("queue.sql", "replace_chunks"), parameters)
        connection.execute(build.sql("queue.sql", "queue_pieces"), parameters)
        return docs


@retry_on_deadlock
def delete_orphans(connection: Connection, build: Build, hashes: Sequence[bytes]) -> None:
    """Remove contents from the queue that no chunk has any more, under the exclusive lock as in `fail`."""
    with builds.locked(connection, build.index_id, exclusive=True):
        connection.execute(build.sql("queue.sql", "delete_orphans"), {"hashes": list(hashes)})


def _columns(
    connection: Connection, build: Build, cut: Sequence[tuple[Input, Sequence[Chunk]]]
) -> dict[str, list[Any]]:
    """The contents, and their pieces in each language of the build, as the arrays of the statement `replace_chunks`."""
    others = languages.noted(connection, build)
    each = [
        (item.hash, at, piece, language)
        for item, pieces in cut
        for at, piece in enumerate(pieces)
        for language in (languages.own(build), *others)
    ]
    return {
        "hashes": [item.hash for item, _ in cut],
        "headings": [item.heading for item, _ in cut],
        "texts": [item.text for item, _ in cut],
        "sizes": [len(pieces) for _, pieces in cut],
        "markers": [language.marker for language in others],
        "of": [hash for hash, _, _, _ in each],
        "at": [at for _, at, _, _ in each],
        "pieces": [piece.hash for _, _, piece, _ in each],
        "starts": [piece.start for _, _, piece, _ in each],
        "ends": [piece.end for _, _, piece, _ in each],
        "tokens": [piece.tokens for _, _, piece, _ in each],
        "piece_headings": [piece.heading for _, _, piece, _ in each],
        "piece_texts": [piece.text for _, _, piece, _ in each],
        "piece_markers": [language.marker if language.tag else "" for _, _, _, language in each],
        "piece_lexemes": lexemes.of_chunks(
            connection, [(piece.heading, piece.text, language) for _, _, piece, language in each]
        ),
    }


def _embeddings(build: Build, vectors: Mapping[bytes, NDArray[np.float32]]) -> dict[str, Any]:
    """Contents and their vectors as parameters, by hash."""
    column = Vector if build.vector == "vector" else HalfVector
    hashes = sorted(vectors)
    return {"hashes": hashes, "embeddings": [column(vectors[hash]) for hash in hashes]}


def _statement(build: Build, name: str) -> sql.Composed:
    """A statement with the type of the build's vectors."""
    text = sql.SQL(statements("queue.sql")[name])
    return text.format(column=sql.SQL(build.vector), **tables(build.build))


def _claimable(connection: Connection, build: Build, limit: int) -> list[Any]:
    """Lock claimable rows. One query per priority, as one for all would walk the leased rows of each."""
    rows: list[Any] = []
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        for priority in PRIORITIES:
            if len(rows) < limit:
                parameters = {"priority": priority, "limit": limit - len(rows)}
                rows += cursor.execute(build.sql("queue.sql", "claimable"), parameters).fetchall()
    return rows
