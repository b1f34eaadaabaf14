"""`vector-index schema`, its SQL, and the stub for test databases of applications."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors as pg

from tests.fixtures.services import fresh_database
from worker.cli import run
from worker.services import Addresses
from worker.store import schema

STUB = (Path(__file__).parents[2] / "examples/test_database.sql").read_text()

FUNCTIONS = """
SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid) FROM pg_proc
WHERE pronamespace = 'vector_index'::regnamespace AND proname LIKE 'enqueue%' ORDER BY 1, 2
"""
EVERYTHING = """
SELECT 'relation', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text
FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'vector_index'::regnamespace
UNION ALL
SELECT 'function', proname, pg_get_functiondef(oid), NULL, proacl::text
FROM pg_proc WHERE pronamespace = 'vector_index'::regnamespace
ORDER BY 1, 2, 3
"""


@pytest.fixture
def empty(services: Addresses, administrator: psycopg.Connection) -> Iterator[str]:
    with fresh_database(services, administrator, "template0") as url:
        yield url


@pytest.fixture
def other(services: Addresses, administrator: psycopg.Connection) -> Iterator[str]:
    with fresh_database(services, administrator, "template0") as url:
        yield url


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def execute(url: str, script: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script.encode())


def test_schema_installs_the_schema_any_number_of_times_and_starts_nothing(
    empty: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty)
    monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")  # it needs no broker
    for _ in range(2):
        assert run(["schema"]) == 0
        assert f"schema version {max(schema.migrations())} at " in capsys.readouterr().out
    schema.check(empty)


def test_printed_sql_creates_the_same_schema_as_a_worker(
    empty: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["schema", "--sql"]) == 0
    script = capsys.readouterr().out
    for _ in range(2):
        execute(empty, script)
    schema.install(other)
    assert rows(empty, EVERYTHING) == rows(other, EVERYTHING)
    execute(other, script)
    assert rows(empty, EVERYTHING) == rows(other, EVERYTHING)


def test_printed_sql_refuses_the_schema_of_a_newer_release(
    empty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    schema.install(empty)
    execute(empty, "INSERT INTO vector_index.migrations VALUES (999)")
    assert run(["schema", "--sql"]) == 0
    with pytest.raises(pg.RaiseException, match="has version 999, this script knows"):
        execute(empty, capsys.readouterr().out)


def test_stub_has_the_functions_of_the_schema_and_keeps_what_they_get(empty: str, other: str) -> None:
    for _ in range(2):
        execute(empty, STUB)
    schema.install(other)
    assert rows(empty, FUNCTIONS) == rows(other, FUNCTIONS)
    execute(empty, "SELECT vector_index.enqueue_document('default', 42, 'Cats.', metadata => '{\"a\": 1}')")
    execute(empty, "SELECT vector_index.enqueue_delete('default', 'x', version => 3)")
    found = rows(
        empty,
        "SELECT index_name, id, deleted, text, title, metadata, version FROM vector_index.enqueued ORDER BY seq",
    )
    assert found == [
        ("default", "42", False, "Cats.", "", {"a": 1}, None),
        ("default", "x", True, None, None, None, 3),
    ]
    for call in ("enqueue_document('default', '', 'x')", "enqueue_document('default', 1, 'x', '', '[]')"):
        with pytest.raises(pg.InvalidParameterValue):
            execute(empty, f"SELECT vector_index.{call}")


def test_stub_refuses_a_database_with_the_real_schema(other: str) -> None:
    schema.install(other)
    before = rows(other, EVERYTHING)
    with pytest.raises(pg.RaiseException, match="run this file in test databases only"):
        execute(other, STUB)
    assert rows(other, EVERYTHING) == before
