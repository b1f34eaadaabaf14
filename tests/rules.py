"""Mutation tests of the protocol: `python -m tests.rules` removes one rule at a time; the simulation must notice.

Each rule is removed in a process of its own. The process then simulates in rounds, each on a fresh database, until
an invariant is violated or the time is over. The first row is the control: with all rules in place, a violation is
a bug. `docs/internals/tests.md` tells how to read the table and how to add a rule.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import psycopg

from tests.rebuilds import Rebuilds
from tests.simulation import (
    CALM,
    DROPS,
    LATE_REFUSALS,
    OUTAGES,
    PROVIDER_CRASHES,
    REBUILDS,
    REINDEXING,
    STORM,
    Drops,
    Simulation,
    Weather,
)
from worker import configuration
from worker.indexing.draining import outcomes
from worker.indexing.draining.settlement import Settlement
from worker.services import running
from worker.store import (
    builds,
    deletion,
    fencing,
    filling,
    garbage,
    jobs,
    locking,
    publishing,
    queue,
    rebuilds,
    schema,
    writing,
)
from worker.store.connection import Connection
from worker.store.rebuilds import Lag
from worker.store.statements import statements


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of the protocol, how to remove it, and the weathers in which the simulation should notice."""

    name: str
    remove: Callable[[], object] = lambda: None
    weathers: Sequence[Weather] = (CALM, STORM)


def rewrite(file: str, names: str, old: str, new: str) -> Callable[[], None]:
    """Replace text in named SQL statements of the store."""

    def remove() -> None:
        texts = statements(file)
        for name in names.split():
            assert old in texts[name], f"{name} has no {old!r}"
            texts[name] = texts[name].replace(old, new)

    return remove


def unlock(*modules: Any) -> Callable[[], None]:
    """Let the transactions of these store modules skip the lock on the index."""

    @contextmanager
    def unlocked(conn: Connection, index_id: int, *, exclusive: bool) -> Iterator[None]:
        with conn.transaction():
            yield

    def remove() -> None:
        for module in modules:
            module.builds = SimpleNamespace(**{**vars(builds), "locked": unlocked})

    return remove


def stage_redeliveries_again() -> None:
    enter = jobs.begin_slice
    rewrite("jobs.sql", "insert_job_documents", "::text[])", "::text[]) ON CONFLICT DO NOTHING")()
    jobs.begin_slice = lambda connection, job: [enter(connection, job)] != []


def lock_served_in_any_order() -> None:
    rewrite("writing.sql", "lock_served", "ORDER BY doc", "ORDER BY random()")()
    rewrite("publishing.sql", "lock_wanted", "ORDER BY doc", "ORDER BY random()")()


def publish_skips_locked_rows() -> None:
    rewrite("publishing.sql", "lock_wanted", "FOR UPDATE", "FOR UPDATE SKIP LOCKED")()

    def publish(connection: Connection, build: builds.Build, docs: Sequence[int]) -> int:
        with connection.transaction():
            locked = connection.execute(build.sql("publishing.sql", "lock_wanted"), {"docs": list(docs)})
            found = {"docs": [row[0] for row in locked.fetchall()]}
            return len(connection.execute(build.sql("publishing.sql", "publish"), found).fetchall())

    publishing.publish = publish


def never_count_single_inputs() -> None:
    settle = Settlement.settle
    Settlement.settle = lambda self, claim, *, alone: settle(self, claim, alone=False)  # type: ignore[method-assign]


def let_runs_overtake() -> None:
    """Keep the deletions by filter, which are another rule."""
    hold_back = fencing.Fence.hold_back

    def only_deletions(self: Any, connection: Connection, rows: Any) -> Any:
        unfenced = replace(self, run=replace(self.run, since=datetime.max.replace(tzinfo=UTC)))
        return hold_back(unfenced, connection, rows)

    fencing.Fence.hold_back = only_deletions  # type: ignore[method-assign]


def delete_what_was_missing() -> None:
    remove = deletion.remove
    deletion.remove = lambda *args, **options: remove(*args, **{**options, "unchanged_since": None})


def leave_no_tombstones_of_unknown_documents() -> None:
    remove = deletion.remove

    def remove_known(
        connection: Connection, index_id: int, ids: Sequence[str], *args: Any, **options: Any
    ) -> Any:
        if options.get("heads") is None:
            known = locking.lock_documents(connection, {"index_id": index_id, "ids": list(ids)})
            ids = [row.id for row in known]
        return remove(connection, index_id, ids, *args, **options)

    deletion.remove = remove_known


