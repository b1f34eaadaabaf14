"""Sessions mean the same whatever a server, a database, a role or another tool's address sets."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import Conninfo

from tests.fixtures.application import Application, HashBackend
from worker import configuration, sessions
from worker.configuration import HNSWSettings, IndexSettings
from worker.errors import ServiceUnreachable, SettingsError
from worker.indexing import staging
from worker.indexing.draining.drainer import Drainer
from worker.indexing.outbox import stage_page
from worker.services import Addresses
from worker.sources.sql import SQLSource
from worker.store import builds, connection, hnsw, schema

OWL = "Ein Käuzchen „schläft“ bei Tag 🦉, C:\\nest."

# settings that a database may have for all of its sessions, each against what our SQL or psycopg relies on
HOSTILE = {
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "search_path": "",
    "statement_timeout": "100ms",
    "lock_timeout": "1ms",
    "idle_session_timeout": "100ms",
    "idle_in_transaction_session_timeout": "100ms",
    "transaction_timeout": "100ms",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "gin_fuzzy_search_limit": "1",
    "row_security": "off",
    "quote_all_identifiers": "on",
    "plan_cache_mode": "force_custom_plan",
    "default_text_search_config": "german",
}
# of no consequence for our sessions
ANY_VALUE = {"default_text_search_config"}


@contextmanager
def database(administrator: psycopg.Connection, services: Addresses, options: str = "") -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    administrator.execute(f"CREATE DATABASE {name} {options}".encode())
    try:
        yield f"{services.database_url.rpartition('/')[0]}/{name}"
    finally:
        connection.close_pools()
        administrator.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def hostile_url(empty_database_url: str, administrator: psycopg.Connection) -> Iterator[str]:
    name = sql.Identifier(empty_database_url.rpartition("/")[2])
    for setting, value in HOSTILE.items():
        statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
        administrator.execute(statement.format(name, sql.Identifier(setting), sql.Literal(value)))
    yield empty_database_url
    connection.close_pools()


def application_on(url: str) -> Application:
    backend = HashBackend()
    index: IndexSettings = configuration.load({}).index("default")
    return Application(url, index, backend, Drainer(url, index.embedding_backend, backend))


def settings_of(url: str) -> dict[str, str]:
    with connection.checkout(url) as conn:
        return dict(conn.execute("SELECT name, setting FROM pg_settings").fetchall())


def assert_indexes_and_finds(url: str) -> None:
    application = application_on(url)
    result = application.put({"id": "owl", "text": OWL, "title": "Käuzchen", "metadata": {"né": "🦉\\"}})
    assert (result["indexed"], result["failed"]) == (1, [])
    (passage,) = application.passages("Käuzchen schläft")
    assert (passage.text, passage.title, passage.metadata) == (OWL, "Käuzchen", {"né": "🦉\\"})
    assert application.search("Käuzchen", filter={"né": "🦉\\"}) == ["owl"]
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "SELECT vector_index.enqueue_document('default', 'b', 'Another owl.', metadata => '{\"n\": 1}')"
        )
    while stage_page(application.target, max_bytes=10_000):
        pass
    application.drainer.drain()
    assert application.state("b")["searchable"]


def test_no_setting_of_a_database_changes_what_sessions_mean(hostile_url: str, database_url: str) -> None:
    schema.install(hostile_url)
    usual, found = settings_of(database_url), settings_of(hostile_url)
    differing = {name: found.get(name) for name in HOSTILE if found.get(name) != usual.get(name)}
    assert differing.keys() <= ANY_VALUE, differing
    connection.close_pools()
    assert_indexes_and_finds(hostile_url)


def test_no_timeout_of_a_database_ends_our_statements(hostile_url: str) -> None:
    with connection.connect(hostile_url) as conn:
        conn.execute("SELECT pg_sleep(0.3)")
    schema.install(hostile_url)
    with connection.checkout(hostile_url) as conn:
        conn.execute("SELECT pg_sleep(0.3)")
        time.sleep(0.3)
        conn.execute("SELECT 1")


def test_a_source_reads_rows_whatever_its_database_sets(hostile_url: str) -> None:
    query = f"SELECT 1 AS id, $${OWL}$$ AS text, '2026-02-01'::date AS day, interval '1 hour' AS span"
    source = SQLSource(dsn=f"{hostile_url}?schema=public", query=f"SELECT id, text FROM ({query}) AS q")
    assert [document["text"] for document in source.documents()] == [OWL]


@pytest.mark.parametrize("namespace", ["extensions", 'of "this" site'])
def test_pgvector_may_be_in_a_schema_outside_of_the_search_path(
    namespace: str, empty_database_url: str
) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        there = sql.Identifier(namespace)
        conn.execute(sql.SQL("CREATE SCHEMA {0}; CREATE EXTENSION vector SCHEMA {0}").format(there))
    schema.install(empty_database_url)
    assert_indexes_and_finds(empty_database_url)
    connection.close_pools()


def test_a_role_that_may_not_use_the_schema_of_pgvector_is_told_the_grant(
    empty_database_url: str, administrator: psycopg.Connection
) -> None:
    parts = urlsplit(empty_database_url)
    administrator.execute("DROP ROLE IF EXISTS stranger")
    administrator.execute("CREATE ROLE stranger LOGIN PASSWORD 'x'")
    try:
        with psycopg.connect(empty_database_url, autocommit=True) as conn:
            conn.execute("CREATE SCHEMA extensions; CREATE EXTENSION vector SCHEMA extensions")
            conn.execute("CREATE SCHEMA vector_index AUTHORIZATION stranger")
        with pytest.raises(SettingsError, match="GRANT USAGE ON SCHEMA extensions TO its_role"):
            schema.install(f"postgresql://stranger:x@{parts.hostname}:{parts.port}{parts.path}")
    finally:
        with psycopg.connect(empty_database_url, autocommit=True) as conn:
            conn.execute("DROP OWNED BY stranger CASCADE")
        administrator.execute("DROP ROLE stranger")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text_is_refused_with_what_to_create(
    encoding: str, administrator: psycopg.Connection, services: Addresses
) -> None:
    options = f"ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
    with (
        database(administrator, services, options) as url,
        pytest.raises(SettingsError, match=f"has the encoding {encoding}, which .* ENCODING 'UTF8'"),
    ):
        schema.install(url)


def test_a_database_without_the_schema_public_is_set_up_or_refused_with_what_to_run(
    empty_database_url: str,
) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute("DROP SCHEMA public CASCADE")
    with pytest.raises(SettingsError, match="let an owner run CREATE EXTENSION vector"):
        schema.install(empty_database_url)


def test_a_pool_that_cannot_connect_says_why(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool itself says only that it waited."""
    monkeypatch.setattr(connection, "CHECKOUT_TIMEOUT_SECONDS", 1)
    with (
        pytest.raises(ServiceUnreachable, match="is unreachable: vector type not found in the database"),
        connection.checkout(empty_database_url),
    ):
        pass
    connection.close_pools()


