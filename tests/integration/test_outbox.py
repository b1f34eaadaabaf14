"""The outbox: documents enqueued in the application's own transactions, on real Postgres."""

import json
import logging
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors as pg
from psycopg import sql

from tests.fixtures.application import Application
from tests.fixtures.outbox import DELETE, DOCUMENT, MAX_BYTES, Database
from tests.fixtures.system import PATIENCE_SECONDS, eventually
from tests.simulation import Crash, CrashingConnection, CrashingPool, Weather
from worker.errors import ServiceUnreachable, TemporaryError
from worker.indexing import outbox, staging
from worker.store import connection
from worker.store import outbox as rows

ROOT = Path(__file__).parents[2]
GRANTS = re.search(r"```sql\n(GRANT .*?)```", (ROOT / "docs/how-to/transactions.md").read_text(), re.DOTALL)


@pytest.fixture
def database(application: Application) -> Iterator[Database]:
    with psycopg.connect(application.url, autocommit=True) as conn:
        yield Database(application, conn)


def test_a_rollback_enqueues_nothing(database: Database) -> None:
    with database.conn.transaction(force_rollback=True):
        database.put("a", "Cats chase mice.")
        database.delete("b")
    assert database.waiting() == 0


def test_a_committed_document_is_searchable_and_its_row_is_deleted(database: Database) -> None:
    with database.conn.transaction():
        database.conn.execute(
            "SELECT vector_index.enqueue_document('default', 'a', 'Cats chase mice.', 'Cats', '{\"legs\": 4}', 7)"
        )
        database.consume()
        assert database.waiting() == 1  # its own transaction sees the row, nobody else does
        assert database.application.rows("SELECT * FROM vector_index.documents") == []
    database.consume()
    assert database.application.search("cats", filter={"legs": 4}) == ["a"]
    assert database.application.state("a") == {
        "state": "live",
        "version": 7,
        "searchable": True,
        "error": None,
    }
    assert database.waiting() == 0
    database.delete("a", 8)
    database.consume()
    assert database.texts() == {}


@pytest.mark.parametrize("id", [42, 2**62, "42", UUID(int=5)], ids=str)
def test_an_id_may_be_text_an_integer_or_a_uuid(database: Database, id: Any) -> None:
    database.put(id, "Words.")
    database.conn.execute(
        "SELECT vector_index.enqueue_document(index_name => 'default', id => %s, text => 'Others.')", [id]
    )
    database.consume()
    assert database.texts() == {str(id): "Others."}
    database.conn.execute("SELECT vector_index.enqueue_delete(id => %s, index_name => 'default')", [id])
    database.consume()
    assert database.texts() == {}


def test_a_numeric_id_is_the_whole_number_that_a_message_makes_of_it(database: Database) -> None:
    database.application.put({"id": Decimal("7.00"), "text": "Words."})
    database.conn.execute("SELECT vector_index.enqueue_document('default', 7.00::numeric, 'Others.')")
    database.consume()
    assert database.texts() == {"7": "Others."}
    database.conn.execute("SELECT vector_index.enqueue_delete('default', 7.0::numeric)")
    database.consume()
    assert database.texts() == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("'default', NULL, 'x'", "id is missing: give every document a string or an integer"),
        ("'default', NULL::bigint, 'x'", "id is missing"),
        ("'default', '', 'x'", "id is missing"),
        ("'default', repeat('x', 513), 'x'", "id has 513 characters; at most 512 are allowed"),
        ("NULL, 'a', 'x'", "index_name is missing: name an index of the settings"),
        ("'', 'a', 'x'", "index_name is missing"),
        ("repeat('x', 129), 'a', 'x'", "index_name has 129 characters; at most 128 are allowed"),
        (
            "'default', 'a', NULL",
            "text of document 'a' is NULL: give a string, which may be empty, or delete",
        ),
        ("'default', 'a', 'x', '', '[1]'", "metadata of document 'a' must be a JSON object, not array"),
        ("'default', 'a', 'x', '', 'null'", "metadata of document 'a' must be a JSON object, not null"),
    ],
)
def test_enqueueing_an_invalid_document_fails_with_one_sentence(
    database: Database, arguments: str, sentence: str
) -> None:
    with pytest.raises(pg.InvalidParameterValue) as caught:
        database.conn.execute(f"SELECT vector_index.enqueue_document({arguments})".encode())
    said = caught.value.diag.message_primary or ""
    assert sentence in said
    assert "\n" not in said


