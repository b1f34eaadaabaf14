"""Suspects: inputs that may have killed a worker, or that no document wants, do not delay or fail others."""

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


def test_a_suspect_is_the_only_request_in_flight(
    application: Application,
    index: IndexSettings,
    backend: Watched,
) -> None:
    """Otherwise a document that kills the process fails its neighbours: they die as often as it does."""
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


def test_an_orphan_that_is_wanted_again_does_not_wait_for_a_lease(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application.stage({"id": "a", "text": "Words."})
    application.stage({"id": "a", "text": "Other words."})  # the first text is an orphan now
    forget = queue.delete_orphans

    def overtaken(*args: Any) -> None:
        application.stage({"id": "b", "text": "Words."})
        forget(*args)

    monkeypatch.setattr(queue, "delete_orphans", overtaken)
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
def test_a_suspect_renews_its_lease_before_its_request_or_is_not_sent(
    taken: bool,
    url: str,
    index: IndexSettings,
) -> None:
    """The requests that it waits for may take as long as its lease, and another worker may hold it by then."""
    backend = Waiting()
    drainer = Drainer(url, index.embedding_backend, backend)
    ours = Application(url, index, backend, drainer)
    ours.stage({"id": "a", "text": "All harmless."}, {"id": "b", "text": "A suspect."})
    ours.rows(ABANDONED.replace("- interval '1 second'", ""))  # claimed after the other
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
def test_a_look_at_the_queue_reads_no_leased_rows(application: Application, name: str) -> None:
    """With a million rows under lease, a look that reads them takes 300 ms of Postgres; this one takes 0.1 ms."""
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


def test_a_suspect_that_fails_to_renew_its_lease_is_no_longer_in_flight(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next suspect must not wait for it."""
    application.stage({"id": "a", "text": "A suspect."})
    assert len(application.rows(ABANDONED)) == 1

    def away(*_: Any, **__: Any) -> None:
        raise ServiceUnreachable("Postgres is away")

    with monkeypatch.context() as patch:
        patch.setattr(queue, "renew", away)
        with pytest.raises(ServiceUnreachable):
            application.drainer.step()
    assert application.drainer.in_flight == 0


def test_a_slot_survives_a_bug_and_logs_only_its_class(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The message of an error of Postgres may quote a row."""
    monkeypatch.setattr("worker.indexing.background.PAUSE_SECONDS", 0.01)
    task_id = application.stage({"id": "a", "text": "Words."})
    claim, bugs = queue.claim, [ValueError("Words of Marrakesh.")]

    def stumble(*arguments: Any, **options: Any) -> Any:
        if bugs:
            raise bugs.pop()
        return claim(*arguments, **options)

    monkeypatch.setattr(queue, "claim", stumble)
    application.drainer.start()
    eventually(lambda: application.result(task_id))
    assert application.drainer.stop(PATIENCE_SECONDS)
    assert "ValueError" in caplog.text
    assert "Marrakesh" not in caplog.text
