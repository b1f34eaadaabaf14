"""Races on the same rows, and waiting on a busy system, on real Postgres."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import stamina
from celery import Celery
from celery.exceptions import Reject

from tests.fixtures.application import Application, faulty
from tests.fixtures.shelf import Shelf, run
from worker.errors import InvalidQuery, Refused, ServiceUnreachable
from worker.indexing import staging
from worker.store import builds, connection, deletion, jobs, queue
from worker.store.jobs import JobSlice


def test_a_document_sent_while_reindexing_deletes_stays(
    shop: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(shop, Shelf({"kept": "A book.", "gone": "An old book.", "sent": "A former book."}))
    delete = deletion.delete

    def overtaken(*args: Any, **options: Any) -> Any:
        shop.stage({"id": "sent", "text": "A book that the application has just sent."})
        return delete(*args, **options)

    monkeypatch.setattr(deletion, "delete", overtaken)
    result = run(shop, Shelf({"kept": "A book."}), allow_shrink=True)
    assert result["deleted"] == 1
    assert shop.state("gone")["state"] == "absent"
    assert shop.state("sent")["state"] == "live"


def test_a_document_that_changes_during_a_delete_by_filter_stays(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application.put(*[{"id": n, "text": f"Words {n}.", "metadata": {"old": True}} for n in range(2)])
    delete = deletion.delete

    def overtaken(*args: Any, **options: Any) -> Any:
        application.stage({"id": 1, "text": "New words.", "metadata": {"old": False}})
        return delete(*args, **options)

    monkeypatch.setattr(deletion, "delete", overtaken)
    done = staging.delete_matching(application.target, "delete", {"old": True}, None)
    assert done == staging.Deleted(deleted=1)
    application.drainer.drain()
    assert application.state("1")["state"] == "live"


def test_deleting_and_publishing_lock_documents_in_one_order(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application.put({"id": "a", "text": "Words."}, {"id": "b", "text": "More words."})
    # after updates, rows are stored in another order than by doc
    application.rows("UPDATE vector_index.served_1 SET error = 'x' WHERE doc = 1 RETURNING 1")
    order = application.rows("SELECT doc FROM vector_index.served_1 ORDER BY ctid")
    assert order == [(2,), (1,)]
    with connection.checkout(application.url) as conn:
        conn.execute("ANALYZE vector_index.served_1")  # so that the rows are read in the order of the page
    with connection.checkout(application.url) as first, connection.checkout(application.url) as third:
        build = builds.live(first, "default")
        assert build is not None
        thread = threading.Thread(target=lambda: application.delete("a", "b"))
        with first.transaction():
            first.execute("SELECT FROM vector_index.served_1 WHERE doc = 1 FOR UPDATE")
            thread.start()
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            deadline = time.monotonic() + 60
            while third.execute(waiting).fetchone() == (0,) and time.monotonic() < deadline:
                time.sleep(0.01)
            # the thread that waits for 1 holds no later lock
            first.execute("SELECT FROM vector_index.served_1 WHERE doc = 2 FOR UPDATE NOWAIT")
    thread.join(60)
    assert application.state("a")["state"] == application.state("b")["state"] == "absent"


def test_a_backlog_of_one_index_does_not_delay_another(application: Application) -> None:
    first = application.index
    application.stage(*[{"id": n, "text": f"Words number {n}."} for n in range(100)])
    application.index = replace(first, name="other")
    application.stage({"id": "urgent", "text": "A word that has no time."})
    for _ in range(2):
        assert application.drainer.step()
    assert application.state("urgent")["state"] == "live"


def test_the_lowest_possible_version_is_accepted_with_unchanged_content(
    application: Application,
) -> None:
    application.put({"id": "a", "text": "Words."})
    assert application.put({"id": "a", "text": "Words.", "version": -(2**63)})["unchanged"] == 1
    assert application.state("a")["version"] == -(2**63)


def test_the_ledger_of_a_pending_job_is_kept_for_more_than_a_week(application: Application) -> None:
    finished = application.stage({"id": "b", "text": "Other words."})
    application.drainer.drain()
    assert application.result(finished) is not None
    waiting = application.stage({"id": "a", "text": "Words."})
    with connection.checkout(application.url) as conn:
        conn.execute("UPDATE vector_index.jobs SET created_at = now() - interval '8 days'")
        assert jobs.delete_expired(conn) == 1
        application.drainer.drain()
        assert (application.result(waiting) or {})["indexed"] == 1
        # a job that was never completely staged has no waiting caller
        deletion.delete(conn, JobSlice(task_id="half", slice=0, slices=2, index_id=1), [], None)
        conn.execute(
            "UPDATE vector_index.jobs SET finished_at = NULL, created_at = now() - interval '8 days', "
            "touched_at = now() - interval '8 days' WHERE task_id = 'half'"
        )
        assert jobs.delete_expired(conn) == 2


def test_giving_back_finds_rows_by_primary_key(application: Application) -> None:
    application.stage({"id": "a", "text": "Words."})
    with connection.checkout(application.url) as conn:
        [build] = builds.all_writable(conn)
        claim = queue.claim(conn, build, limit=1, fill=len, lease_seconds=60.0)
        assert claim is not None
        conn.execute("SET enable_seqscan = off")
        plan = conn.execute(
            b"EXPLAIN " + claim.build.sql("queue.sql", "release").as_bytes(conn),
            {
                "token": claim.token,
                "hashes": [item.hash for item in claim.inputs],
                "seconds": 0,
                "uncounted": 0,
            },
        ).fetchall()
        conn.execute("RESET enable_seqscan")
        assert "Seq Scan" not in "\n".join(line for (line,) in plan)
        queue.release(conn, claim, counted=False)
    assert application.rows("SELECT attempts, token FROM vector_index.pending_1") == [(0, None)]


def test_received_vectors_survive_a_restart_of_postgres(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = [ServiceUnreachable("Postgres is away"), ServiceUnreachable("Postgres is away")]
    save = queue.save

    def save_or_raise(*args: Any) -> None:
        if away:
            raise away.pop()
        save(*args)

    monkeypatch.setattr("worker.store.queue.save", save_or_raise)
    assert application.put({"id": "a", "text": "Words."})["indexed"] == 1
    assert len(application.backend.requests) == 1


def test_a_call_during_a_postgres_outage_is_served_afterwards(url: str, unused_port: int) -> None:
    with psycopg.connect(url) as conn:
        host, port = conn.info.host, conn.info.port

    def serve() -> None:
        time.sleep(2)  # the length of the outage
        with socket.create_server(("127.0.0.1", unused_port)) as server:
            client, _ = server.accept()
        with client, socket.create_connection((host, port)) as postgres:
            back = threading.Thread(target=_pump, args=(postgres, client))
            back.start()
            _pump(client, postgres)
            back.join()

    thread = threading.Thread(target=serve)
    thread.start()
    _look(url.replace(f":{port}/", f":{unused_port}/"))
    connection.close_pools()
    thread.join(60)


def test_retrying_all_failures_uses_one_connection_at_a_time(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faulty(application.backend, lambda _: Refused("no"))
    application.put(*[{"id": n, "text": f"Words number {n}."} for n in range(150)])
    connection.close_pools()
    monkeypatch.setattr(connection, "CHECKOUT_TIMEOUT_SECONDS", 1)
    connection.pool(application.url, max_size=1)
    failed = staging.failed_ids(application.target)
    assert len(staging.retry(application.target, failed).docs) == 150


def test_threads_that_come_first_wait_until_the_pool_is_open(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowPool(connection.ConnectionPool[connection.Connection]):
        def open(self, wait: bool = False, timeout: float = 30.0) -> None:
            time.sleep(0.2)
            super().open(wait, timeout)

        def __class_getitem__(cls, _: object) -> type["SlowPool"]:
            return cls

    monkeypatch.setattr(connection, "ConnectionPool", SlowPool)
    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(lambda _: _look(url), range(8)):
            pass


@pytest.mark.parametrize("state", ["53100", "25P03", "40P01", "57014"])
def test_errors_that_pass_are_retried_by_tasks(url: str, state: str) -> None:
    with (
        pytest.raises(ServiceUnreachable, match=r"cannot do this now: no more room; try again later$"),
        connection.checkout(url) as conn,
    ):
        conn.execute(
            f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = 'no more room', "
            "DETAIL = 'a private text'; END $$".encode()
        )


def test_logged_retries_contain_no_documents() -> None:
    seen: list[stamina.instrumentation.RetryDetails] = []
    failing = [psycopg.errors.DeadlockDetected("deadlock detected")]

    @connection.retry_on_deadlock
    def write(text: str) -> str:
        if failing:
            raise failing.pop()
        return text

    stamina.instrumentation.set_on_retry_hooks([seen.append])
    try:
        assert write("a private text") == "a private text"
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)
    [details] = seen
    assert "private" not in repr((details.args, details.kwargs))


def test_the_state_of_a_job_is_counted_in_the_database(application: Application) -> None:
    task_id = application.stage(*[{"id": n, "text": f"Words number {n}."} for n in range(250)])
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, "default")
        assert build is not None
        [alike] = jobs.documents(conn, build, [task_id])[task_id]
    assert (alike.state, alike.documents, alike.failed) == ("pending", 250, [])


def test_an_unknown_job_is_an_error(application: Application) -> None:
    application.put({"id": "a", "text": "Words."})
    with pytest.raises(InvalidQuery, match="job unknown is unknown"):
        application.result("unknown")


@pytest.mark.slow
def test_a_retry_that_the_broker_rejects_keeps_the_message() -> None:
    app = Celery("application", task_cls="worker.celery.task:BaseTask", set_as_current=False)
    app.conf.update(broker_url="redis://127.0.0.1:1/0", task_publish_retry=False)

    @app.task(bind=True, name="waits")  # type: ignore[untyped-decorator]
    def waits(self: Any) -> None:
        raise self.retry(exc=ServiceUnreachable("Postgres is away"))

    waits.push_request(id="1", called_directly=False)
    with pytest.raises(Reject) as rejected:
        waits.run()
    assert rejected.value.requeue


def _look(url: str) -> None:
    with connection.checkout(url) as conn:
        conn.execute("SELECT 1")


def _pump(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(65_536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)
