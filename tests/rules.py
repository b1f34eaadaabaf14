"""Does the simulation notice when a rule of the protocol is gone? `python -m tests.rules` takes one away at a time.

Each rule is removed in a process of its own, which then simulates in rounds, on a fresh database each, until a law is
broken or the time is over. The first row is the control: with all rules in place nothing may be noticed.
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
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import psycopg

from tests.simulation import AWAY, CALM, FATAL, LATE, STORM, Simulation, Weather
from worker import configuration
from worker.indexing.draining import outcomes
from worker.indexing.draining.settlement import Settlement
from worker.services import running
from worker.store import builds, garbage, queue, revisions, schema, writing
from worker.store.connection import Connection
from worker.store.statements import statements

ROUND_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule, how it is taken away, and the weathers in which that should tell."""

    name: str
    remove: Callable[[], object] = lambda: None
    weathers: Sequence[Weather] = (CALM, STORM)


def rewrite(file: str, names: str, old: str, new: str) -> Callable[[], None]:
    """Other words in statements of the store."""

    def remove() -> None:
        texts = statements(file)
        for name in names.split():
            assert old in texts[name], f"{name} has no {old!r}"
            texts[name] = texts[name].replace(old, new)

    return remove


def unlock(module: Any) -> Callable[[], None]:
    """The transactions of a module of the store without the lock of the index."""

    @contextmanager
    def unlocked(conn: Connection, index_id: int, *, exclusive: bool) -> Iterator[None]:
        with conn.transaction():
            yield

    return lambda: setattr(module, "builds", SimpleNamespace(**{**vars(builds), "locked": unlocked}))


def stage_again() -> None:
    enter = revisions._enter
    rewrite("revisions.sql", "insert_job_documents", "::text[])", "::text[]) ON CONFLICT DO NOTHING")()
    revisions._enter = lambda connection, job: [enter(connection, job)] != []


def publish_skipping() -> None:
    rewrite("revisions.sql", "lock_wanted", "FOR UPDATE", "FOR UPDATE SKIP LOCKED")()

    def publish(connection: Connection, build: builds.Build, docs: Sequence[int]) -> int:
        with connection.transaction():
            locked = connection.execute(build.sql("revisions.sql", "lock_wanted"), {"docs": list(docs)})
            found = {"docs": [row[0] for row in locked.fetchall()]}
            return len(connection.execute(build.sql("revisions.sql", "publish"), found).fetchall())

    revisions.publish = publish


def never_alone() -> None:
    settle = Settlement.settle
    Settlement.settle = lambda self, claim, *, alone: settle(self, claim, alone=False)  # type: ignore[method-assign]


RULES = [
    Rule(name="none is taken away", weathers=(CALM, STORM, LATE, AWAY, FATAL)),
    Rule(name="staging, retrying and deleting hold the shared lock", remove=unlock(revisions)),
    Rule(
        name="failing, splitting and forgetting hold the exclusive lock",
        remove=unlock(queue),
        weathers=(CALM,),
    ),
    Rule(name="collecting holds the exclusive lock", remove=unlock(garbage), weathers=(STORM,)),
    Rule(
        name="an older version is stale",
        remove=lambda: setattr(writing.LockedDocument, "is_newer_than", lambda self, version: False),
    ),
    Rule(name="a message is staged once", remove=stage_again),
    Rule(
        name="publishing locks, then looks", remove=rewrite("revisions.sql", "lock_wanted", "FOR UPDATE", "")
    ),
    Rule(name="publishing waits for the locks", remove=publish_skipping, weathers=(CALM,)),
    Rule(
        name="documents are locked in order",
        remove=rewrite("revisions.sql", "lock_documents", "ORDER BY doc", "ORDER BY random()"),
        weathers=(CALM,),
    ),
    Rule(
        name="served rows are locked in order",
        remove=rewrite("revisions.sql", "lock_served lock_wanted", "ORDER BY doc", "ORDER BY random()"),
        weathers=(CALM,),
    ),
    Rule(
        name="contents are queued in order",
        remove=rewrite("revisions.sql", "queue_chunks", "ORDER BY c.hash", "ORDER BY random()"),
        weathers=(CALM,),
    ),
    Rule(
        name="a claim drops what has a vector",
        remove=rewrite("queue.sql", "drop_embedded", "WHERE", "WHERE false AND"),
        weathers=(CALM,),
    ),
    Rule(
        name="only who holds a content fails it",
        remove=rewrite("queue.sql", "give_up", "AND token = %(token)s", ""),
        weathers=(LATE,),
    ),
    Rule(
        name="a request without an answer is no attempt while the provider takes no word",
        remove=lambda: setattr(outcomes, "blame", lambda responses, **_: responses),
        weathers=(AWAY,),
    ),
    Rule(
        name="one input alone that the provider does not survive is an attempt",
        remove=never_alone,
        weathers=(FATAL,),
    ),
    Rule(name="there is a sweep", weathers=(replace(STORM, sweeps=False),)),
]


def notice(rule: Rule, url: str, seconds: float) -> dict[str, Any]:
    """Simulate without the rule: after how many seconds was what law broken?"""
    rule.remove()
    index = configuration.load({}).index("default")
    spent = 0.0
    for weather in cycle(rule.weathers):
        with fresh_database(url) as database:
            simulation = Simulation(database, index, weather)
            simulation.run(min(ROUND_SECONDS, seconds - spent))
        spent += ROUND_SECONDS
        if +simulation.violations or spent >= seconds:
            return {"seconds": spent, "violations": dict(+simulation.violations)}
    raise AssertionError("a rule has a weather")


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
    """Say nothing of what is broken by the thousand on purpose."""
    for name in ("psycopg.pool", "vector_index"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@contextmanager
def fresh_postgres() -> Iterator[str]:
    with ExitStack() as stack:
        home = stack.enter_context(TemporaryDirectory(prefix="vector-index-simulation-"))
        services = stack.enter_context(running(Path(home), valkey=False, durable=False))
        yield services.addresses.database_url


def table(seconds: float, word: str = "") -> bool:
    """Print what is noticed as Markdown; whether all was, and nothing where all rules hold."""
    print("\n| rule taken away | noticed after s | by |\n| --- | --- | --- |", flush=True)
    right = True
    with fresh_postgres() as url:
        for rule in RULES:
            if word not in rule.name:
                continue
            arguments = [rule.name, "--seconds", str(seconds), "--url", url]
            child = [sys.executable, "-m", "tests.rules", *arguments]
            said = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout)
            after = f"{said['seconds']:.0f}" if said["violations"] else "not noticed"
            laws = ", ".join(f"{law} ({number})" for law, number in said["violations"].items())
            print(f"| {rule.name} | {after} | {laws} |", flush=True)
            right &= bool(said["violations"]) != (rule is RULES[0])
    return right


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.rules", description=__doc__)
    parser.add_argument(
        "rule", nargs="?", default="", help="words of its name; empty: all, one after the other"
    )
    parser.add_argument("--seconds", type=float, default=120, help="the longest for each rule")
    parser.add_argument("--url", help="of a Postgres: simulate here and now, and print JSON")
    arguments = parser.parse_args()
    if arguments.url is None:
        raise SystemExit(not table(arguments.seconds, arguments.rule))
    silence()
    [rule] = [rule for rule in RULES if rule.name == arguments.rule]
    print(json.dumps(notice(rule, arguments.url, arguments.seconds)))


if __name__ == "__main__":
    main()
