"""A read-only connection to the application's Postgres, which survives the loss of a connection."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import stamina
from psycopg import abc, sql
from psycopg import errors as pg
from psycopg.adapt import Loader
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads

from worker.documents import read_json
from worker.errors import SourceFailed
from worker.sessions import DRIVER, TRANSACTION_TIMEOUT_SINCE

CONNECT_TIMEOUT_SECONDS = 5
ATTEMPTS = 4  # of a page, when the connection is lost
TYPES = (
    "SELECT format_type(oid, -1) AS name FROM unnest(%s::oid[]) WITH ORDINALITY AS t (oid, at) ORDER BY at"
)
# without a length, a cast to these types cuts to one character or bit
WHOLE = {"character": "bpchar", "bit": "varbit"}
# first characters of SQLSTATEs whose messages are about the server or the query; other messages may quote rows
HARMLESS = ("08", "0A", "25", "28", "3D", "3F", "42", "53", "55", "57", "58")
SHORT_VALUE = re.compile(r"[\w+:. -]{1,40}", re.ASCII)
LOST = ("08", "57P")

Row = dict[str, Any]


@dataclass(frozen=True)
class Unreadable:
    """Stands for a value of a database that Python has no value for, such as the date `infinity`."""

    text: str  # as the database writes it

    def __repr__(self) -> str:
        # a number or a time; other values may quote a document
        shown = self.text if SHORT_VALUE.fullmatch(self.text) else "a value"
        return f"{shown} that Python cannot hold"


class ReadOnlyConnection:
    """A read-only connection; each statement is a transaction, retried on a new connection when one is lost."""

    def __init__(self, dsn: str, where: str, timeout_seconds: float, attempts: int) -> None:
        self._dsn, self._where, self._timeout_seconds, self._most_attempts = (
            dsn,
            where,
            timeout_seconds,
            attempts,
        )
        self._open: psycopg.Connection[DictRow] | None = None

    def columns(self, statement: sql.Composed, values: Mapping[str, Any] | None = None) -> dict[str, sql.SQL]:
        """Return the columns of the result, each with its SQL type."""
        with self._translated():
            for attempt in self._attempts():
                with attempt, self._transaction() as connection:
                    found = connection.execute(statement, values or {}).description or []
                    rows = connection.execute(TYPES, [[column.type_code for column in found]]).fetchall()
                    names = (WHOLE.get(row["name"], row["name"]) for row in rows)
                    types = (sql.SQL(name.replace("%", "%%")) for name in names)
                    return dict(zip((column.name for column in found), types, strict=True))
        raise AssertionError("an attempt returns or raises")

    def rows(self, statement: sql.Composed, values: Mapping[str, Any]) -> list[Row]:
        with self._translated():
            for attempt in self._attempts():
                with attempt, self._transaction() as connection:
                    return connection.execute(statement, values).fetchall()
        raise AssertionError("an attempt returns or raises")

    def stream(self, statement: sql.Composed, values: Mapping[str, Any], page: int) -> Iterator[Row]:
        """Yield the rows through a server-side cursor."""
        with self._translated(), self._transaction() as connection:
            # indexing a page may take longer than the server's limit for idle transactions
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            if connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
                connection.execute("SET LOCAL transaction_timeout = 0")
            with connection.cursor("vector_index_source") as cursor:
                cursor.itersize = page
                yield from cursor.execute(statement, values)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[DictRow]]:
        if self._open is None or self._open.closed:
            self._open = psycopg.connect(
                self._dsn,
                autocommit=True,
                row_factory=dict_row,
                prepare_threshold=None,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                application_name="vector-index-source",
            )
            self._open.execute(DRIVER)
            self._open.read_only = True
            set_json_loads(read_json, self._open)
            _tell_unreadable_values(self._open)
        limit = sql.SQL("SET LOCAL statement_timeout = {}").format(math.ceil(1000 * self._timeout_seconds))
        with self._open.transaction():
            self._open.execute(limit)
            yield self._open

    def _attempts(self) -> Any:
        return stamina.retry_context(
            on=is_lost, attempts=self._most_attempts, wait_initial=0.2, wait_max=2.0, timeout=20.0
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn errors of Postgres into one sentence, without passwords and rows."""
        try:
            yield
        except pg.QueryCanceled as error:
            raise SourceFailed(
                f"Postgres at {self._where} says: {error.diag.message_primary}; raise TIMEOUT_SECONDS "
                f"({self._timeout_seconds:g} s), or set KEY to a column with an index"
            ) from None
        except psycopg.Error as error:
            if error.sqlstate is None:
                lines = [line for line in str(error).splitlines() if line.strip() and not line[0].isspace()]
                said = lines[-1] if lines else type(error).__name__
            else:
                said = type(error).__name__
                if error.sqlstate.startswith(HARMLESS):
                    said = error.diag.message_primary or said
            # no cause: its traceback, with Postgres' own message, would be logged and kept with the result
            raise SourceFailed(f"Postgres at {self._where} says: {said}") from None


def _tell_unreadable_values(connection: psycopg.Connection[DictRow]) -> None:
    """Let every type give an Unreadable for a value that Python lacks; psycopg would end the whole query."""
    adapters = connection.adapters
    for oid in {0, *(info.oid for info in adapters.types), *(info.array_oid for info in adapters.types)}:
        if loader := adapters.get_loader(oid, psycopg.pq.Format.TEXT):
            adapters.register_loader(oid, _lenient(loader))


def _lenient(loader: type[abc.Loader]) -> type[Loader]:
    class Lenient(Loader):
        def __init__(self, oid: int, context: abc.AdaptContext | None = None) -> None:
            super().__init__(oid, context)
            self._inner = loader(oid, context)

        def load(self, data: abc.Buffer) -> Any:
            try:
                return self._inner.load(data)
            except (psycopg.Error, ValueError, ArithmeticError, RecursionError):
                return Unreadable(bytes(data).decode(errors="backslashreplace"))

    return Lenient


def is_lost(error: Exception) -> bool:
    """Return whether the connection was lost, rather than the statement refused."""
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate.startswith(LOST)
    )


def place(dsn: str) -> str:
    """Return host, port and database for messages. Raises psycopg.ProgrammingError."""
    info = psycopg.conninfo.conninfo_to_dict(dsn)
    return f"{info.get('host', 'localhost')}:{info.get('port', 5432)}/{info.get('dbname', '')}"
