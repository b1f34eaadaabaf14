"""The page of SQL functions says what the database says."""

import psycopg

from docs.generate import sql_functions
from tests.fixtures.application import Application

CATALOG = """
SELECT proname, pg_get_function_identity_arguments(oid), obj_description(oid, 'pg_proc')
FROM pg_proc WHERE pronamespace = 'vector_index'::regnamespace
"""


def test_the_page_has_every_function_with_its_arguments_and_comment(application: Application) -> None:
    with psycopg.connect(application.url) as conn:
        installed = {(name, types, comment) for name, types, comment in conn.execute(CATALOG)}
    read = {
        (
            function.name,
            ", ".join(f"{name} {kind}" for name, kind, _ in function.arguments),
            function.comment,
        )
        for function in sql_functions.functions()
    }
    assert read == installed, (
        "docs/generate/sql_functions.py misreads a migration, or a function has no comment"
    )
