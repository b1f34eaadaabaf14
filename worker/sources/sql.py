"""Documents out of a SQL query, page by page.

Each page is a short read-only transaction of its own, which begins behind the last key of the page before: a reading
of hours holds no snapshot, which would keep the application's vacuum from its dead rows. Without a key it is one
transaction with a cursor on the server.
"""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any, ClassVar
from uuid import UUID

import psycopg
import stamina
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from worker.errors import SettingsError, SourceFailed

REQUIRED, OPTIONAL = ("id", "text"), ("title", "metadata", "version")
CONNECT_TIMEOUT_SECONDS = 5
ATTEMPTS = 4  # of a page, when the connection is lost
PAGE = sql.SQL("SELECT source.*{more} FROM (\n{query}\n) AS source {condition} {order} {limit}")
# whether a row has the key of the one before: as Postgres says, whose types and collations may call equal what Python
# does not
REPEATED = "is the key again"
REPEATS = sql.SQL(", lag({key}) OVER (ORDER BY {key}) = {key} AS {name}")
NOTHING = sql.SQL("")
TYPES = (
    "SELECT format_type(oid, -1) AS name FROM unnest(%s::oid[]) WITH ORDINALITY AS t (oid, at) ORDER BY at"
)

# SQLSTATEs, by their beginning, whose messages speak of the server or the query; those of others may quote rows
HARMLESS = ("08", "0A", "25", "28", "3D", "3F", "42", "53", "55", "57", "58")
LOST = ("08", "57P")

Row = dict[str, Any]


