"""The trigger recipe of the documentation, tested with the file that it shows."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.application import Application
from tests.fixtures.outbox import Database

RECIPE = (Path(__file__).parents[2] / "examples/triggers.sql").read_text()
PAGES = """
CREATE TABLE pages (id bigint PRIMARY KEY, title text, body text, author text, views integer DEFAULT 0);
INSERT INTO pages VALUES (2, 'Two', 'The second.', 'Ann'), (3, NULL, NULL, NULL);
"""


@pytest.fixture
def pages(application: Application) -> Iterator[Database]:
    """A table with two rows that the index has too."""
    with psycopg.connect(application.url, autocommit=True) as conn:
        conn.execute(PAGES)
        conn.execute(RECIPE.encode())
        database = Database(application, conn)
        database.consume()
        yield database


def rows(pages: Database) -> dict[str, str]:
    return dict(pages.conn.execute("SELECT id::text, coalesce(body, '') FROM pages").fetchall())


def test_existing_rows_are_indexed(pages: Database) -> None:
    assert pages.texts() == {"2": "The second.", "3": ""}
    assert pages.application.search("second", filter={"author": "Ann"}) == ["2"]


@pytest.mark.parametrize(
    ("statement", "changed"),
    [
        ("INSERT INTO pages VALUES (5, 'Five', 'The fifth.', 'Bob'), (6, NULL, NULL, NULL)", {5, 6}),
        ("UPDATE pages SET body = 'Changed.' WHERE id = 2", {2}),
        ("UPDATE pages SET author = NULL", {2}),
        ("UPDATE pages SET body = NULL WHERE id = 3", set()),
        ("UPDATE pages SET views = views + 1, title = title", set()),
        ("UPDATE pages SET id = 9 WHERE id = 2", {2, 9}),
        ("UPDATE pages SET id = id - 1", {1, 2, 3}),
        ("DELETE FROM pages WHERE id = 2", {2}),
        ("DELETE FROM pages WHERE id = 99", set()),
        ("TRUNCATE pages", {2, 3}),
        ("BEGIN; TRUNCATE pages; ROLLBACK", set()),
        ("BEGIN; DELETE FROM pages; INSERT INTO pages VALUES (3, '', 'Back again.'); COMMIT", {2, 3}),
        (
            "INSERT INTO pages VALUES (2, '', 'Put over.'), (5, '', 'New.') "
            "ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            {2, 5},
        ),
        (
            "WITH gone AS (DELETE FROM pages WHERE id = 2 RETURNING id) "
            "UPDATE pages SET body = 'Other.' FROM gone WHERE pages.id = 3",
            {2, 3},
        ),
        (
            "CREATE FUNCTION sign() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN new.body := 'Viewed ' || new.views || ' times.'; RETURN new; END $$; "
            "CREATE TRIGGER sign BEFORE UPDATE ON pages FOR EACH ROW EXECUTE FUNCTION sign(); "
            "UPDATE pages SET views = 7 WHERE id = 3",
            {3},
        ),
    ],
)
def test_a_statement_enqueues_exactly_the_rows_that_it_changes(
    pages: Database, statement: str, changed: set[int]
) -> None:
    pages.conn.execute(statement.encode())
    enqueued = pages.conn.execute("SELECT DISTINCT id FROM vector_index.outbox").fetchall()
    assert {int(id) for (id,) in enqueued} == changed
    pages.consume()
    assert pages.texts() == rows(pages)


def test_copy_enqueues_its_rows(pages: Database) -> None:
    with pages.conn.cursor().copy("COPY pages (id, body) FROM STDIN") as copy:
        for id in range(100, 350):
            copy.write_row((id, f"Number {id}."))
    pages.consume()
    assert len(pages.texts()) == 252
    assert pages.texts() == rows(pages)


def test_enqueueing_existing_rows_waits_for_open_transactions(pages: Database) -> None:
    """The last statement of the recipe waits for an open transaction and reads its changes."""
    last = RECIPE[RECIPE.index("SELECT count(vector_index") :]
    with psycopg.connect(pages.application.url) as other:
        other.execute("UPDATE pages SET body = 'Newer.' WHERE id = 2")
        pages.conn.execute("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            pages.conn.execute(last.encode())
    pages.conn.execute("RESET lock_timeout")
    pages.conn.execute(last.encode())
    pages.consume()
    assert pages.texts() == rows(pages) == {"2": "Newer.", "3": ""}
