"""A SQL query as a source, on real Postgres."""

import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import sql

from worker.documents import Document
from worker.errors import InvalidDocument, SettingsError, SourceFailed
from worker.protocols import Skipped
from worker.sources.reading import Reading
from worker.sources.sql import SQLSource

QUERY = "SELECT id, body AS text FROM page"


@pytest.fixture
def application(database_url: str) -> Iterator[psycopg.Connection]:
    """The application's own database, with 25 pages."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE page (id bigint PRIMARY KEY, slug text UNIQUE, body text, about jsonb, revision numeric, "
            "uid uuid DEFAULT gen_random_uuid(), changed timestamptz DEFAULT now())"
        )
        connection.execute(
            "INSERT INTO page SELECT n, 'page ' || n, 'Text ' || n, jsonb_build_object('n', n), n "
            "FROM generate_series(1, 25) AS n"
        )
        yield connection


@pytest.fixture
def source(application: psycopg.Connection, database_url: str) -> Any:
    """Make a source over the table."""
    return lambda query=QUERY, **config: SQLSource(
        **{"dsn": database_url, "page": 10, "query": query, **config}
    )


def read(source: SQLSource, since: str | None = None) -> list[Any]:
    return read_on(source, since)[0]


def read_on(source: SQLSource, since: str | None = None) -> tuple[list[Any], str | None]:
    """The ids since a cursor, and the next cursor."""
    reading = Reading(source, "page")
    return [document["id"] for document in reading.documents(since)], reading.cursor


def sentence(source: SQLSource) -> str:
    with pytest.raises(SourceFailed) as caught:
        list(source.documents())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("key", ["id", "slug", ""])
def test_every_row_is_read_once_by_key_or_by_server_side_cursor(source: Any, key: str) -> None:
    extra = ", slug" if key == "slug" else ""
    assert sorted(read(source(f"SELECT id, body AS text{extra} FROM page", key=key))) == list(range(1, 26))


@pytest.mark.parametrize("rows", [0, 9, 10, 11, 20])
def test_row_counts_around_the_page_size_are_read_completely(source: Any, rows: int) -> None:
    assert len(read(source(f"SELECT id, body AS text FROM page WHERE id <= {rows}"))) == rows


def test_columns_become_a_document(source: Any) -> None:
    """A uuid and a numeric version are accepted, NULL columns are absent, and the key may differ from the id."""
    query = "SELECT uid AS id, body AS text, NULL AS title, about AS metadata, revision AS version, id AS pk FROM page"
    [document] = source(f"{query} WHERE id = 7", key="pk").documents()
    taken = Document.from_json(document, max_bytes=100)
    assert (taken.id, taken.version) == (str(document["id"]), 7)
    assert len(taken.id) == 36
    assert (document["text"], document["metadata"]) == ("Text 7", {"n": 7})
    assert "title" not in document


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id, body AS text FROM page WHERE body LIKE 'Text 2%' -- all that begin so",
        "WITH weekly AS (SELECT * FROM page WHERE id % 7 = 0) SELECT id, body AS text FROM weekly;\n",
        "SELECT id, '{braces} %s ' || body AS text FROM page",
    ],
)
@pytest.mark.parametrize("key", ["id", ""])
def test_comments_ctes_and_braces_in_queries_work(
    source: Any, application: psycopg.Connection, query: str, key: str
) -> None:
    expected = application.execute(query.encode()).fetchall()
    found = [(row["id"], row["text"]) for row in source(query, key=key, page=2).documents()]
    assert sorted(found) == sorted(expected)


def test_no_snapshot_is_held_between_pages(source: Any, application: psycopg.Connection) -> None:
    """A snapshot would keep the application's vacuum from removing dead rows during a long run."""
    held = (
        "SELECT state, backend_xmin FROM pg_stat_activity "
        "WHERE application_name = 'vector-index-source' AND datname = current_database()"
    )
    documents = source().documents()
    assert next(documents)["id"] == 1
    assert application.execute(held).fetchall() == [("idle", None)]
    documents.close()


def test_reading_resumes_behind_the_last_row_after_a_lost_connection(
    source: Any, application: psycopg.Connection
) -> None:
    found = []
    for document in source().documents():
        found.append(document["id"])
        if len(found) in (3, 12):
            application.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'vector-index-source' AND datname = current_database()"
            )
    assert found == list(range(1, 26))


def test_source_transactions_are_read_only(source: Any, application: psycopg.Connection) -> None:
    application.execute(
        "CREATE FUNCTION wipe() RETURNS text LANGUAGE sql AS $$ DELETE FROM page RETURNING body $$"
    )
    said = sentence(source("SELECT 1 AS id, wipe() AS text"))
    assert "cannot execute DELETE in a read-only transaction" in said
    assert application.execute("SELECT count(*) FROM page").fetchone() == (25,)


