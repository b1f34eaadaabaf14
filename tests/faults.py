"""Twenty ways to break a running system, and what each may cost."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from signal import SIGKILL, SIGQUIT, SIGTERM
from typing import Any

import redis
from celery.exceptions import TimeoutError
from celery.result import AsyncResult

from tests.fixtures.rig import BATCH_SIZE, IN_FLIGHT, Rig
from tests.fixtures.system import CHAT, STAGING, eventually
from worker.recipes import PROBE

PER_MESSAGE = 20
RESULT_SECONDS = 480
CALLER_SECONDS = 60
# All six attempts of a content meet a fault of 30% with a probability of 0.0007; then its document fails.
UNLUCKY = 0.01


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row: what is done, how often in a short and in a long run, and what it may cost."""

    name: str
    inject: Callable[[Rig], object]
    times: tuple[int, int] = (1, 1)
    documents: tuple[int, int] = (300, 1_000)
    while_staging: bool = False  # injected as documents are accepted, not as they become searchable
    twice: int = 0  # chunks that one injection may let be embedded again
    failed: str = ""  # what the reason of every failed document says; empty: none fails
    unlucky: float = 0.0  # share of the documents that may fail with that reason, beside those with marks
    marks: Sequence[str] = ()  # words that are put into one document each
    index: str = ""  # of its own, where it needs another backend


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A row of the table."""

    fault: str
    times: int
    accepted: int  # documents
    live: int
    failed: int  # with a reason
    lost: int  # accepted, and neither
    twice: int  # chunks embedded again
    seconds: float  # from the last injection until all was live or failed and every result was there
    died: int  # processes that ended by themselves


def plan(name: str, **arguments: Any) -> Callable[[Rig], object]:
    """Let the provider fail from now on."""
    return lambda rig: rig.provider("faults", {"name": name, "path": "/embeddings", **arguments})


def kill_worker(rig: Rig) -> None:
    """The embedding worker and a staging worker in turn."""
    rig.signal("staging" if rig.deaths and rig.deaths[-1] == ("embed", -SIGKILL) else "embed")


def empty_broker(rig: Rig) -> None:
    """Once all is staged: what is still only in the broker is not accepted yet."""
    with redis.Redis.from_url(rig.valkey.url) as client:
        eventually(lambda: client.llen(STAGING) == 0)
        client.flushall()


def restart_broker(rig: Rig) -> None:
    rig.restart(rig.valkey)
    time.sleep(1)


def cut_broker(rig: Rig) -> None:
    rig.proxy.cut()
    time.sleep(rig.pause_seconds)
    rig.proxy.mend()


def stall_broker(rig: Rig) -> None:
    rig.proxy.stall()
    time.sleep(rig.pause_seconds)
    rig.proxy.mend()


def end_sessions(rig: Rig) -> None:
    with rig.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    time.sleep(0.5)


def make_read_only(rig: Rig) -> None:
    """For less than a lease: what was paid for is saved after it."""
    with rig.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")
        time.sleep(rig.pause_seconds / 4)
        connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        connection.execute("SELECT pg_reload_conf()")


FAULTS = [
    Fault(
        name="SIGKILL of a worker", inject=kill_worker, times=(3, 20), documents=(600, 5_000), twice=IN_FLIGHT
    ),
    Fault(
        name="SIGKILL of a prefork child",
        inject=lambda rig: rig.kill_child("staging"),
        times=(3, 10),
        documents=(600, 5_000),
        while_staging=True,
    ),
    Fault(name="SIGTERM during a request", inject=lambda rig: rig.signal("embed", SIGTERM), times=(2, 5)),
    Fault(name="FLUSHALL", inject=empty_broker, times=(1, 3)),
    Fault(name="broker killed and started", inject=restart_broker, times=(3, 10), documents=(600, 3_000)),
    Fault(name="broker cut off", inject=cut_broker),
    Fault(name="broker stalled", inject=stall_broker),
    Fault(
        name="Postgres: immediate shutdown",
        inject=lambda rig: rig.restart(rig.postgres, SIGQUIT),
        times=(2, 5),
    ),
    Fault(name="Postgres: connections terminated", inject=end_sessions, times=(3, 10)),
    Fault(name="Postgres: read-only", inject=make_read_only),
    Fault(
        name="30% of requests: HTTP 500",
        inject=plan("server_error", share=0.3, times=None),
        failed="HTTP 500",
        unlucky=UNLUCKY,
    ),
    Fault(
        name="30% of requests: HTTP 429, Retry-After 2",
        inject=plan("rate_limited", share=0.3, times=None, headers={"retry-after": "2"}),
    ),
    Fault(
        name="30% of requests: reset",
        inject=plan("cut", share=0.3, times=None),
        failed="does not answer",
        unlucky=UNLUCKY,
    ),
    Fault(name="a request hangs", inject=plan("hang"), times=(3, 10)),
    Fault(name="one vector too few", inject=plan("one_missing"), times=(3, 10), twice=BATCH_SIZE),
    Fault(name="a vector with NaN", inject=plan("not_a_number"), times=(3, 10), twice=BATCH_SIZE),
    Fault(name="vectors of another length", inject=plan("wrong_dimension"), times=(2, 5), twice=BATCH_SIZE),
    Fault(
        name="a document that the provider refuses",
        inject=lambda rig: None,
        marks=["poison"],
        failed="content_policy_violation",
    ),
    Fault(
        name="a document that takes the provider down",
        inject=lambda rig: None,
        marks=["crashing"],
        failed="does not answer",
    ),
    Fault(
        name="a document that kills the process",
        inject=lambda rig: None,
        marks=["lethal"],
        failed="the worker died each time",
        index="deadly",
        twice=IN_FLIGHT,
    ),
]


def run(rig: Rig, fault: Fault, index: str, *, long: bool) -> Outcome:
    """Send documents as an application does, break something meanwhile, and wait until all is normal.

    Asserts what must hold whatever is broken; the figures are for the caller to judge.
    """
    documents, times = fault.documents[long], fault.times[long]
    index = fault.index or index
    rig.provider("reset", {})
    rig.deaths.clear()
    rig.killed = 0
    texts = [text(index, n) for n in range(documents)]
    for mark in fault.marks:
        texts[documents // 2] += f" A {mark} word."
    messages = [
        [{"id": n, "text": texts[n]} for n in range(first, first + PER_MESSAGE)]
        for first in range(0, documents, PER_MESSAGE)
    ]
    sent = [rig.application.send("tasks.index_documents", documents=some, index=index) for some in messages]
    reports: list[dict[str, Any]] = []
    # blocked all the while, as callers are
    caller = threading.Thread(target=lambda: reports.extend(map(result_of, sent)), daemon=True)
    caller.start()
    for number in range(times):
        await_progress(rig, fault, index, documents * number // (times + 1))
        fault.inject(rig)
    injected = time.monotonic()
    caller.join(RESULT_SECONDS)
    assert len(reports) == len(sent), "every caller has its result"
    eventually(lambda: rig.standing(index).pending == 0, 120)
    seconds = time.monotonic() - injected
    eventually(lambda: rig.messages() == 0, 90)  # a second copy may wait a minute for its next attempt

    standing, provider = rig.standing(index), rig.provider("stats")
    reasons = [failure["error"] for report in reports for failure in report["failed"]]
    assert standing.accepted == documents
    assert sum(report["indexed"] for report in reports) == standing.live
    assert len(reasons) == standing.failed
    assert [reason for reason in reasons if not fault.failed or fault.failed not in reason] == []
    assert (standing.holes, standing.deadlocks) == (0, 0)
    died = len(rig.deaths) - rig.killed
    probes = rig.provider("times", {"text": PROBE})["times"]  # each process asks once how long a vector is
    rig.provider("reset", {})
    found = rig.application.call("tasks.search", CHAT, query=texts[0], index=index, mode="vector")
    assert found[0]["document_id"] == "0"
    return Outcome(
        fault=fault.name,
        times=max(times, provider["faults"], died),
        accepted=standing.accepted,
        live=standing.live,
        failed=standing.failed,
        lost=standing.accepted - standing.live - standing.failed,
        twice=provider["repeated"] - max(0, probes - 1),
        seconds=seconds,
        died=died,
    )


def complaints(fault: Fault, outcome: Outcome) -> list[str]:
    """What a row must not come to."""
    wrong = {
        f"{outcome.lost} documents lost": outcome.lost,
        f"{outcome.failed} documents failed, not {len(fault.marks)}": (
            not 0 <= outcome.failed - len(fault.marks) <= fault.unlucky * outcome.accepted
        ),
        f"{outcome.twice} chunks embedded twice": outcome.twice > fault.twice * outcome.times,
        f"{outcome.died} processes ended by themselves": outcome.died and fault.index != "deadly",
    }
    return [sentence for sentence, holds in wrong.items() if holds]


def result_of(sent: "AsyncResult[Any]") -> Any:
    """The result, for a caller that waits, and asks again when the broker was away or was slow to come back.

    Celery itself misses a result that is published between its look and its subscription to what comes after.
    """
    while True:
        try:
            return sent.get(timeout=CALLER_SECONDS)
        except (redis.ConnectionError, redis.TimeoutError, TimeoutError):
            time.sleep(0.1)


def await_progress(rig: Rig, fault: Fault, index: str, documents: int) -> None:
    """Return when more than so many are accepted or live."""

    def reached() -> int:
        standing = rig.standing(index)
        return standing.accepted if fault.while_staging else standing.live

    eventually(lambda: reached() > documents, 240)


def text(index: str, number: int) -> str:
    return " ".join(
        f"Line {line} of document {number} in {index} tells of {number * line}." for line in range(10)
    )