def test_the_longest_id_and_index_name_can_be_enqueued(database: Database) -> None:
    longest = "".join(chr(random.randint(0x10000, 0x1FFFF)) for _ in range(512))
    for id in (longest, "a"):
        database.conn.execute("SELECT vector_index.enqueue_delete(%s, %s)", [longest[:128], id])
    database.put(longest, "Words.")
    database.consume()
    assert database.texts() == {longest: "Words."}


@pytest.fixture
def role(database: Database, administrator: psycopg.Connection[Any]) -> Iterator[str]:
    """An application's role, without any right."""
    name = f"application_{uuid4().hex}"
    administrator.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    yield name
    database.conn.execute("RESET ROLE")
    database.conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
    administrator.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_the_documented_grants_only_allow_to_enqueue(database: Database, role: str) -> None:
    tables = [row[0] for row in database.conn.execute(
        "SELECT 'vector_index.' || quote_ident(relname) FROM pg_class "
        "WHERE relnamespace = 'vector_index'::regnamespace AND relkind IN ('r', 'S')"
    )]  # fmt: skip
    become = sql.SQL("SET ROLE {}").format(sql.Identifier(role))
    database.conn.execute(become)
    with pytest.raises(pg.InsufficientPrivilege):
        database.put("a", "Cats chase mice.")
    database.conn.execute("RESET ROLE")
    assert GRANTS is not None
    database.conn.execute(GRANTS[1].replace("application", f'"{role}"').encode())
    database.conn.execute(become)
    database.put("a", "Cats chase mice.")
    database.put(5, "Dogs chase cats.")
    database.delete("b")
    database.delete(6)
    for table in tables:
        for statement in ("SELECT FROM {}", "DELETE FROM {}", "TRUNCATE {}"):
            with pytest.raises((pg.InsufficientPrivilege, pg.WrongObjectType)):
                database.conn.execute(statement.format(table).encode())
    with pytest.raises(pg.InsufficientPrivilege):
        database.conn.execute(
            "INSERT INTO vector_index.outbox (index_name, id, deleted) VALUES ('a', 'b', true)"
        )
    for forbidden in (
        "CREATE TABLE vector_index.mine ()",
        "SELECT vector_index.check_enqueued('a', 'b')",
        "SELECT nextval('vector_index.revision_numbers')",
    ):
        with pytest.raises(pg.InsufficientPrivilege):
            database.conn.execute(forbidden.encode())
    database.conn.execute("RESET ROLE")
    assert database.waiting() == 4


def test_the_functions_ignore_the_search_path_of_the_caller(database: Database) -> None:
    """They run with the rights of their owner, so they must not run a function of the caller's."""
    database.conn.execute(
        "CREATE SCHEMA evil; CREATE FUNCTION evil.jsonb_typeof(jsonb) RETURNS text LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'hijacked'; END $$; CREATE TEMP TABLE outbox (); SET search_path = evil, pg_temp, pg_catalog"
    )
    database.put("a", "Cats chase mice.")
    assert database.waiting() == 1


Step = tuple[str, int | None]  # put, bad (a text that no worker takes) or delete; version


def sequences(
    seed: int, kinds: Sequence[str], *, documents: int = 150, ends: str | None = None
) -> dict[str, list[Step]]:
    """Changes of documents, with versions in any order and without."""
    draw = random.Random(seed)
    return {
        str(n): [
            (kind, draw.choice([None, None, 1, 2, 3, 3, 4, 5]))
            for kind in [*draw.choices(kinds, k=draw.randint(1, 5)), *([ends] if ends else [])]
        ]
        for n in range(documents)
    }


def enqueue(database: Database, id: str, number: int, step: Step) -> None:
    kind, version = step
    if kind == "delete":
        database.delete(id, version)
    else:
        database.put(id, f"Text {number}." + ("x" * MAX_BYTES if kind == "bad" else ""), version)


def send(database: Database, prefix: str, number: int, steps: dict[str, Step]) -> None:
    """The changes as messages; what would be refused at the door stands in the outbox, as a failure."""
    for id, step in steps.items():
        if step[0] == "bad":
            enqueue(database, prefix + id, number, step)
    database.consume()
    puts = [
        {"id": prefix + id, "text": f"Text {number}.", "version": version}
        for id, (kind, version) in steps.items()
        if kind == "put"
    ]
    database.application.stage(*puts)
    for version in (None, *range(1, 6)):
        gone = [prefix + id for id, step in steps.items() if step == ("delete", version)]
        database.application.delete(*gone, version=version)