# Incremental runs


def test_incremental_run_reads_newer_rows_and_the_overlap(
    source: Any, application: psycopg.Connection
) -> None:
    """A row with an older time that commits after a run is read by the next run."""
    application.execute("UPDATE page SET changed = timestamptz '2026-11-01 00:00Z' + id * interval '1 hour'")
    query, config = (
        "SELECT id, body AS text, changed FROM page",
        {"cursor": "changed", "cursor_overlap": 7200},
    )
    first, cursor = read_on(source(query, **config))
    assert len(first) == 25
    application.execute(
        "INSERT INTO page (id, body, changed) VALUES (26, 'late', '2026-11-01 23:59Z'), "
        "(27, 'old', '2026-11-01 22:59Z'), (28, 'without a time', NULL)"
    )
    assert read_on(source(query, **config), cursor) == ([23, 24, 25, 26, 28], cursor)


@pytest.mark.parametrize(
    ("kind", "highest"), [("integer", "20"), ("numeric", "20"), ("float8", "20.0"), ("date", "2026-11-25")]
)
def test_cursor_may_be_a_number_or_a_date(
    source: Any, kind: str, highest: str, application: psycopg.Connection
) -> None:
    """A transaction may begin before midnight and commit after it, so dates overlap by at least a day."""
    value = "date '2026-11-01' + id::integer" if kind == "date" else f"id::{kind}"
    query = f"SELECT id, body AS text, {value} AS changed FROM page"
    _, cursor = read_on(source(query, cursor="changed", cursor_overlap=5))
    assert cursor == highest
    assert read(source(query, cursor="changed"), cursor) == (
        [24, 25] if kind == "date" else list(range(20, 26))
    )


def test_daylight_saving_does_not_shorten_the_overlap(
    source: Any, application: psycopg.Connection, database_url: str
) -> None:
    """In Berlin, 03:05 comes six minutes after 01:59 on that night; rows of these minutes are read."""
    application.execute(
        "UPDATE page SET changed = timestamptz '2026-03-29 00:40Z' + id * interval '1 minute'"
    )
    query = "SELECT id, body AS text, changed FROM page"
    dsn = psycopg.conninfo.make_conninfo(database_url, options="-c timezone=Europe/Berlin")
    first, cursor = read_on(source(query, cursor="changed", cursor_overlap=600, dsn=dsn))
    assert len(first) == 25
    assert cursor == "2026-03-29 00:55:00+00:00"
    assert read(source(query, cursor="changed", dsn=dsn), cursor) == list(range(15, 26))


def test_fingerprint_depends_on_the_database_and_not_on_the_password(source: Any) -> None:
    """A cursor of a test database must not be used in production."""
    one, other, test = (
        source(cursor="id", dsn=f"postgresql://{where}").fingerprint()
        for where in ("shop:one@db/shop", "shop:two@db/shop", "shop:one@db/test")
    )
    assert one == other
    assert one != test


def test_fingerprint_depends_on_query_and_cursor(source: Any) -> None:
    prints = {
        source(query, cursor=cursor).fingerprint() for query in (QUERY, QUERY + " ") for cursor in ("id", "x")
    }
    assert len(prints) == 2
    assert source(QUERY + ";").fingerprint() == ""
    assert (
        source(QUERY, cursor="id").fingerprint() != source(QUERY + " WHERE true", cursor="id").fingerprint()
    )


# Mistakes


@pytest.mark.parametrize(
    ("query", "config", "said"),
    [
        ("SELECT id, bdy AS text FROM page", {}, 'column "bdy" does not exist'),
        ("SELECT id, body AS text FROM pages", {}, 'relation "pages" does not exist'),
        ("SELEKT 1", {}, "syntax error at or near"),
        ("SELECT id, body FROM page", {}, "QUERY has no column 'text', only id, body; rename one"),
        ("SELECT body AS text FROM page", {}, "QUERY has no column 'id'"),
        (QUERY, {"key": "pk"}, "QUERY has no column 'pk'"),
        (QUERY, {"cursor": "changed"}, "QUERY has no column 'changed'"),
        ("SELECT id, body AS text, slug FROM page", {}, "jsonb_build_object('slug', slug) AS metadata"),
        (QUERY + ", generate_series(1, 2)", {}, "KEY 'id' has a value twice"),
        (
            "SELECT id, body AS text, nullif(id, 3) AS pk FROM page",
            {"key": "pk"},
            "KEY 'pk' is NULL in some row",
        ),
        ("SELECT id, body AS text, slug FROM page", {"cursor": "slug"}, "CURSOR 'slug' is of type str"),
        (
            "SELECT id, body AS text FROM page, pg_sleep(1)",
            {"timeout_seconds": 0.05},
            "raise TIMEOUT_SECONDS (0.05 s)",
        ),
        (
            "SELECT id, body AS text, pg_sleep(1)::text AS title FROM page",
            {"timeout_seconds": 0.05, "key": ""},
            "raise TIMEOUT_SECONDS (0.05 s)",
        ),
    ],
)
def test_unusable_query_fails_with_one_sentence(source: Any, query: str, config: Any, said: str) -> None:
    assert said in sentence(source(query, **config))


