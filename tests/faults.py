"""Faults to inject into a running system, and the cost that each may have.

A run sends documents, injects one fault meanwhile, waits until all work is done, and compares the outcome with the
limits of the fault. `tests/acceptance/test_faults.py` runs all of them with short times, `tests/soak.py` with the
product's own. `docs/internals/tests.md` tells how to add one.
"""

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

# each process sends these words, to learn the dimensions and the most inputs of a request, and again after a fault
PROBES = [PROBE, *(f"{PROBE} {number}" for number in range(BATCH_SIZE))]
RESULT_SECONDS = 480
CALLER_SECONDS = 60
# With a fault in 30% of the requests, all six attempts of a content fail with a probability of 0.0007.
FAILED_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault, and what it may cost. Pairs are for a short and a long run."""

    name: str
    inject: Callable[[Rig], object]  # returns when the fault is over or underway
    times: tuple[int, int] = (1, 1)
    documents: tuple[int, int] = (300, 1_000)
    per_message: int = 20  # documents
    during_staging: bool = False  # inject it while documents are accepted, not while they become searchable
    embedded_again: int = 0  # chunks that may be embedded again per injection
    failed: str = ""  # text in the error of every failed document; empty: no document may fail
    failed_share: float = 0.0  # share of the documents that may fail in addition to those with trigger words
    trigger_words: Sequence[str] = ()  # each is put into one document, which must fail
    index: str = ""  # name of an index with another backend, if the fault needs one


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run with a fault came to: a row of the table."""

    fault: str
    times: int
    accepted: int  # documents
    live: int
    failed: int  # documents with an error
    lost: int  # accepted documents that are neither live nor failed
    embedded_again: int  # chunks
    seconds: float  # from the last injection until all work was done and every caller had its result
    crashed: int  # processes that ended by themselves


def plan(name: str, **arguments: Any) -> Callable[[Rig], object]:
    """Return an injection that makes the provider fail."""
    return lambda rig: rig.provider("faults", {"name": name, "path": "/embeddings", **arguments})


def kill_worker(rig: Rig) -> None:
    """Kill the embedding worker and the staging worker in turn."""
    rig.signal("staging" if rig.exits and rig.exits[-1] == ("embed", -SIGKILL) else "embed")


def empty_broker(rig: Rig) -> None:
    """Flush the broker after all messages are staged. A message that is only in the broker is not accepted yet."""
    with redis.Redis.from_url(rig.valkey.url) as client:
        eventually(lambda: client.llen(STAGING) == 0)
        client.flushall()


def restart_broker(rig: Rig) -> None:
    rig.restart(rig.valkey)
    time.sleep(1)


def cut_broker(rig: Rig) -> None:
    rig.proxy.cut()
    time.sleep(rig.pause_seconds)
    rig.proxy.restore()


def stall_broker(rig: Rig) -> None:
    rig.proxy.stall()
    time.sleep(rig.pause_seconds)
    rig.proxy.restore()


def end_sessions(rig: Rig) -> None:
    with rig.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    time.sleep(0.5)


def make_read_only(rig: Rig) -> None:
    """Make Postgres read-only for less than a lease; received vectors are saved afterwards."""
    with rig.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")
        time.sleep(rig.pause_seconds / 4)
        connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        connection.execute("SELECT pg_reload_conf()")


FAULTS = [
    Fault(
        name="SIGKILL of a worker",
        inject=kill_worker,
        times=(3, 20),
        documents=(600, 5_000),
        embedded_again=IN_FLIGHT,
    ),
    Fault(
        name="SIGKILL of a prefork child",
        inject=lambda rig: rig.kill_child("staging"),
        times=(3, 10),
        documents=(600, 5_000),
        during_staging=True,
    ),
    Fault(
        name="messages with one document: SIGKILL of a prefork child",
        inject=lambda rig: rig.kill_child("staging"),
        times=(5, 20),
        documents=(600, 5_000),
        per_message=1,
        during_staging=True,
    ),
    Fault(
        name="messages with one document: SIGKILL of a worker",
        inject=kill_worker,
        times=(3, 20),
        documents=(600, 5_000),
        per_message=1,
        embedded_again=IN_FLIGHT,
    ),
    Fault(
        name="messages with one document: broker killed and restarted",
        inject=restart_broker,
        times=(3, 10),
        documents=(600, 3_000),
        per_message=1,
    ),
    Fault(name="SIGTERM during a request", inject=lambda rig: rig.signal("embed", SIGTERM), times=(2, 5)),
    Fault(name="FLUSHALL on the broker", inject=empty_broker, times=(1, 3)),
    Fault(name="broker killed and restarted", inject=restart_broker, times=(3, 10), documents=(600, 3_000)),
    Fault(name="broker connections refused", inject=cut_broker),
    Fault(name="broker does not respond", inject=stall_broker),
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
        failed_share=FAILED_SHARE,
    ),
    Fault(
        name="30% of requests: HTTP 429, Retry-After 2",
        inject=plan("rate_limited", share=0.3, times=None, headers={"retry-after": "2"}),
    ),
    Fault(
        name="30% of requests: connection reset",
        inject=plan("cut", share=0.3, times=None),
        failed="does not answer",
        failed_share=FAILED_SHARE,
    ),
    Fault(name="provider request hangs", inject=plan("hang"), times=(3, 10)),
    Fault(
        name="response lacks a vector", inject=plan("one_missing"), times=(3, 10), embedded_again=BATCH_SIZE
    ),
    Fault(name="vector contains NaN", inject=plan("not_a_number"), times=(3, 10), embedded_again=BATCH_SIZE),
    Fault(
        name="vectors with wrong dimensions",
        inject=plan("wrong_dimension"),
        times=(2, 5),
        embedded_again=BATCH_SIZE,
    ),
    Fault(
        name="document that the provider refuses",
        inject=lambda rig: None,
        trigger_words=["poison"],
        failed="content_policy_violation",
    ),
    Fault(
        name="document that crashes the provider",
        inject=lambda rig: None,
        trigger_words=["crashing"],
        failed="does not answer",
    ),
    Fault(
        name="document that crashes the worker",
        inject=lambda rig: None,
        trigger_words=["lethal"],
        failed="the worker process died each time",
        index="deadly",
        embedded_again=IN_FLIGHT,
    ),
]


