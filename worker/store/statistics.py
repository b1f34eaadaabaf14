"""What the planner of Postgres knows about the tables of a build.

Without it, right after a load, Postgres reads every document for each row of a search, until autovacuum comes by.
"""

from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.statements import SCHEMA

FEW_ROWS = 1_000  # of which all may change before a table is analyzed again


def analyze(connection: Connection, build: Build) -> None:
    """Analyze the tables that searches read."""
    connection.execute(build.sql("statistics.sql", "analyze"))


def analyze_if_stale(connection: Connection, build: Build) -> bool:
    """Analyze them if a table never was, or if more of its rows have changed since than it had; whether it did so."""
    names = [f"{SCHEMA}.{table}_{build.build}" for table in ("served", "chunks", "embeddings")]
    parameters = {"tables": names, "few": FEW_ROWS}
    [(is_stale,)] = connection.execute(build.sql("statistics.sql", "is_stale"), parameters)
    if is_stale:
        connection.execute(build.sql("statistics.sql", "analyze_unlocked"))
    return bool(is_stale)
