"""What may have killed a worker, and what nobody wants for a moment, cost no other content anything."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fixtures.application import Application, HashBackend
from tests.fixtures.system import PATIENCE_SECONDS, eventually
from worker.configuration import IndexSettings
from worker.errors import ServiceUnreachable
from worker.indexing.draining.drainer import Drainer
from worker.store import builds, connection, queue

ABANDONED = """UPDATE vector_index.pending_1 SET attempts = 2, token = gen_random_uuid(),
visible_at = clock_timestamp() - interval '1 second' WHERE hash IN (
    SELECT hash FROM vector_index.chunks_1 WHERE text LIKE '%suspect%') RETURNING 1"""


class Watched(HashBackend):
    """Notes how many requests are in flight beside each."""

    def __init__(self) -> None:
        super().__init__(batch_size=2)
        self.in_flight = 0
        self.beside: list[tuple[bool, int]] = []  # whether a suspect, and the requests beside it
        self.lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with self.lock:
            self.in_flight += 1
        time.sleep(0.05)
        with self.lock:
            self.beside.append((any("suspect" in text for text in texts), self.in_flight - 1))
        time.sleep(0.05)
        with self.lock:
            self.in_flight -= 1
        return super().embed(texts)


@pytest.fixture
def backend() -> Watched:
    return Watched()


def test_nothing_is_in_flight_beside_what_two_claims_did_not_come_back_from(
    application: Application,
    index: IndexSettings,
    backend: Watched,
) -> None:
    """Else a document that kills the process takes its neighbours with it: they die as often, and fail as it does."""
    texts = [
        f"Document {n} is {'suspect' if n % 10 == 5 else 'harmless'}, as far as anybody knows."
        for n in range(30)
    ]
    application.stage(*[{"id": n, "text": text} for n, text in enumerate(texts)])
    assert len(application.rows(ABANDONED)) == 3
    drainer = Drainer(application.url, index.embedding_backend, backend)
    drainer.start()
    eventually(lambda: not application.rows("SELECT 1 FROM vector_index.pending_1"))
    assert drainer.stop(60)
    assert [beside for suspect, beside in backend.beside if suspect] == [0, 0, 0]
    assert max(beside for suspect, beside in backend.beside if not suspect) > 0
    assert application.rows("SELECT count(*) FROM vector_index.served_1 WHERE live_rev IS NOT NULL") == [
        (30,)
    ]


def test_a_content_that_is_wanted_again_just_before_it_is_forgotten_waits_for_no_lease(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application.stage({"id": "a", "text": "Words."})
    application.stage({"id": "a", "text": "Other words."})  # nobody wants the first any more
    forget = queue.delete_orphans

    def overtaken(*args: Any) -> None:
        application.stage({"id": "b", "text": "Words."})
        forget(*args)

    monkeypatch.setattr(queue, "forget", overtaken)
    application.drainer.drain()
    assert application.state("b")["state"] == "live"


class Waiting(HashBackend):
    """Answers for what is harmless only when it is told to."""

    def __init__(self) -> None:
        super().__init__(batch_size=1)
        self.told = threading.Event()
        self.is_leased: Callable[[], bool] = bool
        self.leased: list[bool] = []  # whether a suspect was, when it was sent

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if any("harmless" in text for text in texts):
            self.told.wait(PATIENCE_SECONDS)
        if any("suspect" in text for text in texts):
            self.leased.append(self.is_leased())
        return super().embed(texts)


@pytest.mark.parametrize("taken", [False, True])
def test_a_suspect_that_waited_longer_than_its_lease_is_sent_under_a_new_one_or_not_at_all(
    taken: bool,
    url: str,
    index: IndexSettings,
) -> None:
    """Others in flight may take as long as a lease lasts; somebody else may have it by then."""
    backend = Waiting()
    drainer = Drainer(url, index.embedding_backend, backend)
    ours = Application(url, index, backend, drainer)
    ours.stage({"id": "a", "text": "All harmless."}, {"id": "b", "text": "A suspect."})
    ours.rows(ABANDONED.replace("- interval '1 second'", ""))  # claimed behind the other
    drainer.start()
    leased = "SELECT token FROM vector_index.pending_1 WHERE visible_at > clock_timestamp() AND attempts = 3"
    backend.is_leased = lambda: bool(ours.rows(leased))
    eventually(backend.is_leased)
    # its lease ends, and a claim of another process may follow
    lease = "'infinity', token = gen_random_uuid()" if taken else "clock_timestamp() - interval '1 second'"
    ours.rows(f"UPDATE vector_index.pending_1 SET visible_at = {lease} WHERE attempts = 3 RETURNING 1")
    backend.told.set()
    eventually(lambda: len(ours.rows("SELECT 1 FROM vector_index.embeddings_1")) == 2 - taken)
    time.sleep(0.3)
    assert drainer.stop(60)
    assert backend.leased == ([] if taken else [True])


@pytest.mark.parametrize("name", ["claimable", "count_waiting"])
def test_a_look_at_the_queue_ends_where_the_leased_begin(application: Application, name: str) -> None:
    """Where a million wait for a later attempt, a look that walks them takes 300 ms of Postgres; this one 0.1 ms."""
    application.stage({"id": "a", "text": "Words."})
    with connection.checkout(application.url) as conn:
        [build] = builds.all_writable(conn)
        conn.execute("SET enable_seqscan = off")
        text = b"EXPLAIN " + build.sql("queue.sql", name).as_bytes(conn)
        plan = "\n".join(
            row[0] for row in conn.execute(text, {"limit": 100, "priority": 0, "priorities": [0, 1, 2]})
        )
        conn.execute("RESET enable_seqscan")
    assert re.search(r"Index Cond: .*visible_at <= [($]", plan), plan


def test_a_suspect_that_meets_no_postgres_holds_up_nobody(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is in hand no more, so the next one does not wait until it ends."""
    application.stage({"id": "a", "text": "A suspect."})
    application.rows(ABANDONED)
    claim = application.drainer._claim()
    assert claim is not None
    assert claim.suspect

    def away(*_: Any, **__: Any) -> None:
        raise ServiceUnreachable("Postgres is away")

    with monkeypatch.context() as patch:
        patch.setattr(queue, "renew", away)
        with pytest.raises(ServiceUnreachable):
            application.drainer._settle_alone(claim)
    assert application.drainer._held == {}


def test_a_slot_outlives_a_bug_and_tells_its_kind(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not its words: those of Postgres quote a row."""
    monkeypatch.setattr("worker.indexing.draining.drainer.PAUSE_SECONDS", 0.01)
    task_id = application.stage({"id": "a", "text": "Words."})
    claim, bugs = application.drainer._claim, [ValueError("Words of Marrakesh.")]

    def stumble() -> Any:
        if bugs:
            raise bugs.pop()
        return claim()

    monkeypatch.setattr(application.drainer, "_claim", stumble)
    application.drainer.start()
    eventually(lambda: application.result(task_id))
    assert application.drainer.stop(PATIENCE_SECONDS)
    assert "ValueError" in caplog.text
    assert "Marrakesh" not in caplog.text