def outcomes(database: Database, prefix: str = "") -> dict[str, Any]:
    """By id: whether it is there, its version, its newest text, and why its newest change failed."""
    found = {
        id: (head is not None, version, text)
        for id, head, version, text in database.conn.execute(
            "SELECT id, head_rev, version, r.text FROM vector_index.documents d "
            "LEFT JOIN vector_index.revisions r ON r.rev = d.head_rev"
        )
        if head is not None or version is not None
    }
    failures = {id: (error, version) for id, error, version in database.conn.execute(
        "SELECT id, error, max(version) FROM vector_index.outbox WHERE error IS NOT NULL GROUP BY id, error"
    )}  # fmt: skip
    every = found.keys() | failures.keys()
    return {
        id.removeprefix(prefix): (found.get(id), failures.get(id))
        for id in every
        if id.startswith("sent ") == bool(prefix)
    }


def differing(database: Database, steps: dict[str, list[Step]]) -> dict[str, Any]:
    enqueued, sent = outcomes(database), outcomes(database, "sent ")
    return {
        id: (steps[id], enqueued.get(id), sent.get(id)) for id in steps if enqueued.get(id) != sent.get(id)
    }


def begin_alike(database: Database, steps: dict[str, list[Step]]) -> None:
    """Some of the documents are known already, with a version or without."""
    known = {id: ("put", [None, 2, 4, 6][int(id) % 4]) for id in steps if int(id) % 3}
    send(database, "", 9, known)
    send(database, "sent ", 9, known)


@pytest.mark.parametrize("kinds", [("put", "put", "delete"), ("put", "put", "bad", "delete")], ids=" ".join)
def test_merged_rows_have_the_result_of_the_same_calls_in_order(
    database: Database, kinds: Sequence[str]
) -> None:
    steps = sequences(7, kinds)
    begin_alike(database, steps)
    for number in range(5):
        send(
            database, "sent ", number, {id: each[number] for id, each in steps.items() if number < len(each)}
        )
    for id, each in steps.items():
        for number, step in enumerate(each):
            enqueue(database, id, number, step)
    database.consume()
    assert differing(database, steps) == {}
    assert database.one("SELECT count(*) FROM vector_index.outbox WHERE error IS NULL") == 0


def test_a_sent_deletion_has_one_result_whether_earlier_rows_are_staged_or_wait(
    database: Database,
) -> None:
    steps = sequences(7, ["put", "put", "delete"], ends="delete")
    begin_alike(database, steps)
    for number in range(6):
        send(
            database, "sent ", number, {id: each[number] for id, each in steps.items() if number < len(each)}
        )
    for id, each in steps.items():
        for number, step in enumerate(each[:-1]):
            enqueue(database, id, number, step)
    for id, each in steps.items():
        database.application.delete(id, version=each[-1][1])
    database.consume()
    assert differing(database, steps) == {}


@pytest.mark.parametrize("waits", [True, False], ids=["together", "one by one"])
@pytest.mark.parametrize("way", ["enqueued", "sent"])
def test_a_deletion_without_a_version_takes_the_version_of_a_rejected_text(
    database: Database, way: str, waits: bool
) -> None:
    """Whether the deletion is sent or enqueued, and whether or not the text was rejected before."""
    database.application.stage()  # the index
    database.put("a", "x" * 2_000, 7)
    if not waits:
        database.consume()
    if way == "enqueued":
        database.delete("a")
    else:
        database.application.delete("a")
    database.consume()
    assert database.failures() == {}
    assert database.application.put({"id": "a", "text": "Late.", "version": 6})["stale"] == 1
    assert database.application.put({"id": "a", "text": "Again.", "version": 7})["indexed"] == 1


def test_if_a_text_is_rejected_the_previous_row_is_staged(database: Database) -> None:
    database.put("a", "Words.", 1)
    database.put("a", "x" * 2_000, 2)
    database.put("b", "Words.")
    database.put("b", "x" * 2_000)
    database.consume()
    assert database.texts() == {"a": "Words.", "b": "Words."}
    assert database.failures().keys() == {"a", "b"}
    assert database.retry() == 2
    database.consume(max_bytes=10_000)
    assert database.texts() == {"a": "x" * 2_000, "b": "x" * 2_000}