class SQLSource:
    """The rows of QUERY: columns id and text, and as wanted title, metadata (json or jsonb) and version.

    DSN: address of a Postgres; DATABASE_URL where it is absent. KEY: a column of the query that is unique, never NULL
    and never changed, and should have an index (default `id`); empty: a cursor on the server. PAGE: rows that are in
    memory at once. CURSOR: a number or time that rises with every change of a row. CURSOR_OVERLAP: how far behind the
    highest value an incremental reading begins, in seconds or in the number's own unit: rows may commit late.
    TIMEOUT_SECONDS: of each statement. Raises SettingsError for values that cannot be used.
    """

    defaults_from_settings: ClassVar[Mapping[str, str]] = {"dsn": "DATABASE_URL"}

    def __init__(
        self,
        *,
        dsn: str,
        query: str,
        key: str = "id",
        cursor: str = "",
        cursor_overlap: float = 600,
        page: int = 1000,
        timeout_seconds: float = 300,
    ) -> None:
        texts = {"DSN": dsn, "QUERY": query, "KEY": key, "CURSOR": cursor}
        for name, value in texts.items():
            if not isinstance(value, str):
                raise SettingsError(f"{name} of SQLSource is of type {type(value).__name__}: give text")
        numbers = {
            "CURSOR_OVERLAP": (cursor_overlap, 0),
            "PAGE": (page, 1),
            "TIMEOUT_SECONDS": (timeout_seconds, 0.001),
        }
        for name, (number, least) in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number < 1e9:
                raise SettingsError(f"{name} of SQLSource is {number!r}: give a number of at least {least}")
        if not query.strip(" \n\t;"):
            raise SettingsError("QUERY of SQLSource is empty: give a SELECT of the columns id and text")
        try:
            self._where = _where(dsn)
        except psycopg.ProgrammingError:
            # libpq's own words may quote the password
            raise SettingsError(
                "DSN of SQLSource cannot be read: write postgresql://user:password@host:5432/name, with #, /, ? and @ "
                "of a password as %23, %2F, %3F and %40"
            ) from None
        self._dsn, self._query = dsn, query.strip(" \n\t;")
        self._key, self._cursor, self._overlap = key, cursor, cursor_overlap
        self._page, self._timeout_seconds = int(page), timeout_seconds

    def fingerprint(self) -> str:
        """Digest of the database, the query and the CURSOR that a cursor belongs to; "" without a CURSOR."""
        told = f"{self._where}\x00{self._cursor}\x00{self._query}".encode()
        return blake2b(told, digest_size=16).hexdigest() if self._cursor else ""

    def documents(self) -> Iterator[dict[str, Any]]:
        """Yield all rows. Raises SourceFailed."""
        return self.documents_since(None)

    def documents_since(self, cursor: str | None) -> Generator[dict[str, Any], None, str | None]:
        """Yield the rows whose CURSOR is at least `cursor`, or NULL; all rows for None. Raises SourceFailed.

        Returns the highest value of CURSOR, less the overlap; None if no row has a value.
        """
        highest = None
        with self._connected() as (connection, types):
            conditions, values = [], {}
            if cursor is not None:
                # NULL does not tell whether the row changed
                condition = sql.SQL("({0} >= %(since)s OR {0} IS NULL)").format(_column(self._cursor))
                conditions.append(condition)
                values["since"] = cursor
            rows = (
                self._by_key(connection, types, conditions, values)
                if self._key
                else connection.stream(self._framed(conditions), values, self._page)
            )
            for row in rows:
                highest = self._highest(row, highest)
                yield _document(row)
        return self._less_overlap(highest)

    def check(self) -> str:
        """Where the query is answered, and its columns; no row is read. Raises SourceFailed."""
        with self._connected(attempts=1) as (_, types):
            return f"{self._where}, columns {', '.join(types)}"

    @contextmanager
    def _connected(self, attempts: int = ATTEMPTS) -> Iterator[tuple["_Connection", Mapping[str, sql.SQL]]]:
        """A connection, once the query is found to have the columns of documents, and to be read by its key; them."""
        connection = _Connection(self._dsn, self._where, self._timeout_seconds, attempts)
        try:
            types = connection.columns(self._framed(limit=0))
            self._check_columns(list(types))
            if self._key:
                self._check_order(connection, types)
            yield connection, types
        finally:
            connection.close()

    def _check_order(self, connection: "_Connection", types: Mapping[str, sql.SQL]) -> None:
        """That pages can be read by the key."""
        first = self._framed([self._behind(types)], order=_column(self._key), limit=0)
        try:
            connection.columns(first, {"last": None})
        except SourceFailed as error:
            if isinstance(error.__context__, pg.UndefinedFunction):
                raise SourceFailed(
                    f"KEY {self._key!r} is of type {types[self._key].as_string()}, which has no order: name a "
                    "column of another type"
                ) from None
            raise

    def _by_key(
        self,
        connection: "_Connection",
        types: Mapping[str, sql.SQL],
        conditions: Sequence[sql.Composable],
        values: Mapping[str, Any],
    ) -> Iterator[Row]:
        key, last = _column(self._key), dict[str, Any]()
        while True:
            behind = [self._behind(types)] if last else []
            statement = self._framed([*conditions, *behind], order=key, limit=self._page + 1)
            # with one row of the next page: a key that stands on both would be passed over
            rows = connection.rows(statement, {**values, **last})
            if any(row[REPEATED] for row in rows):
                raise SourceFailed(f"KEY {self._key!r} has a value twice: name a column that is unique")
            yield from rows[: self._page]
            if len(rows) <= self._page:
                break
            last = {"last": rows[self._page - 1][self._key]}
        without = self._framed([*conditions, sql.SQL("{} IS NULL").format(key)], limit=1)
        if connection.rows(without, values):
            raise SourceFailed(f"KEY {self._key!r} is NULL in some row: name a column that never is")

    def _behind(self, types: Mapping[str, sql.SQL]) -> sql.Composed:
        """The rows behind one; its key as what the column is, else both are compared in another way than ordered."""
        return sql.SQL("{} > %(last)s::{}").format(_column(self._key), types[self._key])

    def _framed(
        self,
        conditions: Sequence[sql.Composable] = (),
        order: sql.Composable | None = None,
        limit: int | None = None,
    ) -> sql.Composed:
        return PAGE.format(
            query=sql.SQL(self._query.replace("%", "%%")),
            condition=sql.SQL("WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else NOTHING,
            more=REPEATS.format(key=order, name=sql.Identifier(REPEATED)) if order else NOTHING,
            order=sql.SQL("ORDER BY ") + order if order else NOTHING,
            limit=NOTHING if limit is None else sql.SQL("LIMIT {}").format(limit),
        )

    def _check_columns(self, columns: Sequence[str]) -> None:
        """That the query yields what makes a document."""
        needed = [*REQUIRED, *filter(None, (self._key, self._cursor))]
        for name in needed:
            if name not in columns:
                raise SourceFailed(
                    f"QUERY has no column {name!r}, its columns are {', '.join(columns)}: name one so, as in "
                    f"SELECT body AS {name}"
                )
        for name in columns:
            if name not in (*needed, *OPTIONAL):
                raise SourceFailed(
                    f"QUERY has the column {name!r}, which no document has: leave it out, or put it into metadata "
                    f"with jsonb_build_object('{name}', {name}) AS metadata"
                )

    def _highest(self, row: Row, highest: Any) -> Any:
        """Return the higher of the row's CURSOR and the highest value so far."""
        value = row[self._cursor] if self._cursor else None
        if value is None:
            return highest
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal | date):
            raise SourceFailed(
                f"CURSOR {self._cursor!r} is of type {type(value).__name__}: name a column of numbers or times"
            )
        if isinstance(value, datetime) and value.tzinfo is not None:
            # within one zone Python counts as its clocks do, which are put back and on
            value = value.astimezone(UTC)
        return value if highest is None or value > highest else highest

    def _less_overlap(self, highest: Any) -> str | None:
        """Return where the next incremental run begins."""
        if highest is None:
            return None
        if isinstance(highest, datetime):
            return str(highest - timedelta(seconds=self._overlap))
        if isinstance(highest, date):
            return str(highest - timedelta(days=math.ceil(self._overlap / 86_400)))
        return str(highest - math.ceil(self._overlap))


