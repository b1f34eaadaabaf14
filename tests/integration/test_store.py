"""The schema, the connections and the filters of the store."""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.fixtures.application import Application, HashBackend
from tests.fixtures.filters import filters
from worker import configuration
from worker.configuration import HNSWSettings
from worker.errors import InvalidQuery, ServiceUnreachable, SettingsError
from worker.recipes import Recipe
from worker.services import home as homes
from worker.services.postgres import Postgres
from worker.store import builds, connection, schema
from worker.store.filters import compile_filter
from worker.store.statements import BUILD_TABLES

RECIPE = {
    "dimensions": 8,
    "distance": "cosine",
    "language": "english",
    "language_field": None,
    "vector_type": "vector",
}

# names of everything in the schema that can have a comment, with the comment
COMMENTS = """
SELECT c.relname AS name, obj_description(c.oid, 'pg_class') AS comment FROM pg_class c
WHERE c.relnamespace = 'vector_index'::regnamespace AND c.relkind = 'r'
UNION ALL
SELECT c.relname || '.' || a.attname, col_description(c.oid, a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'vector_index'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT p.oid::regprocedure::text, obj_description(p.oid, 'pg_proc') FROM pg_proc p
WHERE p.pronamespace = 'vector_index'::regnamespace
"""


@pytest.fixture
def conn(database_url: str) -> Iterator[connection.Connection]:
    with connection.checkout(database_url) as conn:
        yield conn
    connection.close_pools()


