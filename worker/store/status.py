"""The figures that `status` and the metrics show, and the states of documents."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from psycopg import Cursor
from psycopg.rows import dict_row

from worker.results import (
    BuildState,
    DocumentCounts,
    DocumentState,
    Failure,
    IndexFigures,
    RebuildProgress,
)
from worker.store import builds, hnsw, rebuilds, refusals
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.statements import SCHEMA, statement

ABSENT: DocumentState = {"state": "absent", "version": None, "searchable": False, "error": None}


@dataclass(frozen=True, kw_only=True)
class ScrapedRebuild:
    """How far a build is that is to replace the live one, for metrics."""

    state: str  # filling or closing
    share: float  # of the documents that are searchable in it, 0 to 1
    seconds_left: float | None  # an estimate; None: nothing is searchable yet


@dataclass(frozen=True, kw_only=True)
class ScrapedIndex:
    """The figures of one index, for metrics."""

    index: str  # its name
    documents: Mapping[str, int]  # by state, in the live build; and those that were refused
    oldest_seconds: float  # age of the oldest pending document; 0: none is pending
    pending_chunks: int  # contents without a vector, in all builds that are being written
    pending_tokens: int  # of those contents
    paused: bool
    repairs: Mapping[str, int]  # by kind: what the sweep has repaired so far
    rebuild: ScrapedRebuild | None


def index_status(
    connection: Connection, build: Build | None, index: str = "", design: hnsw.Design | None = None
) -> IndexFigures:
    """Documents by state, refused ones, pending chunks and tokens, the age of the oldest, and the builds of the index.

    `build` is the live build; `None` for an index without documents, which waits for its provider if there is an error.
    `design`: the vector index that the settings ask for.
    """
    if build is None:
        return {
            "documents": {"pending": 0, "live": 0, "failed": 0},
            "refused": 0,
            "pending_chunks": 0,
            "pending_tokens": 0,
            "oldest_seconds": 0.0,
            "embedded_chunks": 0,
            "last_error": builds.missing_error(connection, index),
            "builds": [],
        }
    with connection.cursor(row_factory=dict_row) as cursor:
        documents = cursor.execute(build.sql("status.sql", "count_documents")).fetchone() or {}
        pending = cursor.execute(build.sql("status.sql", "count_pending")).fetchone() or {}
        listed = cursor.execute(
            statement("status.sql", "list_builds"), {"index_id": build.index_id}
        ).fetchall()
        table = {"table": f"{SCHEMA}.embeddings_{build.build}"}
        embedded = cursor.execute(statement("status.sql", "count_embedded"), table).fetchone() or {}
    counted: DocumentCounts = {
        "pending": documents["pending"],
        "live": documents["live"],
        "failed": documents["failed"],
    }
    return {
        "documents": counted,
        "refused": refusals.count(connection, build.index_id),
        "pending_chunks": pending["chunks"],
        "pending_tokens": pending["tokens"],
        "oldest_seconds": round(documents["oldest_seconds"], 1),
        "embedded_chunks": embedded["embedded"] or 0,  # so far, an estimate: good for a rate
        "last_error": next((row["error"] for row in listed if row["error"]), None),
        "builds": [
            _build_state(
                connection, build, row, design, counted["live"] if row["build"] == build.build else None
            )
            for row in listed
        ],
    }


def rebuild_progress(connection: Connection, index: str, build: int) -> RebuildProgress | None:
    """How far a build is, and an estimate of the time left; `None` once it was dropped."""
    live = builds.live(connection, index)
    found = [] if live is None else rebuilds.states(connection, live.index_id)
    new = next((each for each in found if each.build == build), None)
    if new is None:
        return None
    figures = rebuilds.progress(connection, new)
    share = min(1.0, figures["searchable"] / figures["documents"]) if figures["documents"] else 1.0
    return {
        "documents": figures["documents"],
        "filled": figures["filled"],
        "done": figures["searchable"],
        "pending_chunks": figures["pending_chunks"],
        "copied": new.copied,
        "embedded": max(0, figures["vectors"] - new.copied),
        "failed": figures["failed"],
        "seconds": round(new.age_seconds, 1),
        "seconds_left": round(new.age_seconds * (1 - share) / share, 1) if share else None,
    }


def _build_state(
    connection: Connection,
    live: Build,
    row: Mapping[str, Any],
    design: hnsw.Design | None,
    documents: int | None,
) -> BuildState:
    is_new = row["state"] in rebuilds.FILLED
    rebuild = rebuild_progress(connection, live.index, row["build"]) if is_new else None
    build = Build(
        **{name: row[name] for name in ("build", "state", "recipe")}, index_id=live.index_id, index=live.index
    )
    return {
        "build": row["build"],
        "state": row["state"],
        "recipe": row["recipe"],
        "repairs": row["repairs"],
        "documents": documents if rebuild is None else rebuild["done"],
        "vector_index": hnsw.describe(connection, build, design),
        "rebuild": rebuild,
        "drift": row["drift"] if row["state"] == "live" else [],
    }


def holdings(connection: Connection, build: Build | None) -> tuple[bool, bool]:
    """Whether an index has documents, and whether one of them is searchable."""
    row = None if build is None else connection.execute(build.sql("status.sql", "holdings")).fetchone()
    return (False, False) if row is None else (row[0], row[1])


def all_indexes(connection: Connection) -> tuple[list[ScrapedIndex], Mapping[str, int]]:
    """The figures of every index, and the outbox rows by state.

    Counts rows. Raises ServiceUnreachable when a statement takes longer than 30 s.
    """
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(statement("status.sql", "limit_time"))
        rows = cursor.execute(statement("status.sql", "list_indexes")).fetchall()
        outbox = cursor.execute(statement("status.sql", "count_outbox")).fetchone() or {}
        return [_index_figures(cursor, row) for row in rows if row["live_build"] is not None], outbox


def _index_figures(cursor: Cursor[dict[str, Any]], row: Mapping[str, Any]) -> ScrapedIndex:
    documents = cursor.execute(statement("status.sql", "count_documents", row["live_build"])).fetchone() or {}
    pending: Counter[str] = Counter()
    for build in row["written"]:
        pending.update(cursor.execute(statement("status.sql", "count_pending", build)).fetchone() or {})
    return ScrapedIndex(
        index=row["name"],
        oldest_seconds=documents.pop("oldest_seconds"),
        documents=documents | {"refused": row["refused"]},
        pending_chunks=pending["chunks"],
        pending_tokens=pending["tokens"],
        paused=row["paused"],
        repairs={"published": row["published"], "queued": row["queued"]},
        rebuild=_rebuild_figures(cursor.connection, row["name"]),
    )


def _rebuild_figures(connection: Connection, index: str) -> ScrapedRebuild | None:
    live = builds.live(connection, index)
    every = [] if live is None else builds.every(connection, live.index_id)
    new = next((build for build in every if build.state in rebuilds.FILLED), None)
    progress = None if new is None else rebuild_progress(connection, index, new.build)
    if new is None or progress is None:
        return None
    share = progress["done"] / progress["documents"] if progress["documents"] else 1.0
    return ScrapedRebuild(state=new.state, share=min(1.0, share), seconds_left=progress["seconds_left"])


def failed_documents(connection: Connection, build: Build, *, after: str, limit: int) -> list[Failure]:
    """Documents with ids above `after`, in order, that failed, whose outbox row cannot be staged, or that were refused.

    Each has its state (failed or refused), its error, the time since when it has waited (UTC, ISO 8601), and whether an
    older revision is searchable.
    """
    parameters = {"after": after, "limit": limit, "index_id": build.index_id, "index": build.index}
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(build.sql("status.sql", "failed_documents"), parameters).fetchall()
    return [
        {
            "id": row["id"],
            "state": row["state"],
            "error": row["error"],
            "since": row["since"].astimezone(UTC).isoformat(timespec="seconds"),
            "searchable": row["searchable"],
        }
        for row in rows
    ]


def document_states(
    connection: Connection, build: Build | None, ids: Sequence[str]
) -> dict[str, DocumentState]:
    """State, version, searchable and error of each id.

    The state is pending, live, failed, refused, or absent for an unknown or deleted document.
    """
    states = {id: ABSENT.copy() for id in ids}
    if build is None:
        return states
    parameters = {"index_id": build.index_id, "ids": list(ids)}
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(build.sql("status.sql", "document_states"), parameters).fetchall()
    for row in rows:
        states[row["id"]] = {
            "state": row["state"],
            "version": row["version"],
            "searchable": row["searchable"],
            "error": row["error"],
        }
    unstaged = connection.execute(
        statement("status.sql", "unstaged_changes"), parameters | {"index": build.index}
    )
    for id, state, error in unstaged:
        states[id] |= {"state": state, "error": error}
    return states