def run(rig: Rig, fault: Fault, index: str, *, long: bool) -> Outcome:
    """Send documents, inject the fault meanwhile, and wait until all work is done.

    Asserts the promises that hold under every fault; `violations` judges the figures.
    """
    documents, times = fault.documents[long], fault.times[long]
    index = fault.index or index
    rig.provider("reset", {})
    rig.exits.clear()
    rig.killed = 0
    texts = [text(index, n) for n in range(documents)]
    for word in fault.trigger_words:
        texts[documents // 2] += f" A {word} word."
    messages = [
        [{"id": n, "text": texts[n]} for n in range(first, first + fault.per_message)]
        for first in range(0, documents, fault.per_message)
    ]
    sent = [rig.application.send("tasks.index_documents", documents=some, index=index) for some in messages]
    reports: list[dict[str, Any]] = []
    # callers block on their results during the fault, as applications do
    caller = threading.Thread(target=lambda: reports.extend(map(result_of, sent)), daemon=True)
    caller.start()
    for number in range(times):
        await_progress(rig, fault, index, documents * number // (times + 1))
        fault.inject(rig)
    injected = time.monotonic()
    caller.join(RESULT_SECONDS)
    assert len(reports) == len(sent), (
        f"{len(sent) - len(reports)} callers have no result after {RESULT_SECONDS} s"
    )
    eventually(lambda: rig.progress(index).pending == 0, 120)
    seconds = time.monotonic() - injected
    eventually(lambda: rig.messages() == 0, 90)  # a redelivered copy may wait a minute for its next attempt

    progress, provider = rig.progress(index), rig.provider("stats")
    reasons = [failure["error"] for report in reports for failure in report["failed"]]
    assert progress.accepted == documents
    assert sum(report["indexed"] for report in reports) == progress.live
    assert len(reasons) == progress.failed
    assert [reason for reason in reasons if not fault.failed or fault.failed not in reason] == []
    assert (progress.holes, progress.deadlocks) == (0, 0)
    crashed = len(rig.exits) - rig.killed
    probes = sum(max(0, rig.provider("times", {"text": word})["times"] - 1) for word in PROBES)
    rig.provider("reset", {})
    found = rig.application.call("tasks.search", CHAT, query=texts[0], index=index, mode="vector")
    assert found[0]["document_id"] == "0"
    return Outcome(
        fault=fault.name,
        times=max(times, provider["faults"], crashed),
        accepted=progress.accepted,
        live=progress.live,
        failed=progress.failed,
        lost=progress.accepted - progress.live - progress.failed,
        embedded_again=provider["repeated"] - probes,
        seconds=seconds,
        crashed=crashed,
    )


def violations(fault: Fault, outcome: Outcome) -> list[str]:
    """Compare an outcome with the limits of its fault; a sentence per broken limit."""
    most_again = fault.embedded_again * outcome.times
    broken = {
        f"{outcome.lost} documents lost": outcome.lost,
        f"{outcome.failed} documents failed, expected {len(fault.trigger_words)}": (
            not 0 <= outcome.failed - len(fault.trigger_words) <= fault.failed_share * outcome.accepted
        ),
        f"{outcome.embedded_again} chunks embedded again, at most {most_again} allowed": outcome.embedded_again
        > most_again,
        f"{outcome.crashed} processes ended by themselves": outcome.crashed and fault.index != "deadly",
    }
    return [sentence for sentence, is_broken in broken.items() if is_broken]


def result_of(sent: "AsyncResult[Any]") -> Any:
    """Wait for a result; ask again after a connection error or a timeout.

    Celery misses a result that is published after its first look and before its subscription.
    """
    while True:
        try:
            return sent.get(timeout=CALLER_SECONDS)
        except (redis.ConnectionError, redis.TimeoutError, TimeoutError):
            time.sleep(0.1)


def await_progress(rig: Rig, fault: Fault, index: str, documents: int) -> None:
    """Wait until more than `documents` are accepted (during staging) or live."""

    def reached() -> int:
        progress = rig.progress(index)
        return progress.accepted if fault.during_staging else progress.live

    eventually(lambda: reached() > documents, 240)


def text(index: str, number: int) -> str:
    return " ".join(
        f"Line {line} of document {number} in {index} tells of {number * line}." for line in range(10)
    )
