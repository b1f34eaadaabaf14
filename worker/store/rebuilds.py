"""A second build of an index: it is filled beside the live build, and then takes its place.

Staging writes to both meanwhile, and deletions reach every build. While the new build is `closing`, the live build
publishes a revision only once the new one has it, so that readers never see an older revision after the switch.
docs/internals/protocol.md lists the steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import class_row, dict_row

from worker.errors import BuildDropped, InvalidQuery
from worker.store import builds, jobs
from worker.store.builds import Build
from worker.store.connection import DROPPED, Connection, retry_on_deadlock
from worker.store.statements import statement, statements, tables

LEASE_SECONDS = 30.0  # of the worker that fills a build; two of them do no harm, but split the same texts
GRACE_SECONDS = (
    600.0  # how long a retired build stays: searches that found it before the switch go on reading it
)
DROP_SECONDS = 1.0  # how long a drop waits for readers and writers of the build
FINGERPRINT = b"rebuild"  # of the message of a rebuild, in the ledger
FILLED = ("filling", "closing")  # states of a build that is to become the live one


@dataclass(frozen=True, kw_only=True)
class RebuildRequest:
    """A task that rebuilds an index."""

    task_id: str
    keep_old: bool = False  # keep the replaced build, until an operator drops it


@dataclass(frozen=True, kw_only=True)
class RebuildState(Build):
    """A build with what a rebuild notes in it."""

    task_id: str | None  # the task that waits for it
    keep_old: bool
    copied: int  # vectors
    error: str | None  # of its provider
    seconds: float  # since the build has its state
    age_seconds: float  # since it was begun, or is filled again
    held: bool  # whether a worker holds the lease


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The live build of an index, and the build that is to replace it."""

    live: Build
    new: Build

    def sql(self, name: str) -> sql.Composed:
        """A statement with the tables of both builds."""
        live = {f"live_{table}": named for table, named in tables(self.live.build).items()}
        return sql.SQL(statements("rebuilds.sql")[name]).format(**live, **tables(self.new.build))


@dataclass(frozen=True, kw_only=True)
class Lag:
    """Why the new build cannot replace the live one yet."""

    lagging: int  # documents that it lacks, or serves in an older revision
    unfilled: int  # those among them that it does not want yet in their newest revision
    failed: int  # documents that are searchable today and have failed in it
    ids: Sequence[str] | None = None  # of the first failed ones
    errors: Sequence[str] | None = None


def states(connection: Connection, index_id: int) -> list[RebuildState]:
    """Every build of an index, the oldest first."""
    with connection.cursor(row_factory=class_row(RebuildState)) as cursor:
        return cursor.execute(statement("rebuilds.sql", "builds_of"), {"index_id": index_id}).fetchall()


def pair(connection: Connection, index_id: int, build: int) -> Pair | None:
    """The live build and the build `build` that is to replace it; `None` once it is neither filling nor closing."""
    every = {each.build: each for each in builds.every(connection, index_id)}
    live = next((each for each in every.values() if each.state == "live"), None)
    new = every.get(build)
    return None if live is None or new is None or new.state not in FILLED else Pair(live=live, new=new)


def begin(
    connection: Connection, live: Build, recipe: Mapping[str, Any], request: RebuildRequest
) -> RebuildState | None:
    """Create an empty build under another recipe, or find the one under this recipe: filled now, or retired.

    Raises InvalidQuery while another recipe is being built.
    """

    def choose(every: Sequence[RebuildState]) -> int:
        running = next((each for each in every if each.state in FILLED), None)
        if running is None:
            retired = [
                each for each in every if each.state == "retired" and dict(each.recipe) == dict(recipe)
            ]
            if not retired:
                return builds.create(connection, live.index, recipe, state="filling").build
            return _refill(connection, retired[-1])
        if dict(running.recipe) != dict(recipe):
            raise InvalidQuery(
                f"index {live.index!r} is being rebuilt as build {running.build} under other settings: wait for it "
                "(`vector-index status`), or drop it with `vector-index rebuild --cancel`"
            )
        return running.build

    return _request(connection, live.index_id, request, choose)


def roll_back(connection: Connection, live: Build, request: RebuildRequest) -> RebuildState | None:
    """Fill the newest retired build again, to switch back to it. Raises InvalidQuery if there is none."""

    def choose(every: Sequence[RebuildState]) -> int:
        running = next((each for each in every if each.state in FILLED), None)
        if running is not None:
            if running.build < live.build:
                return running.build
            raise InvalidQuery(
                f"index {live.index!r} is being rebuilt as build {running.build}: searches still read build "
                f"{live.build}, so drop the new one with `vector-index rebuild --cancel`"
            )
        retired = [each for each in every if each.state == "retired"]
        if not retired:
            raise InvalidQuery(
                f"index {live.index!r} has no earlier build: one is kept for {GRACE_SECONDS / 60:.0f} minutes after "
                "a rebuild, or for good with --keep-old; set the settings back and run `vector-index rebuild`"
            )
        return _refill(connection, retired[-1])

    return _request(connection, live.index_id, request, choose)