def test_an_invalid_vector_index_is_dropped_even_where_none_is_wanted(database_url: str) -> None:
    application = application_on(database_url)
    application.put({"id": "a", "text": "An owl."}, {"id": "b", "text": "Another owl."})
    with connection.checkout(database_url) as conn:
        build = builds.live(conn, "default")
        assert build is not None
        assert hnsw.look(conn, build, HNSWSettings()) is None
        with pytest.raises(psycopg.errors.UniqueViolation):  # as a cancelled statement leaves it
            conn.execute("CREATE UNIQUE INDEX CONCURRENTLY cancelled ON vector_index.embeddings_1 ((1))")
        assert hnsw.look(conn, build, HNSWSettings()) == "clean"
        assert hnsw.apply(database_url, build, HNSWSettings()) == "clean"
        assert hnsw.look(conn, build, HNSWSettings()) is None
        left = conn.execute("SELECT to_regclass('vector_index.cancelled')").fetchone()
    assert left == (None,)
    connection.close_pools()


# Migrations


@pytest.fixture
def older_url(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with the schema of an earlier release."""
    every = schema.migrations()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: {at: file for at, file in every.items() if at < 10})
        schema.install(empty_database_url)
    return empty_database_url


def enqueue(conn: psycopg.Connection, id: str) -> None:
    conn.execute("SELECT vector_index.enqueue_document('default', %s, 'An owl.')", [id])


@pytest.mark.slow
def test_a_migration_that_waits_for_an_open_transaction_lets_others_enqueue(older_url: str) -> None:
    with psycopg.connect(older_url) as slow, psycopg.connect(older_url, autocommit=True) as other:
        enqueue(slow, "slow")
        versions: list[int] = []
        migration = threading.Thread(target=lambda: versions.append(schema.install(older_url)))
        migration.start()
        waits = []
        until = time.monotonic() + 4
        while time.monotonic() < until:
            began = time.monotonic()
            enqueue(other, str(began))
            waits.append(time.monotonic() - began)
            time.sleep(0.02)
        assert migration.is_alive()
        assert schema.LOCK_SECONDS / 4 < max(waits) < schema.LOCK_SECONDS + 0.5
        slow.commit()
        migration.join(30)
    assert versions == [max(schema.migrations())]


def test_a_migration_that_waits_for_too_long_names_the_session(older_url: str) -> None:
    with psycopg.connect(older_url) as slow:
        enqueue(slow, "slow")
        found = rf"another transaction uses it \(pid {slow.info.backend_pid}, open for \d+ s\): end that"
        with pytest.raises(ServiceUnreachable, match=found):
            schema.install(older_url, patience_seconds=0)


# Addresses


def test_every_parameter_of_libpq_is_known() -> None:
    installed = {option.keyword.decode() for option in Conninfo.get_defaults()}
    assert set(sessions.PARAMETERS.split()) >= installed


def test_parameters_of_other_tools_have_no_effect(database_url: str) -> None:
    foreign = "schema=public&pgbouncer=true&connection_limit=5&pool_timeout=0&statement_cache_size=0"
    loaded = configuration.load({"DATABASE_URL": f"{database_url}?{foreign}&application_name=a%20b"})
    assert loaded.database_url == f"{database_url}?application_name=a%20b"
    (notice,) = loaded.notices
    assert "schema, pgbouncer, connection_limit" in notice
    with connection.connect(loaded.database_url) as conn:
        assert conn.execute("SHOW application_name").fetchone() == ("a b",)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"{url}"', "{url}"),
        ("'{url}?sslmode=prefer' ", "{url}?sslmode=prefer"),
        ("{url}?application_name=my app", "{url}?application_name=my%20app"),
        ("{url}?schema=public;sslmode=prefer", "{url}?sslmode=prefer"),
    ],
)
def test_an_address_is_read_as_files_of_variables_have_it(written: str, read: str, database_url: str) -> None:
    """A semicolon between parameters hides none: encryption that is asked for would be lost."""
    address, _ = sessions.libpq_address("DATABASE_URL", written.format(url=database_url))
    assert address == read.format(url=database_url)
    with connection.connect(address):
        pass


@pytest.mark.parametrize(
    "parameter", ["target_session_attrs=foo", "gssencmode=foo", "keepalives=x", "service=none"]
)
def test_a_wrong_value_in_an_address_is_a_mistake_in_the_settings(parameter: str, database_url: str) -> None:
    with (
        pytest.raises(SettingsError, match="check DATABASE_URL"),
        connection.connect(f"{database_url}?{parameter}"),
    ):
        pass


def test_no_sql_of_ours_calls_a_function_that_fips_forbids() -> None:
    for file in Path(schema.__file__).parent.rglob("*.sql"):
        assert "md5(" not in file.read_text(), file


def prepared_statements(url: str) -> list[str]:
    """What a session has prepared once it has run a transaction under the shared lock of an index."""
    with connection.session(url) as conn:
        with builds.locked(conn, builds.register(conn, "default"), exclusive=False):
            conn.execute("SELECT 'prepared'")
            assert conn.execute("SHOW enable_seqscan").fetchone() == ("off",)
        conn.execute("SELECT 'planned each time'")
        assert conn.execute("SHOW enable_seqscan").fetchone() == ("on",)
        rows = conn.execute("SELECT statement FROM pg_prepared_statements ORDER BY prepare_time").fetchall()
    return [row[0] for row in rows]


def test_statements_under_the_shared_lock_are_prepared_without_sequential_scans(database_url: str) -> None:
    found = prepared_statements(database_url)
    assert found[0].startswith("SELECT pg_advisory_xact_lock_shared")
    assert found[1:] == ["SELECT 'prepared'", "SHOW enable_seqscan"]


def test_nothing_is_prepared_behind_a_pooler(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pooler = property(lambda info: 4711)  # names a process of its own at the start of a session
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", pooler)
    assert prepared_statements(database_url) == []


def test_a_plan_of_an_empty_index_finds_rows_by_key_when_it_has_grown(database_url: str) -> None:
    application = application_on(database_url)
    with connection.session(database_url) as conn:
        target = application.target
        application.put({"id": "first", "text": "Words."})
        build = builds.live(conn, "default")
        assert build is not None
        conn.execute("VACUUM ANALYZE vector_index.served_1")  # one page, which a scan reads fastest
        conn.execute("SET plan_cache_mode = force_generic_plan")
        with builds.locked(conn, build.index_id, exclusive=False):
            conn.execute(build.sql("writing.sql", "lock_served"), {"docs": [1]})
        staging.stage(
            target, "many", [{"id": str(n), "text": f"Text {n}."} for n in range(400)], max_bytes=1000
        )
        [(name,)] = conn.execute(
            "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%FOR UPDATE%' AND generic_plans > 0"
        )
        plan = conn.execute(f"EXPLAIN EXECUTE {name}('{{1}}')".encode()).fetchall()
    assert any("served_1_pkey" in row[0] for row in plan), plan