@pytest.mark.parametrize("page", [1, 2, 3, 24, 25])
def test_duplicate_key_across_pages_fails_the_run(
    source: Any, application: psycopg.Connection, page: int
) -> None:
    """The second row would be skipped, and its document deleted."""
    query = "SELECT id, body AS text, least(id, 24) AS pk FROM page"
    assert "KEY 'pk' has a value twice" in sentence(source(query, key="pk", page=page))


def test_no_error_quotes_a_row(source: Any) -> None:
    """The traceback, which is logged and kept with the result of the task, quotes none either."""
    with pytest.raises(SourceFailed) as caught:
        list(source("SELECT id, body::integer::text AS text FROM page").documents())
    assert str(caught.value).endswith("says: InvalidTextRepresentation")
    assert "Text 1" not in "".join(traceback.format_exception(caught.value))


def test_unreachable_server_fails_with_one_sentence_without_password(unused_port: int) -> None:
    dsn = f"host=127.0.0.1 port={unused_port} dbname=shop user=me password='s3# cret'"
    said = sentence(SQLSource(dsn=dsn, query=QUERY))
    assert f"Postgres at 127.0.0.1:{unused_port}/shop says: " in said
    assert "onnection refused" in said
    assert "cret" not in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"dsn": "s3cret"}, "DSN of SQLSource cannot be parsed"),
        ({"dsn": 5}, "DSN of SQLSource is of type int"),
        ({"query": " ;\n"}, "QUERY of SQLSource is empty"),
        ({"query": None}, "QUERY of SQLSource is of type NoneType"),
        ({"key": 5}, "KEY of SQLSource is of type int"),
        ({"page": 0}, "PAGE of SQLSource is 0; set it to a number of at least 1"),
        ({"page": True}, "PAGE of SQLSource is True"),
        ({"cursor_overlap": -1}, "CURSOR_OVERLAP of SQLSource is -1"),
        ({"timeout_seconds": "9"}, "TIMEOUT_SECONDS of SQLSource is '9'"),
    ],
)
def test_invalid_config_is_rejected_with_one_sentence(config: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        SQLSource(**{"dsn": "postgresql:///shop", "query": QUERY, **config})
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


KEYS = {
    "real": ("n / 10::real", "real"),
    "floats": ("CASE WHEN n = 25 THEN 'NaN' ELSE n / 10::float8 END", "float8"),
    "numbers": ("n + 0.10", "numeric"),
    "times": ("timestamptz '2026-01-01' + n * interval '1 microsecond'", "timestamptz"),
    "padded text": ("'k' || n", "character(8)"),
    "short text": ("'k' || n", "varchar(9)"),
    "text of any case": ("CASE n % 2 WHEN 0 THEN 'K' ELSE 'k' END || n", "case_insensitive"),
    "bytes": ("('k' || n)::bytea", "bytea"),
    "network addresses": ("'10.0.0.0'::inet + n", "inet"),
    "bits": ("n::bit(8)", "bit(8)"),
}
# as the extension citext makes its own
CASE_INSENSITIVE = """
CREATE TYPE case_insensitive;
CREATE FUNCTION ci_in(cstring) RETURNS case_insensitive LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION ci_out(case_insensitive) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE case_insensitive (INPUT = ci_in, OUTPUT = ci_out, LIKE = text, CATEGORY = 'S', COLLATABLE = true);
CREATE CAST (case_insensitive AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS case_insensitive) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE FUNCTION ci_cmp(case_insensitive, case_insensitive) RETURNS integer LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT bttextcmp(lower($1::text), lower($2::text))';
{operators}
CREATE OPERATOR CLASS ci_ops DEFAULT FOR TYPE case_insensitive USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
    FUNCTION 1 ci_cmp(case_insensitive, case_insensitive)
"""
OPERATOR = """
CREATE FUNCTION ci_{name}(case_insensitive, case_insensitive) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT ci_cmp($1, $2) {sign} 0';
CREATE OPERATOR {sign} (LEFTARG = case_insensitive, RIGHTARG = case_insensitive, FUNCTION = ci_{name});
"""
SIGNS = {"lt": "<", "le": "<=", "eq": "=", "ge": ">=", "gt": ">"}


@pytest.fixture
def collated(application: psycopg.Connection) -> psycopg.Connection:
    """The table with a case-insensitive type."""
    operators = "".join(OPERATOR.format(name=name, sign=sign) for name, sign in SIGNS.items())
    application.execute(CASE_INSENSITIVE.format(operators=operators).encode())
    return application


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_every_type_are_read_once(source: Any, collated: psycopg.Connection, key: str) -> None:
    value, type = KEYS[key]
    collated.execute(f'ALTER TABLE page ADD COLUMN "100% of %s" {type}'.encode())
    collated.execute(
        f'UPDATE page SET "100% of %s" = (SELECT {value} FROM (VALUES (id::int)) AS v (n))'.encode()
    )
    reading = source('SELECT id, body AS text, "100% of %s" FROM page', key="100% of %s", page=4)
    assert sorted(read(reading)) == list(range(1, 26))
    assert reading.check()


def test_keys_equal_only_to_postgres_fail_the_run(source: Any, collated: psycopg.Connection) -> None:
    """A page starts behind the last key, so the other row would be skipped."""
    collated.execute("ALTER TABLE page ADD COLUMN name case_insensitive")
    collated.execute("UPDATE page SET name = 'k' || (id + 10)")
    collated.execute("UPDATE page SET name = 'K20' WHERE id = 11")
    said = sentence(source("SELECT id, body AS text, name FROM page", key="name", page=10))
    assert said == "KEY 'name' has a value twice; name a column that is unique"


def test_key_without_an_order_fails_before_reading(source: Any) -> None:
    reading = source("SELECT id, body AS text, about::json AS about FROM page", key="about")
    assert (
        sentence(reading) == "KEY 'about' is of type json, which has no order; name a column of another type"
    )
    with pytest.raises(SourceFailed):
        reading.check()


def test_cursor_column_may_have_any_name(source: Any, application: psycopg.Connection) -> None:
    application.execute('ALTER TABLE page ADD COLUMN "% done" real')
    application.execute('UPDATE page SET "% done" = id / 10::real')
    query = 'SELECT id, body AS text, "% done" FROM page'
    reading = source(query, cursor="% done", cursor_overlap=0)
    ids, cursor = read_on(reading)
    assert len(ids) == 25
    assert read(reading, cursor) == [25]


def test_page_is_an_index_scan_of_one_page(source: Any, application: psycopg.Connection) -> None:
    application.execute("INSERT INTO page (id, body) SELECT n, 'Text' FROM generate_series(26, 20000) n")
    application.execute("ANALYZE page")
    reading = source()
    with reading._connected() as (_, types):
        page = reading._framed([reading._behind(types)], order=sql.Identifier("id"), limit=11)
    plan = application.execute(sql.SQL("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) ") + page, {"last": 12000})
    told = "\n".join(row[0] for row in plan)
    assert "Index Scan using page_pkey" in told
    assert "Sort" not in told
    assert max(float(rows) for rows in re.findall(r"actual rows=([\d.]+)", told)) <= 13


# Values that Postgres has and Python lacks


UNREADABLE = {
    "date": ["infinity", "-infinity", "0044-03-15 BC", "12026-11-29"],
    "timestamp": ["infinity", "-infinity", "0044-03-15 12:00 BC", "12026-11-29 12:00"],
    "timestamptz": ["infinity", "-infinity", "0044-03-15 12:00 BC", "12026-11-29 12:00"],
    "time": ["24:00"],
    "timetz": ["24:00+00"],
    "json": ["[" * 11_000 + "]" * 11_000],  # Python 3.13 reads 8,000, and Postgres writes 12,000
}
STRANGE = {
    "numeric": ["NaN", "Infinity", "9" * 5_000],
    "float8": ["NaN", "-Infinity"],
    "bytea": ["\\\\xff00"],
    "int4range": ["[1,3)"],
    "daterange": ["[2026-01-01,infinity)"],
    "date[]": ["{infinity}"],
    "interval": ["2 mons", "178000000 years"],
    "json": ['{"n": ' + "9" * 5_000 + "}", '{"t": "\\\\ud800"}', '{"n": 1e999}'],
    "tsvector": ["a b"],
    "inet": ["::1"],
    "point": ["(1,2)"],
}


def with_value(column: str, kind: str, value: str) -> str:
    """A query of 25 documents; in row 7 the column has the value, and in the other rows NULL."""
    columns = {"id": "id::text", "text": "body", column: f"CASE WHEN id = 7 THEN '{value}'::{kind} END"}
    return f"SELECT {', '.join(f'{what} AS {name}' for name, what in columns.items())}, id AS pk FROM page"


@pytest.mark.parametrize("column", ["id", "text", "title", "metadata", "version"])
def test_value_that_python_lacks_skips_its_row_alone(source: Any, column: str) -> None:
    """Such as the date `infinity`: psycopg cannot read it, and would end the run."""
    for kind, values in UNREADABLE.items():
        for value in values:
            found = list(source(with_value(column, kind, value), key="pk").documents())
            [skipped] = [item for item in found if isinstance(item, Skipped)]
            assert len(found) == 25
            assert skipped.path == "row with pk 7"
            assert skipped.id == (None if column == "id" else "7")
            assert skipped.reason.startswith(f"{column} is {'a value' if kind == 'json' else value[:5]}")
            assert "that Python cannot hold" in skipped.reason


def test_value_that_python_lacks_skips_its_row_alone_on_a_cursor(source: Any) -> None:
    query = "SELECT id, CASE WHEN id = 7 THEN date 'infinity' END AS text FROM page ORDER BY id"
    found = list(source(query, key="").documents())
    assert [item.path for item in found if isinstance(item, Skipped)] == ["row 7"]
    assert len(found) == 25


@pytest.mark.parametrize("column", ["id", "text", "title", "metadata", "version"])
def test_strange_value_is_taken_or_refused_alone(source: Any, column: str) -> None:
    for kind, values in STRANGE.items():
        for value in values:
            found = list(source(with_value(column, kind, value), key="pk").documents())
            assert len(found) == 25
            for document in found:
                with suppress(InvalidDocument):
                    Document.from_json(document, max_bytes=10_000)


@pytest.mark.parametrize(
    "key",
    [
        "CASE id WHEN 24 THEN 'infinity' WHEN 1 THEN '-infinity' ELSE date '2026-01-01' + id::integer END",
        "CASE id WHEN 24 THEN 'NaN' ELSE id::float8 END",
        "CASE id WHEN 24 THEN 'NaN' ELSE id::numeric END",
        "make_interval(months => id::integer, days => 40 - id::integer)",
        "CASE id WHEN 24 THEN time '24:00' ELSE time '01:00' + id * interval '1 minute' END",
        "lpad(id::text, 10, '0')::char(10)",
        "id::integer::bit(16)",
        "ARRAY[id]",
        "int8range(id, id + 1)",
        "decode(lpad(id::text, 4, '0'), 'hex')",
        "('::' || id::text)::inet",
    ],
)
def test_key_may_have_values_that_python_lacks(source: Any, key: str) -> None:
    query = f"SELECT id, body AS text, {key} AS pk FROM page"
    assert sorted(read(source(query, key="pk", page=3))) == list(range(1, 26))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("date", ["infinity", "12026-01-01"]),
        ("timestamp", ["infinity", "12026-01-01"]),
        ("timestamptz", ["infinity", "9999-12-31 23:59:59.999999+00"]),
    ],
)
def test_cursor_beyond_all_dates_counts_as_the_present(source: Any, kind: str, values: list[str]) -> None:
    for value in values:
        expression = f"CASE WHEN id = 7 THEN '{value}'::{kind} ELSE '2026-01-01'::{kind} END"
        query = f"SELECT id, body AS text, {expression} AS changed FROM page"
        _, cursor = read_on(source(query, cursor="changed"))
        assert cursor is not None
        assert cursor.startswith("202")
        assert read(source(query, cursor="changed"), cursor) == [7]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("kind", ["numeric", "float8"])
def test_cursor_does_not_move_to_infinity(source: Any, kind: str, value: str) -> None:
    expression = f"CASE WHEN id = 7 THEN '{value}'::{kind} ELSE id::{kind} END"
    query = f"SELECT id, body AS text, {expression} AS changed FROM page"
    _, cursor = read_on(source(query, cursor="changed", cursor_overlap=5))
    assert cursor is not None
    assert float(cursor) == 20


@pytest.mark.parametrize("value", ["-infinity", "0044-03-15 BC"])
def test_cursor_before_all_dates_is_passed_over(source: Any, value: str) -> None:
    expression = f"CASE WHEN id = 7 THEN '{value}'::date ELSE '2026-01-05' END"
    _, cursor = read_on(
        source(f"SELECT id, body AS text, {expression} AS changed FROM page", cursor="changed")
    )
    assert cursor == "2026-01-04"