@pytest.mark.slow
def test_ten_concurrent_processes_install_the_schema_once(empty_database_url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(10) as pool:
        assert pool.map(schema.install, [empty_database_url] * 10) == [max(schema.migrations())] * 10
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute("SELECT count(*) FROM vector_index.migrations").fetchone() == (
            len(schema.migrations()),
        )


def test_a_schema_of_a_later_release_is_rejected_unchanged(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("INSERT INTO vector_index.migrations VALUES (999)")
    with pytest.raises(SettingsError, match="has version 999, this release knows"):
        schema.install(database_url)


def test_a_role_that_owns_only_the_schema_installs_it(empty_database_url: str) -> None:
    """Least privilege: the database's owner creates the extension and the schema once, as the error says."""
    role = f"worker_{uuid4().hex}"
    url = psycopg.conninfo.make_conninfo(empty_database_url, user=role, password="worker")
    with psycopg.connect(empty_database_url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'worker'")
        try:
            with pytest.raises(
                SettingsError, match="let an owner run CREATE EXTENSION vector; CREATE SCHEMA"
            ):
                schema.install(url)
            owner.execute("CREATE EXTENSION vector")
            owner.execute(f"CREATE SCHEMA vector_index AUTHORIZATION {role}")
            assert schema.install(url) == schema.install(url) == max(schema.migrations())
        finally:
            owner.execute(f"DROP OWNED BY {role}")
            owner.execute(f"DROP ROLE {role}")


def test_tables_of_an_application_stay_out_of_our_schema(empty_database_url: str) -> None:
    """With the URL that `up` prints: its role has the same name as the schema."""
    schema.install(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        assert conn.info.user == schema.SCHEMA
        conn.execute("CREATE TABLE documents (id bigint)")
        assert conn.execute("SELECT to_regclass('public.documents') IS NOT NULL").fetchone() == (True,)


def test_every_table_column_and_function_has_a_comment(conn: connection.Connection) -> None:
    builds.ensure(conn, "default", lambda: RECIPE)
    assert [name for name, comment in conn.execute(COMMENTS) if not comment] == []


def test_an_older_build_gets_the_comments_of_a_new_one(
    conn: connection.Connection, database_url: str
) -> None:
    builds.ensure(conn, "old", lambda: RECIPE)
    tables = [f"{table}_1" for table in BUILD_TABLES]

    def described() -> dict[str, str]:
        return {name: said for name, said in conn.execute(COMMENTS) if name.partition(".")[0] in tables}

    before = described()
    for name in before:
        kind = sql.SQL("COLUMN" if "." in name else "TABLE")
        conn.execute(
            sql.SQL("COMMENT ON {} {} IS NULL").format(kind, sql.Identifier("vector_index", *name.split(".")))
        )
    conn.execute("DELETE FROM vector_index.migrations WHERE version = 11")
    schema.install(database_url)
    assert described() == before


CHUNK = """
INSERT INTO vector_index.chunks_1 (rev, ordinal, hash, start, "end", tokens, heading, text, lexemes)
SELECT 1, 0, '', 0, 1, 9, '', words, to_tsvector('english', words)
FROM (SELECT string_agg('word' || n || ' repeated', ' ') AS words FROM generate_series(1, 100) n) AS made
"""


@pytest.mark.parametrize("age", ["new", "old"])
def test_a_chunk_of_usual_size_stays_in_its_row_without_compression(
    conn: connection.Connection, database_url: str, age: str
) -> None:
    builds.ensure(conn, "default", lambda: RECIPE)
    if age == "old":
        conn.execute("ALTER TABLE vector_index.chunks_1 RESET (toast_tuple_target)")
        conn.execute("DELETE FROM vector_index.migrations WHERE version = 27")
        schema.install(database_url)
    conn.execute(CHUNK)
    row = conn.execute(
        "SELECT pg_column_compression(text), pg_column_compression(lexemes), pg_column_size(c) > 2100, "
        "pg_relation_size(reltoastrelid) FROM vector_index.chunks_1 c, pg_class WHERE relname = 'chunks_1'"
    ).fetchone()
    assert row == (None, None, True, 0)


@pytest.mark.parametrize(
    ("wanted", "dimensions", "column"),
    [
        ("auto", 8, "vector(8)"),
        ("auto", 1000, "vector(1000)"),
        ("auto", 1001, "halfvec(1001)"),
        ("vector", 2000, "vector(2000)"),
        ("halfvec", 8, "halfvec(8)"),
    ],
)
def test_the_vector_column_has_a_type_that_an_index_supports(
    conn: connection.Connection, wanted: Literal["auto", "vector", "halfvec"], dimensions: int, column: str
) -> None:
    settings = replace(configuration.load({}).index("default"), vector_type=wanted)
    recipe = Recipe.of(settings, HashBackend(dimensions=dimensions))
    [build] = builds.ensure(conn, "default", recipe.as_json)
    found = conn.execute(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attname = 'embedding'",
        [f"vector_index.embeddings_{build.build}"],
    ).fetchone()
    assert found == (column,)


def test_a_vector_type_that_no_index_takes_is_refused_unless_none_is_wanted() -> None:
    settings = replace(configuration.load({}).index("default"), vector_type="vector")
    backend = HashBackend(dimensions=2_001)
    with pytest.raises(
        SettingsError, match="index 2,000 dimensions, and its vectors have 2,001: set it to 'auto'"
    ):
        Recipe.of(settings, backend)
    for hnsw in (None, HNSWSettings(quantisation="binary")):
        assert Recipe.of(replace(settings, hnsw=hnsw), backend).vector_type == "vector"


def test_too_many_dimensions_are_rejected(conn: connection.Connection) -> None:
    with pytest.raises(SettingsError, match="16001 dimensions; pgvector stores 1 to 16,000"):
        builds.ensure(conn, "default", lambda: {**RECIPE, "dimensions": 16_001})


def test_connections_commit_each_statement_and_end_idle_transactions(conn: connection.Connection) -> None:
    """Without autocommit, a stray SELECT would keep locks. The protocol needs READ COMMITTED under any default."""
    assert conn.autocommit
    conn.execute("SET default_transaction_isolation = 'repeatable read'")
    with conn.transaction():
        assert conn.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
    assert conn.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("10s",)
    assert conn.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_an_unreachable_server_is_reported_without_the_password() -> None:
    with (
        pytest.raises(ServiceUnreachable) as caught,
        connection.connect("postgresql://u:secret@127.0.0.1:1/d"),
    ):
        pass
    assert "127.0.0.1:1/d is unreachable" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_wrong_password_raises_a_settings_error(database_url: str) -> None:
    wrong = psycopg.conninfo.make_conninfo(database_url, password="wrong")
    with pytest.raises(
        SettingsError, match=r"refused the connection: .*authentication failed.*; check DATABASE_URL"
    ):
        schema.install(wrong)


def test_missing_pgvector_is_reported_with_the_packages_of_its_version(empty_database_url: str) -> None:
    """The server looks for extensions in another folder, as one does that has no pgvector."""
    with psycopg.connect(empty_database_url, autocommit=True) as owner:
        owner.execute("DROP EXTENSION IF EXISTS vector")
        name = psycopg.conninfo.conninfo_to_dict(empty_database_url)["dbname"]
        owner.execute(
            sql.SQL("ALTER DATABASE {} SET extension_control_path = '/nowhere'").format(
                sql.Identifier(str(name))
            )
        )
    with pytest.raises(SettingsError) as caught:
        schema.install(empty_database_url)
    assert "has no pgvector" in str(caught.value)
    assert "`apt install postgresql-18-pgvector` on Debian and Ubuntu" in str(caught.value)
    assert "pgvector/pgvector:pg18" in str(caught.value)


class Older(Postgres):
    """PostgreSQL 16 from the same wheel; its initdb lacks the built-in locales of 17."""

    def _run(self, program: str, *arguments: str | Path, folder: Path, text: str = "") -> None:
        newer = ("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8")
        known = [argument for argument in arguments if argument not in newer]
        super()._run(program, *known, folder=folder, text=text)


@pytest.mark.slow
def test_the_pipeline_works_on_an_older_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fixtures.application import HashBackend
    from worker import configuration
    from worker.indexing.draining.drainer import Drainer
    from worker.services import postgres

    older = postgres.programs().parents[1] / "pginstall" / "bin"
    monkeypatch.setattr(postgres, "programs", lambda: older)
    server = Older(tmp_path, homes.make(tmp_path)["postgres"], durable=False)
    server.check()
    try:
        server.wait()
        version = subprocess.run(
            [older / "postgres", "--version"], capture_output=True, text=True, check=True
        )
        schema.install(server.url)
        index, backend = configuration.load({}).index("default"), HashBackend()
        application = Application(
            server.url, index, backend, Drainer(server.url, index.embedding_backend, backend)
        )
        assert "PostgreSQL) 16" in version.stdout
        assert application.put({"id": "a", "text": "Words."}, {"id": "b", "text": "Others."})["indexed"] == 2
        assert application.put({"id": "a", "text": "New words."})["indexed"] == 1
        assert application.delete("b").deleted == 1
        assert application.search("words", filter={"$not": {"kind": 1}}) == ["a"]
    finally:
        connection.close_pools()
        server.stop()


METADATA = [
    {"n": 1, "s": "b", "tags": ["x", "y"], "deep": {"er": True}, "null": None},
    {"n": 2.5, "s": "c", "tags": ["y"], "deep": {"er": False}},
    {"n": "3", "other": {}},
    {},
]


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ({}, [0, 1, 2, 3]),
        ({"n": 1}, [0]),
        ({"n": 1.0}, [0]),
        ({"tags": "y"}, [0, 1]),
        ({"tags": ["y"]}, [1]),
        ({"deep": {"er": True}}, [0]),
        ({"deep.er": False}, [1]),
        ({"null": None}, [0]),
        ({"n": {"$ne": 1}}, [1, 2]),
        ({"n": {"$gt": 1}}, [1]),
        ({"n": {"$gte": 1, "$lt": 2}}, [0]),
        ({"s": {"$lte": "b"}}, [0]),
        ({"n": {"$in": [1, "3", None]}}, [0, 2]),
        ({"n": {"$in": []}}, []),
        ({"tags": {"$in": ["x", "z"]}}, [0]),
        ({"deep": {"$in": [{"er": False}, 1]}}, [1]),
        ({"n": {"$nin": [1]}}, [1, 2]),
        ({"s": {"$exists": True}}, [0, 1]),
        ({"s": {"$exists": False}}, [2, 3]),
        ({"$or": [{"n": 1}, {"s": "c"}]}, [0, 1]),
        ({"$and": [{"n": 1}, {"s": "c"}]}, []),
        ({"$or": []}, []),
        ({"$not": {"n": 1}}, [1, 2, 3]),
        ({"n": 1, "s": "b"}, [0]),
        ({"tags.0": "x"}, [0]),
        ({"n": {"$ne": "3"}}, [0, 1]),
        ({"deep": {"$eq": {"er": True}}}, [0]),
        ({".".join("n" * 5000): 1}, []),
        ({"n": "1' OR true --"}, []),
        ({"n' OR true --": {"$exists": True}}, []),
    ],
)
def test_filters_select_the_matching_documents(
    conn: connection.Connection, filter: Any, expected: list[int]
) -> None:
    assert matching(conn, filter) == expected


@pytest.mark.parametrize(
    ("filter", "sentence"),
    [
        ("x", "filter must be an object, not str"),
        ({"n": {"$near": 1}}, "unknown operator '$near' in filter: use one of $eq"),
        ({"$nor": []}, "unknown operator '$nor'"),
        ({"$or": {}}, "$or takes a list of filters"),
        ({"$not": 1}, "a filter is an object"),
        ({"n": {"$gt": True}}, "$gt takes a number or a string, not bool"),
        ({"n": {"$in": 1}}, "$in takes a list of values"),
        ({"n": {"$exists": 1}}, "$exists takes true or false"),
        ({"n": float("inf")}, "filter has a value that JSON cannot hold"),
        ({"n": object()}, "filter has a value that JSON cannot hold"),
    ],
)
def test_an_invalid_filter_raises_one_sentence(filter: Any, sentence: str) -> None:
    with pytest.raises(InvalidQuery) as caught:
        compile_filter(filter)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "filter", [None, {}, {"$or": [{"team": 1}]}, {"team": {"$ne": 1}}, {"team": [1]}, {"team": None}]
)
def test_a_filter_without_one_tenant_at_its_top_level_is_rejected(filter: Any) -> None:
    with pytest.raises(InvalidQuery, match="needs its TENANT_FIELD in every filter"):
        compile_filter(filter, tenant_field="team")


@pytest.mark.parametrize("filter", [{"team": 1}, {"team": {"$eq": 1}, "$or": [{"a": 1}, {"a": 2}]}])
def test_a_filter_with_one_tenant_is_accepted(filter: Any) -> None:
    compile_filter(filter, tenant_field="team")


@given(filter=filters)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_filter_runs_or_raises_invalid_query(conn: connection.Connection, filter: Any) -> None:
    try:
        compiled = compile_filter(filter)
    except InvalidQuery:
        return
    assert all(isinstance(name, str) for name in compiled[1])
    assert set(matching(conn, filter)) <= {0, 1, 2, 3}


def matching(conn: connection.Connection, filter: Any) -> list[int]:
    condition, parameters = compile_filter(filter)
    rows = psycopg.sql.SQL(
        "SELECT r.at - 1 FROM unnest(%(rows)s::jsonb[]) WITH ORDINALITY r (metadata, at) WHERE {} ORDER BY at"
    ).format(condition)
    found = conn.execute(rows, {"rows": [Jsonb(metadata) for metadata in METADATA], **parameters})
    return [row[0] for row in found]


def test_a_process_with_an_open_pool_ends_at_once_and_in_silence(database_url: str) -> None:
    """On Python 3.13 it took 5 s for each thread of the pool, and printed a line about each."""
    code = f"""
from worker.store import connection
with connection.checkout({database_url!r}) as conn:
    conn.execute("SELECT 1")
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert time.monotonic() - began < 15