def _refill(connection: Connection, retired: RebuildState) -> int:
    """Fill a retired build again. The vectors that it has need no request, so they count as copied."""
    _set_state(connection, retired.build, "filling")
    connection.execute(retired.sql("rebuilds.sql", "count_kept"), {"build": retired.build})
    return retired.build


@retry_on_deadlock
def _request(
    connection: Connection,
    index_id: int,
    request: RebuildRequest,
    choose: Callable[[Sequence[RebuildState]], int],
) -> RebuildState | None:
    """Choose the build of a request, under the exclusive lock: stagings see it from then on.

    A request that was made before chooses nothing: the build that is being filled, `None` without one.
    """
    with builds.locked(connection, index_id, exclusive=True):
        every = states(connection, index_id)
        if not _enter(connection, index_id, request.task_id):
            return next((each for each in every if each.state in FILLED), None)
        build = choose(every)
        parameters = {"build": build, "task_id": request.task_id, "keep_old": request.keep_old}
        connection.execute(statement("rebuilds.sql", "request"), parameters)
        return next(each for each in states(connection, index_id) if each.build == build)


def _enter(connection: Connection, index_id: int, task_id: str) -> bool:
    """Note in the ledger that a task has made its request; False if it has made it before."""
    parameters = {"index_id": index_id, "task_id": task_id, "fingerprint": FINGERPRINT}
    if connection.execute(statement("rebuilds.sql", "enter"), parameters).rowcount:
        return True
    jobs.check_repetition(connection, task_id, index_id, FINGERPRINT)
    return False


@retry_on_deadlock
def cancel(connection: Connection, live: Build, task_id: str) -> int | None:
    """Give up the build that is being filled; its number, `None` without one, or if the task did so before.

    It is dropped. A build that was live before is kept as it was until its grace period is over. Raises
    LockNotAvailable when others hold its tables for longer than a second: try again.
    """
    with connection.transaction():
        connection.execute(statement("rebuilds.sql", "lock_timeout"))
        with builds.locked(connection, live.index_id, exclusive=True):
            every = states(connection, live.index_id)
            running = next((each for each in every if each.state in FILLED), None)
            if not _enter(connection, live.index_id, task_id) or running is None:
                return None
            if running.build < live.build:
                _lock_states(connection, live.index_id)
                _set_state(connection, running.build, "retired")
                connection.execute(statement("rebuilds.sql", "finish"), {"build": running.build})
            else:
                _drop(connection, running)
            return running.build


@retry_on_deadlock
def drop_old(connection: Connection, live: Build, task_id: str) -> list[int]:
    """Drop the retired builds; their numbers, none if the task did so before.

    Raises LockNotAvailable while a search reads one of them for long.
    """
    with connection.transaction():
        connection.execute(statement("rebuilds.sql", "lock_timeout"))
        with builds.locked(connection, live.index_id, exclusive=True):
            if not _enter(connection, live.index_id, task_id):
                return []
            retired = [each for each in states(connection, live.index_id) if each.state == "retired"]
            for each in retired:
                _drop(connection, each)
            return [each.build for each in retired]


def drop_expired(connection: Connection) -> int:
    """Drop retired builds whose grace period is over; the number of them. One that is in use stays for later."""
    dropped = 0
    expired = connection.execute(statement("rebuilds.sql", "expired"), {"seconds": GRACE_SECONDS}).fetchall()
    for index_id, build in expired:
        try:
            dropped += _drop_expired(connection, index_id, build)
        except pg.LockNotAvailable:
            continue
    return dropped


@retry_on_deadlock
def _drop_expired(connection: Connection, index_id: int, build: int) -> int:
    with connection.transaction():
        connection.execute(statement("rebuilds.sql", "lock_timeout"))
        with builds.locked(connection, index_id, exclusive=True):
            found = [each for each in states(connection, index_id) if each.build == build]
            gone = [each for each in found if each.state == "retired" and not each.keep_old]
            for each in gone:
                _drop(connection, each)
            return len(gone)


def _drop(connection: Connection, build: Build) -> None:
    builds.drop_tables(connection, build, seconds=DROP_SECONDS)
    connection.execute(statement("rebuilds.sql", "delete_build"), {"build": build.build})