def test_a_stale_text_that_cannot_be_staged_is_no_failure(database: Database) -> None:
    database.put("a", "Words.", 5)
    database.consume()
    database.put("a", "x" * 2_000, 4)
    database.consume()
    assert database.failures() == {}
    assert database.waiting() == 0


def test_only_the_winning_text_is_read(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    contents = rows.contents

    def counted(conn: Any, index: str, changes: Any, **limits: Any) -> Any:
        read.extend(change.seq for change in changes)
        return contents(conn, index, changes, **limits)

    monkeypatch.setattr(outbox.outbox, "contents", counted)
    for n in range(300):
        database.put("often", f"State {n} of the document.")
    database.consume()
    assert len(read) == 1
    assert database.texts() == {"often": "State 299 of the document."}


def test_a_transaction_that_commits_late_is_staged_and_delays_no_other(database: Database) -> None:
    """Sequence numbers are assigned at insert, so a reader that keeps a position would skip the earlier number."""
    with psycopg.connect(database.application.url) as late:
        late.execute(DOCUMENT, ["late", "Early number.", None])
        database.put("a", "Later number.")
        database.consume()
        assert database.texts() == {"a": "Later number."}
        late.commit()
    database.consume()
    assert database.texts() == {"a": "Later number.", "late": "Early number."}


def test_a_document_with_a_locked_older_row_waits(database: Database) -> None:
    """Otherwise the older row, staged second, would overwrite the newer one."""
    database.put("a", "Older.")
    database.put("b", "Other.")
    with psycopg.connect(database.application.url) as other:
        other.execute("SELECT FROM vector_index.outbox WHERE id = 'a' FOR UPDATE")
        database.put("a", "Newer.")
        used = database.application
        outbox.stage_page(used.target, max_bytes=MAX_BYTES)
        assert database.waiting() == 2
    database.consume()
    assert database.texts() == {"a": "Newer.", "b": "Other."}


def test_a_row_staged_by_another_worker_during_the_split_is_staged_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.put("a", "Words.")
    stage = rows.stage

    def overtaken(*arguments: Any) -> list[int]:
        monkeypatch.setattr(outbox.outbox, "stage", stage)
        database.consume()  # another worker, which was faster
        return stage(*arguments)

    monkeypatch.setattr(outbox.outbox, "stage", overtaken)
    database.consume()
    assert database.texts() == {"a": "Words."}
    assert database.one("SELECT count(*) FROM vector_index.revisions") == 1


def test_unchanged_texts_and_unknown_deletions_send_no_request(database: Database) -> None:
    database.put("a", "Words.")
    database.consume()
    before = len(database.application.backend.requests)
    database.put("a", "Words.")
    database.delete("unknown")
    database.consume()
    assert len(database.application.backend.requests) == before
    assert database.one("SELECT count(*) FROM vector_index.documents WHERE NOT deleted") == 1
    assert database.waiting() == 0


BAD = {
    "large": ("x" * 2_000, "{}", "text has 2,000 bytes, over MAX_DOCUMENT_BYTES (1,000): split the document"),
    "endless": (
        "x",
        json.dumps({"n": 1})[:-2] + "9" * 5_000 + "}",
        "metadata.n is a number of 5,000 digits; at most 640 are allowed",
    ),
    "deep": ("x", '{"n": ' + "[" * 40 + "]" * 40 + "}", "nested more than 32 levels deep"),
}


def test_a_document_that_the_worker_rejects_fails_alone_with_its_reason(database: Database) -> None:
    for id, (text, metadata, _) in BAD.items():
        database.conn.execute(
            "SELECT vector_index.enqueue_document('default', %s, %s, '', %s)", [id, text, metadata]
        )
    database.put("good", "Words.")
    database.consume()
    failures = database.failures()
    assert failures.keys() == BAD.keys()
    assert all(said in failures[id] for id, (_, _, said) in BAD.items())
    assert database.texts() == {"good": "Words."}
    assert database.application.state("large") == {
        "state": "failed",
        "version": None,
        "searchable": False,
        "error": failures["large"],
    }
    with connection.checkout(database.application.url) as conn:
        assert rows.counts(conn, "default") == {"waiting": 0, "oldest_seconds": 0.0, "rejected": 3}


def test_a_retry_stages_a_failed_document_after_the_limit_was_raised(database: Database) -> None:
    database.put("large", "long " * 300)
    database.consume()
    assert database.retry() == 1
    database.consume()
    assert database.failures().keys() == {"large"}
    assert database.retry() == 1
    database.consume(max_bytes=10_000)
    assert database.failures() == {}
    assert database.state("large") == "live"
    assert database.waiting() == 0


@pytest.mark.parametrize("way", ["enqueued", "sent", "deleted", "failed again"])
def test_a_later_change_ends_the_failure(database: Database, way: str) -> None:
    database.put("a", "Words.", 1)
    database.consume()
    database.put("a", "long " * 300, 2)
    database.consume()
    assert (database.state("a"), database.texts()) == ("failed", {"a": "Words."})
    if way == "enqueued":
        database.put("a", "Short.", 3)
    elif way == "sent":
        database.application.put({"id": "a", "text": "Short.", "version": 3})
    elif way == "deleted":
        database.delete("a")
    else:
        database.put("a", "longer " * 300, 3)
    database.consume()
    assert len(database.failures()) == (way == "failed again")
    assert database.waiting() == (way == "failed again")


def test_an_older_change_leaves_the_failure_of_a_newer_one(database: Database) -> None:
    database.put("a", "long " * 300, 5)
    database.consume()
    database.put("a", "Words.", 4)
    database.consume()
    assert database.failures().keys() == {"a"}


def test_a_document_that_cannot_be_split_fails_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A user's own tokenizer may quote the text in its error: neither the reason nor the log contains it."""
    backend = database.application.backend
    count = backend.count_tokens

    def faulty(text: str) -> int:
        if "poison" in text:
            raise RuntimeError(text)
        return count(text)

    database.put("good", "Words.")
    database.put("bad", "A poison.")
    database.put("refused", "Fine but for one.")
    with monkeypatch.context() as broken:
        broken.setattr(backend, "count_tokens", faulty)
        database.consume()
    assert database.texts() == {"good": "Words.", "refused": "Fine but for one."}
    assert database.failures() == {
        "bad": "staging failed (RuntimeError, see the worker's log): fix the cause and retry it"
    }
    assert "'bad' of index 'default' cannot be staged" in caplog.text
    assert "RuntimeError" in caplog.text
    assert "A poison" not in caplog.text
    assert database.retry() == 1
    database.consume()
    assert database.state("bad") == "live"


FATAL = """
import os
from tests.fixtures.application import HashBackend
from worker import configuration
from worker.backends.budgets import Budget
from worker.index import Index
from worker.indexing import outbox

class Fatal(HashBackend):
    def count_tokens(self, text):
        return os._exit(137) if "poison" in text else super().count_tokens(text)

outbox.REST_SECONDS = 0.0
settings = configuration.load({{}}).index("default")
index = Index(url={url!r}, settings=settings, backend=Fatal(), budget=Budget("", "default"))
while outbox.stage_page(index, max_bytes=10_000):
    pass
"""


@pytest.mark.slow
def test_a_document_that_kills_its_process_is_given_up_alone(
    database: Database,
) -> None:
    """Real processes that exit in the middle, as when memory runs out: they cannot count the attempt at their end."""
    program = FATAL.format(url=database.application.url)
    for n in range(3):
        database.put(f"good {n}", f"Words {n}.")
    database.put("bad", "A poison.")
    deaths = 0
    while (code := subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode) == 137:
        deaths += 1
    assert (code, deaths) == (0, outbox.MAX_ATTEMPTS)
    database.consume()
    assert database.texts() == {f"good {n}": f"Words {n}." for n in range(3)}
    assert database.failures() == {"bad": outbox.KILLED}
    assert database.retry() == 1
    database.consume()
    assert database.state("bad") == "live"


def test_a_suspect_text_rests_before_its_next_attempt(
    database: Database,
) -> None:
    """Another process may still be staging it."""
    database.put("a", "Words.")
    database.put("b", "Words.")
    suspect = "UPDATE vector_index.outbox SET attempts = 3, tried_at = clock_timestamp() - interval '{}' WHERE id = 'a'"
    database.conn.execute(suspect.format("4 minutes").encode())
    database.consume()
    assert database.texts() == {"b": "Words."}
    database.conn.execute(suspect.format("6 minutes").encode())
    database.consume()
    assert database.state("a") == "live"


def test_of_two_workers_with_the_same_page_one_stages_it(database: Database) -> None:
    database.put("a", "Words.")
    database.delete("b")
    with connection.checkout(database.application.url) as conn:
        looked = rows.oldest_changes(conn, "default", limit=10)
        assert {change.id for change in rows.begin_attempts(conn, "default", looked)} == {"a", "b"}
        assert {change.id for change in rows.begin_attempts(conn, "default", looked)} == {"b"}
        rows.cancel_attempts(conn, "default", looked)
        assert {change.id for change in rows.begin_attempts(conn, "default", looked)} == {"a", "b"}


def poller(
    database: Database,
    wake: Callable[[str], None] = lambda name: None,
    stage_page: Callable[[str], bool] | None = None,
) -> outbox.Poller:
    used = database.application

    def page(name: str) -> bool:
        return outbox.stage_page(used.target, max_bytes=MAX_BYTES)

    return outbox.Poller(used.url, ["default"], stage_page or page, wake)


def test_the_poller_survives_a_bug_and_logs_only_its_class(
    database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of an error of Postgres may quote a row."""
    monkeypatch.setattr("worker.indexing.background.PAUSE_SECONDS", 0.01)
    seen: list[str] = []

    def stumble(name: str) -> bool:
        seen.append(name)
        raise ValueError(text)

    text = "Words of Marrakesh."
    database.put("a", text)
    polling = poller(database, stage_page=stumble)
    polling.start()
    eventually(lambda: len(seen) > 1)
    polling.stop(PATIENCE_SECONDS)
    assert "ValueError" in caplog.text
    assert "Marrakesh" not in caplog.text


def test_rows_of_unknown_indexes_wait_and_are_logged_once_a_minute(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.conn.execute("SELECT vector_index.enqueue_document('pagse', 'a', 'Words.')")
    database.put("b", "Words.")
    polling = poller(database)
    with caplog.at_level(logging.WARNING):
        polling.look()
        polling.look()
    assert len(caplog.messages) == 1
    assert "1 outbox rows belong to index 'pagse', which is not in INDEXES" in caplog.text
    assert database.waiting() == 1
    with connection.checkout(database.application.url) as conn:
        assert rows.rows_of_unknown_indexes(conn, ["default"]) == {"pagse": 1}
        assert rows.rows_of_unknown_indexes(conn, ["default", "pagse"]) == {}


def test_of_a_backlog_the_poller_stages_one_page_and_wakes_the_staging_processes(database: Database) -> None:
    for n in range(250):
        database.put(n, f"Number {n}.")
    woken: list[str] = []
    poller(database, woken.append).look()
    assert woken == ["default"]
    assert database.waiting() == 150


def test_without_a_broker_the_poller_stages_the_whole_backlog(database: Database) -> None:
    def away(name: str) -> None:
        raise ServiceUnreachable("the broker cannot be reached")

    for n in range(250):
        database.put(n, f"Number {n}.")
    poller(database, away).look()
    assert database.waiting() == 0


def test_wrong_settings_delay_only_their_own_index(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.put("a", "Words.")
    database.consume()
    database.put("b", "Words.")
    used = database.application
    other = replace(used.backend, model_id="another")
    polling = poller(
        database,
        stage_page=lambda name: outbox.stage_page(replace(used.target, backend=other), max_bytes=MAX_BYTES),
    )
    with caplog.at_level(logging.WARNING):
        polling.look()
        polling.look()
    assert len(caplog.messages) == 1
    assert "the outbox of index 'default' waits: " in caplog.text
    assert database.waiting() == 1
    assert database.failures() == {}
    database.consume()
    assert database.waiting() == 0


def test_a_page_waits_while_the_provider_is_down(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> int:
        raise ServiceUnreachable("away")

    database.put("a", "Words.")
    monkeypatch.setattr(outbox, "ensure_index", away)
    for _ in range(outbox.MAX_ATTEMPTS + 1):
        with pytest.raises(TemporaryError):
            database.consume()
    assert database.waiting() == 1
    assert database.one("SELECT attempts FROM vector_index.outbox") == 0  # no process died


def test_an_idle_poll_reads_only_a_database_index(database: Database) -> None:
    for n in range(2_000):
        database.conn.execute("SELECT vector_index.enqueue_delete('elsewhere', %s)", [n])
    database.conn.execute("ANALYZE vector_index.outbox")
    query = rows.statement("outbox.sql", "indexes_with_rows")
    plan = "\n".join(
        row[0] for row in database.conn.execute(sql.SQL("EXPLAIN ") + query, {"names": ["default", "other"]})
    )
    assert "outbox_waiting" in plan
    assert "Seq Scan on outbox" not in plan


def test_a_look_into_an_outbox_of_rejected_rows_reads_only_a_database_index(database: Database) -> None:
    for n in range(2_000):
        database.conn.execute("SELECT vector_index.enqueue_delete('default', %s)", [n])
    database.conn.execute("UPDATE vector_index.outbox SET error = 'rejected'")
    database.conn.execute("ANALYZE vector_index.outbox")
    query = rows.statement("outbox.sql", "has_rows")
    plan = "\n".join(row[0] for row in database.conn.execute(sql.SQL("EXPLAIN ") + query))
    assert "outbox_waiting" in plan
    assert "Seq Scan on outbox" not in plan


STORM = Weather(crashes=0.04, pauses=0.02)
SENT = """
CREATE TABLE public.witnessed (doc bigint, sent bigint);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.witnessed VALUES (new.doc, (new.metadata->>'sent')::bigint); RETURN NULL; END $$;
CREATE TRIGGER witness AFTER INSERT ON vector_index.revisions FOR EACH ROW EXECUTE FUNCTION witness();
CREATE TABLE pages (id bigint PRIMARY KEY, sent bigint);
"""


def test_consumers_that_die_at_any_statement_lose_and_double_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four consumers die at any statement, while three applications enqueue under the locks of their rows."""
    used, over, crashes = database.application, threading.Event(), CrashingConnection.crashes
    database.conn.execute(SENT)
    database.conn.execute("INSERT INTO pages SELECT n, 0 FROM generate_series(0, 39) n")
    staging.ensure_index(used.target)
    connection.close_pools()
    monkeypatch.setattr(connection, "ConnectionPool", CrashingPool)
    monkeypatch.setattr(CrashingConnection, "weather", STORM)
    monkeypatch.setattr(outbox, "REST_SECONDS", 0.0)
    monkeypatch.setattr(outbox, "MAX_ATTEMPTS", 1_000)  # here processes die at random
    errors: list[BaseException] = []

    def apply(first: int) -> None:
        with psycopg.connect(used.url) as conn:
            for number in range(120):
                sent = first + number
                [id] = conn.execute(
                    "UPDATE pages SET sent = %s WHERE id = %s RETURNING id", [sent, random.randrange(40)]
                ).fetchone() or [0]
                if random.random() < 0.2:
                    conn.execute(DELETE, [id, None])
                    conn.execute("UPDATE pages SET sent = NULL WHERE id = %s", [id])
                else:
                    conn.execute(
                        "SELECT vector_index.enqueue_document('default', %s, %s, metadata => %s)",
                        [id, f"Page {id} at {sent}.", json.dumps({"sent": sent})],
                    )
                if random.random() < 0.1:
                    conn.rollback()
                else:
                    conn.commit()

    def consume() -> None:
        while not over.is_set():
            try:
                outbox.stage_page(used.target, max_bytes=MAX_BYTES)
            except (Crash, TemporaryError):
                continue
            except BaseException as error:
                errors.append(error)
                raise

    applications = [threading.Thread(target=apply, args=(n * 1_000 + 1,)) for n in range(3)]
    consumers = [threading.Thread(target=consume) for _ in range(4)]
    for thread in (*applications, *consumers):
        thread.start()
    for thread in applications:
        thread.join()
    time.sleep(0.3)
    over.set()
    for thread in consumers:
        thread.join()
    monkeypatch.setattr(CrashingConnection, "weather", Weather(crashes=0, pauses=0))
    assert CrashingConnection.crashes > crashes
    assert not errors
    database.consume()
    assert database.waiting() == 0
    assert database.failures() == {}
    expected = database.conn.execute("SELECT id::text, sent FROM pages WHERE sent > 0").fetchall()
    assert database.texts() == {id: f"Page {id} at {sent}." for id, sent in expected}
    assert database.one("SELECT count(*) FROM public.witnessed GROUP BY sent ORDER BY 1 DESC LIMIT 1") == 1