def switch_at_once() -> None:
    rebuilds.lag = lambda connection, pair: Lag(lagging=0, unfilled=0, failed=0)


def fill_without_a_second_look() -> None:
    filling._still_due = lambda connection, pair, wanted: {text.doc for text in wanted}


def fill_only_the_newest_revision() -> None:
    rewrite("rebuilds.sql", "unfilled", "WHEN l.state = 'failed'", "WHEN false")()
    filling.needed = lambda head, new, live: (
        head if ((new and (new.want_rev or new.live_rev)) or 0) < head else None
    )


def let_deletions_spare_retired_builds() -> None:
    setattr(deletion, "builds", SimpleNamespace(**{**vars(builds), "every": builds.writable}))  # noqa: B010


def publish_regardless_of_the_closing_build() -> None:
    publishing._gate = lambda state, closing: None
    rebuilds._lock_states = lambda connection, index_id: None
    rewrite("builds.sql", "lock_publishing", "SELECT pg_advisory", "SELECT -- pg_advisory")()


RULES = [
    Rule(
        name="control: all rules in place",
        weathers=(CALM, STORM, REINDEXING, DROPS, REBUILDS, LATE_REFUSALS, OUTAGES, PROVIDER_CRASHES),
    ),
    Rule(name="staging, retry and delete hold the index's shared lock", remove=unlock(writing, deletion)),
    Rule(
        name="giving up, splitting and dropping contents hold the index's exclusive lock",
        remove=unlock(queue),
        weathers=(CALM,),
    ),
    Rule(
        name="garbage collection holds the index's exclusive lock", remove=unlock(garbage), weathers=(STORM,)
    ),
    Rule(
        name="an older version is rejected as stale",
        remove=lambda: setattr(locking.LockedDocument, "is_newer_than", lambda self, version: False),
    ),
    Rule(name="a redelivered message is staged once", remove=stage_redeliveries_again),
    Rule(
        name="publishing locks rows before it reads them",
        remove=rewrite("publishing.sql", "lock_wanted", "FOR UPDATE", ""),
    ),
    Rule(name="publishing waits for locked rows", remove=publish_skips_locked_rows, weathers=(CALM,)),
    Rule(
        name="documents are locked in id order",
        remove=rewrite("writing.sql", "lock_documents", "ORDER BY doc", "ORDER BY random()"),
        weathers=(CALM,),
    ),
    Rule(
        name="served rows are locked in id order",
        remove=lock_served_in_any_order,
        weathers=(CALM,),
    ),
    Rule(
        name="contents are queued in hash order",
        remove=rewrite("writing.sql", "queue_chunks", "ORDER BY c.hash", "ORDER BY random()"),
        weathers=(CALM,),
    ),
    Rule(
        name="a claim drops contents that have a vector",
        remove=rewrite("queue.sql", "drop_embedded", "WHERE", "WHERE false AND"),
        weathers=(CALM,),
    ),
    Rule(
        name="only the lease holder fails a content",
        remove=rewrite("queue.sql", "give_up", "AND token = %(token)s", ""),
        weathers=(LATE_REFUSALS,),
    ),
    Rule(
        name="an unanswered request during an outage is not counted as an attempt",
        remove=lambda: setattr(outcomes, "blame", lambda responses, **_: responses),
        weathers=(OUTAGES,),
    ),
    Rule(
        name="an input that crashes the provider on its own is counted as an attempt",
        remove=never_count_single_inputs,
        weathers=(PROVIDER_CRASHES,),
    ),
    Rule(
        name="a run stages no row of a document that changed since the run began",
        remove=let_runs_overtake,
        weathers=(REINDEXING,),
    ),
    Rule(
        name="a document that is sent again unchanged counts as changed for a run",
        remove=rewrite("writing.sql", "confirm", "OR EXISTS", "OR false AND EXISTS"),
        weathers=(REINDEXING,),
    ),
    Rule(
        name="a run checks under its locks that a missing document has not changed",
        remove=delete_what_was_missing,
        weathers=(REINDEXING,),
    ),
    Rule(
        name="a deletion of an unknown document leaves a tombstone",
        remove=leave_no_tombstones_of_unknown_documents,
        weathers=(REINDEXING,),
    ),
    Rule(
        name="a run sees the deletions by filter since it began",
        remove=rewrite("reindexing.sql", "note_deletion", "WHERE", "WHERE false AND"),
        weathers=(REINDEXING,),
    ),
    Rule(
        name="another message under a used task id is refused",
        remove=rewrite("jobs.sql", "other_use", "LIMIT 1", "LIMIT 0"),
        weathers=(CALM,),
    ),
    Rule(
        name="what a message staged in a dropped index is staged again",
        remove=rewrite("jobs.sql", "forget_dropped", "WHERE", "WHERE false AND"),
        weathers=(DROPS,),
    ),
    Rule(
        name="a build replaces the live one only if it lags behind in no document",
        remove=switch_at_once,
        weathers=(REBUILDS,),
    ),
    Rule(
        name="filling holds the index's shared lock",
        remove=unlock(filling),
        weathers=(REBUILDS,),
    ),
    Rule(
        name="filling looks again once it holds its locks",
        remove=fill_without_a_second_look,
        weathers=(REBUILDS,),
    ),
    Rule(
        name="where the newest revision failed, the one that is served is filled first",
        remove=fill_only_the_newest_revision,
        weathers=(REBUILDS,),
    ),
    Rule(
        name="deletions reach retired builds",
        remove=let_deletions_spare_retired_builds,
        weathers=(REBUILDS,),
    ),
    Rule(
        name="the live build publishes only what the closing build has",
        remove=publish_regardless_of_the_closing_build,
        weathers=(REBUILDS,),
    ),
    Rule(name="the sweep runs", weathers=(replace(STORM, sweeps=False),)),
]