def hold(connection: Connection, build: Build, token: UUID) -> bool:
    """Take or renew the lease of the worker that fills a build; False if another worker has it."""
    parameters = {"build": build.build, "token": token, "seconds": LEASE_SECONDS}
    return connection.execute(statement("rebuilds.sql", "hold"), parameters).rowcount == 1


def release(connection: Connection, build: Build, token: UUID) -> None:
    """Release that lease."""
    connection.execute(statement("rebuilds.sql", "release"), {"build": build.build, "token": token})


def finish(connection: Connection, build: int) -> None:
    """Note that the result of the rebuild is being reported: no task waits for it any more."""
    connection.execute(statement("rebuilds.sql", "finish"), {"build": build})


def abandoned(connection: Connection, *, seconds: float) -> list[tuple[str, int, str | None]]:
    """Rebuilds that no worker has touched for `seconds`: index, build, and the task that waits."""
    rows = connection.execute(statement("rebuilds.sql", "abandoned"), {"seconds": seconds})
    return [(row[0], row[1], row[2]) for row in rows]


def state(connection: Connection, build: Build) -> RebuildState:
    """A build as it is now. Raises BuildDropped."""
    found = next((each for each in states(connection, build.index_id) if each.build == build.build), None)
    if found is None:
        raise BuildDropped(DROPPED)
    return found


def lag(connection: Connection, pair: Pair) -> Lag:
    """What keeps the new build from replacing the live one."""
    with connection.cursor(row_factory=class_row(Lag)) as cursor:
        found = cursor.execute(pair.sql("lag"), {"index_id": pair.new.index_id}).fetchone()
    assert found is not None
    return found


def progress(connection: Connection, build: Build) -> dict[str, int]:
    """How far a build is filled: documents, filled, searchable, failed, vectors, pending chunks and tokens."""
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(build.sql("rebuilds.sql", "progress"), {"index_id": build.index_id}).fetchone()
    return dict(row or {})


def withheld(connection: Connection, live: Build, *, limit: int) -> list[int]:
    """Documents of the live build that wait, the oldest first: publish those whose revision the new build has."""
    rows = connection.execute(live.sql("rebuilds.sql", "withheld"), {"limit": limit})
    return [row[0] for row in rows]


@retry_on_deadlock
def change_phase(connection: Connection, pair: Pair, state: str) -> bool:
    """Begin or end the closing phase of a build; False if it is no longer the one that replaces the live build.

    Raises LockNotAvailable when others hold the index for longer than a second.
    """
    with connection.transaction():
        connection.execute(statement("rebuilds.sql", "lock_timeout"))
        with builds.locked(connection, pair.new.index_id, exclusive=True):
            if _current(connection, pair) is None:
                return False
            _lock_states(connection, pair.new.index_id)
            _set_state(connection, pair.new.build, state)
            return True


@retry_on_deadlock
def switch(connection: Connection, pair: Pair) -> Lag | None:
    """Let the new build take the place of the live one, if it lags behind in no document; else what it lacks.

    One short transaction. It waits for everything that is being published, so that nothing moves in the live build
    after the comparison. Raises LockNotAvailable when others hold the index for longer than a second.
    """
    with connection.transaction():
        connection.execute(statement("rebuilds.sql", "lock_timeout"))
        with builds.locked(connection, pair.new.index_id, exclusive=True):
            _lock_states(connection, pair.new.index_id)
            current = _current(connection, pair)
            if current is None or current.state != "closing":
                return Lag(lagging=1, unfilled=0, failed=0)
            found = lag(connection, pair)
            if found.lagging or found.failed:
                return found
            for build, state in ((pair.live, "retired"), (pair.new, "live")):
                _set_state(connection, build.build, state)
            keep = {"build": pair.live.build, "keep_old": current.keep_old}
            connection.execute(statement("rebuilds.sql", "set_keep"), keep)
            parameters = {"build": pair.new.build, "index_id": pair.new.index_id}
            connection.execute(statement("builds.sql", "set_live_build"), parameters)
            return None


def _current(connection: Connection, pair: Pair) -> RebuildState | None:
    """The new build as it is now; `None` if it no longer is the one that replaces the live build."""
    every = {each.build: each for each in states(connection, pair.new.index_id)}
    live, new = every.get(pair.live.build), every.get(pair.new.build)
    if live is None or new is None or live.state != "live" or new.state not in FILLED:
        return None
    return new


def _set_state(connection: Connection, build: int, state: str) -> None:
    connection.execute(statement("rebuilds.sql", "set_state"), {"build": build, "state": state})


def _lock_states(connection: Connection, index_id: int) -> None:
    connection.execute(statement("builds.sql", "lock_states"), builds.publishing_key(index_id))
