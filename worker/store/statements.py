"""SQL files of named statements, loaded once.

A statement begins with a line `-- name: NAME: DESCRIPTION`. Names in braces stand for the tables of a build.
"""

from functools import cache
from importlib import resources

from psycopg import sql

SCHEMA = "vector_index"
BUILD_TABLES = ("chunks", "embeddings", "pending", "served")


@cache
def statements(file: str) -> dict[str, str]:
    """The statements of a file in worker/store/sql, by name."""
    found: dict[str, str] = {}
    name = ""
    for line in read(file).splitlines():
        if line.startswith("-- name: "):
            name = line.removeprefix("-- name: ").split(":")[0].strip()
            found[name] = ""
        elif name and not line.startswith("--"):
            found[name] += line + "\n"
    return found


@cache
def statement(file: str, name: str, build: int | None = None) -> sql.Composed:
    """A statement, with the tables of `build` for {chunks}, {embeddings}, {pending} and {served}."""
    return sql.SQL(statements(file)[name]).format(**({} if build is None else tables(build)))


def tables(build: int) -> dict[str, sql.Identifier]:
    """The names of the tables of a build. Those of a sample, whose number is below 0, are temporary."""
    if build < 0:
        return {table: sql.Identifier("pg_temp", f"{table}_{-build}") for table in BUILD_TABLES}
    return {table: sql.Identifier(SCHEMA, f"{table}_{build}") for table in BUILD_TABLES}


def read(file: str) -> str:
    """The text of a file in worker/store/sql."""
    return resources.files("worker.store").joinpath("sql", *file.split("/")).read_text(encoding="utf-8")