def notice(rule: Rule, url: str, seconds: float) -> dict[str, Any]:
    """Remove the rule and simulate; return the seconds that it took and the violations by invariant."""
    rule.remove()
    index = configuration.load({}).index("default")
    began = time.monotonic()
    for weather in cycle(rule.weathers):
        with fresh_database(url) as database:
            simulation = kind(weather)(database, index, weather)
            simulation.run(min(weather.round_seconds, seconds - (time.monotonic() - began)))
            spent = time.monotonic() - began
        if +simulation.violations or spent >= seconds:
            return {"seconds": spent, "violations": dict(+simulation.violations)}
    raise AssertionError(f"rule {rule.name!r} names no weather")


def kind(weather: Weather) -> type[Simulation]:
    """The simulation of a weather."""
    if weather.rebuilds:
        return Rebuilds
    return Drops if weather.drops else Simulation


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    name = f"simulation_{time.time_ns()}"
    with psycopg.connect(url, autocommit=True) as administrator:
        administrator.execute(f"CREATE DATABASE {name}".encode())
        database = f"{url.rpartition('/')[0]}/{name}"
        schema.install(database)
        yield database
        administrator.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def silence() -> None:
    """Mute loggers that would report thousands of injected errors."""
    for name in ("psycopg.pool", "stamina", "vector_index"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@contextmanager
def fresh_postgres() -> Iterator[str]:
    with ExitStack() as stack:
        home = stack.enter_context(TemporaryDirectory(prefix="vector-index-simulation-"))
        services = stack.enter_context(running(Path(home), valkey=False, durable=False))
        yield services.addresses.database_url


def table(seconds: float, word: str = "") -> bool:
    """Print a Markdown table; return whether each removed rule was noticed and the control was clean."""
    print(
        "\n| removed rule | noticed after (s) | violated invariants (times) |\n| --- | --- | --- |",
        flush=True,
    )
    passed = True
    with fresh_postgres() as url:
        for rule in RULES:
            if word not in rule.name:
                continue
            arguments = [rule.name, "--seconds", str(seconds), "--url", url]
            child = [sys.executable, "-m", "tests.rules", *arguments]
            said = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout)
            after = f"{said['seconds']:.0f}" if said["violations"] else "not noticed"
            found = ", ".join(f"{name} ({number})" for name, number in said["violations"].items())
            print(f"| {rule.name} | {after} | {found} |", flush=True)
            passed &= bool(said["violations"]) != (rule is RULES[0])
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.rules", description=__doc__)
    parser.add_argument("rule", nargs="?", default="", help="part of a rule's name (default: all rules)")
    parser.add_argument("--seconds", type=float, default=120, help="time limit for each rule")
    parser.add_argument("--url", help="Postgres to simulate on in this process; prints JSON")
    arguments = parser.parse_args()
    if arguments.url is None:
        raise SystemExit(not table(arguments.seconds, arguments.rule))
    silence()
    [rule] = [rule for rule in RULES if rule.name == arguments.rule]
    print(json.dumps(notice(rule, arguments.url, arguments.seconds)))


if __name__ == "__main__":
    main()