class _Connection:
    """A connection that only reads, in transactions of their own, and is opened again when it is lost."""

    def __init__(self, dsn: str, where: str, timeout_seconds: float, attempts: int) -> None:
        self._dsn, self._where, self._timeout_seconds, self._most_attempts = (
            dsn,
            where,
            timeout_seconds,
            attempts,
        )
        self._open: psycopg.Connection[DictRow] | None = None

    def columns(self, statement: sql.Composed, values: Mapping[str, Any] | None = None) -> dict[str, sql.SQL]:
        """The columns of what it returns, each with its type as SQL has it."""
        with self._translated():
            for attempt in self._attempts():
                with attempt, self._transaction() as connection:
                    found = connection.execute(statement, values or {}).description or []
                    rows = connection.execute(TYPES, [[column.type_code for column in found]]).fetchall()
                    types = (sql.SQL(row["name"].replace("%", "%%")) for row in rows)
                    return dict(zip((column.name for column in found), types, strict=True))
        raise AssertionError("an attempt returns or raises")

    def rows(self, statement: sql.Composed, values: Mapping[str, Any]) -> list[Row]:
        with self._translated():
            for attempt in self._attempts():
                with attempt, self._transaction() as connection:
                    return connection.execute(statement, values).fetchall()
        raise AssertionError("an attempt returns or raises")

    def stream(self, statement: sql.Composed, values: Mapping[str, Any], page: int) -> Iterator[Row]:
        """The rows by a cursor on the server."""
        with self._translated(), self._transaction() as connection:
            # this side may be busy with what it has read for longer than the server likes
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
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
            self._open.read_only = True
        limit = sql.SQL("SET LOCAL statement_timeout = {}").format(math.ceil(1000 * self._timeout_seconds))
        with self._open.transaction():
            self._open.execute(limit)
            yield self._open

    def _attempts(self) -> Any:
        return stamina.retry_context(
            on=_is_lost, attempts=self._most_attempts, wait_initial=0.2, wait_max=2.0, timeout=20.0
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """One sentence that quotes neither a password nor a row."""
        try:
            yield
        except pg.QueryCanceled as error:
            raise SourceFailed(
                f"Postgres at {self._where} says: {error.diag.message_primary}: raise TIMEOUT_SECONDS "
                f"({self._timeout_seconds:g} s), or give KEY a column with an index"
            ) from None
        except psycopg.Error as error:
            if error.sqlstate is None:
                lines = [line for line in str(error).splitlines() if line.strip() and not line[0].isspace()]
                said = lines[-1] if lines else type(error).__name__
            else:
                said = type(error).__name__
                if error.sqlstate.startswith(HARMLESS):
                    said = error.diag.message_primary or said
            # a cause would stand in the traceback that is logged and kept with the result, in Postgres' own words
            raise SourceFailed(f"Postgres at {self._where} says: {said}") from None


def _column(name: str) -> sql.SQL:
    """A column, in a statement that has parameters."""
    return sql.SQL(sql.Identifier(name).as_string().replace("%", "%%"))


def _is_lost(error: Exception) -> bool:
    """The connection is, not the statement."""
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate.startswith(LOST)
    )


def _document(row: Row) -> dict[str, Any]:
    document = {name: row[name] for name in (*REQUIRED, *OPTIONAL) if row.get(name) is not None}
    for name in document.keys() & {"id", "version"}:
        value = document[name]
        if isinstance(value, Decimal) and value == value.to_integral_value():
            document[name] = int(value)
        elif isinstance(value, UUID):
            document[name] = str(value)
    return document


def _where(dsn: str) -> str:
    """Host, port and database. Raises psycopg.ProgrammingError."""
    info = psycopg.conninfo.conninfo_to_dict(dsn)
    return f"{info.get('host', 'localhost')}:{info.get('port', 5432)}/{info.get('dbname', '')}"
