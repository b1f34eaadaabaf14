"""Indexes as a whole: paused, resumed, dropped."""

from datetime import datetime

from worker.store.connection import Connection
from worker.store.statements import statement


def paused_at(connection: Connection, name: str) -> datetime | None:
    """Since when the index is paused; None when it is not, or not there yet."""
    row = connection.execute(statement("indexes.sql", "paused_at"), {"name": name}).fetchone()
    return None if row is None else row[0]
