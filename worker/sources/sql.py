"""Reads documents from a SQL query, page by page.

Each page is a short read-only transaction that starts behind the last key of the page before. So the application's
vacuum can remove dead rows during a run of hours. With an empty KEY, the whole query is one transaction with a
server-side cursor.
"""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Annotated, Any, ClassVar

import psycopg
from psycopg import errors as pg
from psycopg import sql

from worker.documents import document_label
from worker.errors import SettingsError, SourceFailed
from worker.protocols import Skipped
from worker.reference import Setting
from worker.sessions import libpq_address
from worker.sources.postgres import ATTEMPTS, ReadOnlyConnection, Row, Unreadable, place

__all__ = ["SQLSource"]

REQUIRED, OPTIONAL = ("id", "text"), ("title", "metadata", "version")
PAGE = sql.SQL("SELECT source.*{more} FROM (\n{query}\n) AS source {condition} {order} {limit}")
# whether a row has the key of the row before. Postgres compares: by its types and collations, keys may be equal that
# differ in Python
REPEATED = "is the key again"
REPEATS = sql.SQL(", lag({key}) OVER (ORDER BY {key}) = {key} AS {name}, {key}::text AS {position}")
POSITION = "the key as text"  # which the next page begins behind; Python may lack its value
# what stands for a CURSOR that is later than all dates of Python, by the type of its column
LATEST = {
    "date": date.max,
    "timestamp without time zone": datetime.max,
    "timestamp with time zone": datetime.max.replace(tzinfo=UTC),
}
NOTHING = sql.SQL("")
NOW = sql.Composed(
    [sql.SQL("SELECT now() AS zoned, localtimestamp AS local, now() AT TIME ZONE 'UTC' AS utc")]
)


class SQLSource:
    """The rows of a query, each a document. Raises SettingsError for a CONFIG that cannot be used."""

    defaults_from_settings: ClassVar[Mapping[str, str]] = {"dsn": "DATABASE_URL"}

    def __init__(
        self,
        *,
        dsn: Annotated[
            str,
            Setting(
                type="`postgresql://` address, or libpq's `key=value` pairs",
                meaning="The Postgres that holds the rows. A role that may only read them is enough.",
                example='"postgresql://reader:password@db:5432/site"',
            ),
        ],
        query: Annotated[
            str,
            Setting(
                type="a `SELECT`",
                meaning="Returns the documents: columns `id` (number, text or uuid) and `text`, optionally `title`, "
                "`metadata` (json or jsonb) and `version` (integer). Any other column is an error.",
                example='"SELECT id, body AS text, title FROM page WHERE public"',
            ),
        ],
        key: Annotated[
            str,
            Setting(
                type="column of the query",
                meaning="Pages are read in the order of this column. It must be unique, never NULL and never change; "
                "give it an index. Empty: one transaction with a server-side cursor reads all rows.",
                example='"page_id"',
            ),
        ] = "id",
        cursor: Annotated[
            str,
            Setting(
                type="column of the query: number, date or time",
                meaning="Its value rises with every change of a row. A run then reads only rows from the highest value "
                "of the last run on, and rows where it is NULL; it deletes nothing. Empty: every run reads all rows.",
                example='"updated_at"',
            ),
        ] = "",
        cursor_overlap: Annotated[
            float,
            Setting(
                unit="seconds, or the number's own unit",
                type="number, at least 0",
                meaning="How far below the highest value the next run starts, because transactions may commit late. "
                "For dates it is rounded up to days.",
                example="3600",
            ),
        ] = 600,
        page: Annotated[
            int,
            Setting(
                unit="rows",
                type="number, at least 1",
                meaning="How many rows are in memory at once.",
                example="200",
            ),
        ] = 1000,
        timeout_seconds: Annotated[
            float,
            Setting(
                unit="seconds",
                type="number above 0",
                meaning="The time limit of each statement.",
                example="60",
            ),
        ] = 300,
    ) -> None:
        texts = {"DSN": dsn, "QUERY": query, "KEY": key, "CURSOR": cursor}
        for name, value in texts.items():
            if not isinstance(value, str):
                raise SettingsError(f"{name} of SQLSource is of type {type(value).__name__}; set it to text")
        numbers = {
            "CURSOR_OVERLAP": (cursor_overlap, 0),
            "PAGE": (page, 1),
            "TIMEOUT_SECONDS": (timeout_seconds, 0.001),
        }
        for name, (number, least) in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number < 1e9:
                raise SettingsError(
                    f"{name} of SQLSource is {number!r}; set it to a number of at least {least}"
                )
        if not query.strip(" \n\t;"):
            raise SettingsError("QUERY of SQLSource is empty; set it to a SELECT of the columns id and text")
        dsn, _ = libpq_address("DSN of SQLSource", dsn)
        try:
            self._where = place(dsn)
        except psycopg.ProgrammingError:
            # libpq's message may quote the password
            raise SettingsError(
                "DSN of SQLSource cannot be parsed; write it as postgresql://user:password@host:5432/name, with "
                "#, /, ? and @ of a password as %23, %2F, %3F and %40"
            ) from None
        self._dsn, self._query = dsn, query.strip(" \n\t;")
        self._key, self._cursor, self._overlap = key, cursor, cursor_overlap
        self._page, self._timeout_seconds = int(page), timeout_seconds

    def fingerprint(self) -> str:
        """Digest of the database, the query and the CURSOR that a cursor belongs to; "" without a CURSOR."""
        told = f"{self._where}\x00{self._cursor}\x00{self._query}".encode()
        return blake2b(told, digest_size=16).hexdigest() if self._cursor else ""

    def documents(self) -> Iterator[dict[str, Any] | Skipped]:
        """Yield all rows; Skipped for a row with a value that Python lacks. Raises SourceFailed."""
        return self.documents_since(None)

    def documents_since(self, cursor: str | None) -> Generator[dict[str, Any] | Skipped, None, str | None]:
        """Yield the rows whose CURSOR is at least `cursor`, or NULL; all rows for `None`. Raises SourceFailed.

        Returns the highest value of CURSOR, less the overlap; `None` if no row has a value. A date or time in the
        future counts as the present: it would hide all changes until then.
        """
        highest = None
        with self._connected() as (connection, types):
            now = connection.rows(NOW, {})[0]
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
            for number, row in enumerate(rows, start=1):
                highest = self._highest(row, highest, types)
                yield self._document(row, number)
        return self._less_overlap(_not_after(now, highest))

    def check(self) -> str:
        """Return where the query runs, and its columns; reads no row. Raises SourceFailed."""
        with self._connected(attempts=1) as (_, types):
            return f"{self._where}, columns {', '.join(types)}"

    @contextmanager
    def _connected(
        self, attempts: int = ATTEMPTS
    ) -> Iterator[tuple["ReadOnlyConnection", Mapping[str, sql.SQL]]]:
        """Connect, check the columns of the query and its KEY, and yield the connection with the columns' types."""
        connection = ReadOnlyConnection(self._dsn, self._where, self._timeout_seconds, attempts)
        try:
            types = connection.columns(self._framed(limit=0))
            self._check_columns(list(types))
            if self._key:
                self._check_order(connection, types)
            yield connection, types
        finally:
            connection.close()

    def _check_order(self, connection: "ReadOnlyConnection", types: Mapping[str, sql.SQL]) -> None:
        """Check that Postgres can order rows by the KEY."""
        first = self._framed([self._behind(types)], order=_column(self._key), limit=0)
        try:
            connection.columns(first, {"last": None})
        except SourceFailed as error:
            if isinstance(error.__context__, pg.UndefinedFunction):
                raise SourceFailed(
                    f"KEY {self._key!r} is of type {types[self._key].as_string()}, which has no order; name a "
                    "column of another type"
                ) from None
            raise

    def _by_key(
        self,
        connection: "ReadOnlyConnection",
        types: Mapping[str, sql.SQL],
        conditions: Sequence[sql.Composable],
        values: Mapping[str, Any],
    ) -> Iterator[Row]:
        key, last = _column(self._key), dict[str, Any]()
        while True:
            behind = [self._behind(types)] if last else []
            statement = self._framed([*conditions, *behind], order=key, limit=self._page + 1)
            # one row of the next page comes along: a key that is on both pages would be skipped
            rows = connection.rows(statement, {**values, **last})
            if any(row[REPEATED] for row in rows):
                raise SourceFailed(f"KEY {self._key!r} has a value twice; name a column that is unique")
            yield from rows[: self._page]
            if len(rows) <= self._page:
                break
            last = {"last": rows[self._page - 1][POSITION]}
        without = self._framed([*conditions, sql.SQL("{} IS NULL").format(key)], limit=1)
        if connection.rows(without, values):
            raise SourceFailed(f"KEY {self._key!r} is NULL in some row; name a column that is never NULL")

    def _behind(self, types: Mapping[str, sql.SQL]) -> sql.Composed:
        """Return the condition for rows behind a key, cast to the column's type: else it compares unlike ORDER BY."""
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
            more=REPEATS.format(key=order, name=sql.Identifier(REPEATED), position=sql.Identifier(POSITION))
            if order
            else NOTHING,
            order=sql.SQL("ORDER BY ") + order if order else NOTHING,
            limit=NOTHING if limit is None else sql.SQL("LIMIT {}").format(limit),
        )

    def _check_columns(self, columns: Sequence[str]) -> None:
        """Check that the query has exactly the columns of a document."""
        needed = [*REQUIRED, *filter(None, (self._key, self._cursor))]
        for name in needed:
            if name not in columns:
                raise SourceFailed(
                    f"QUERY has no column {name!r}, only {', '.join(columns)}; rename one, as in SELECT body AS {name}"
                )
        for name in columns:
            if name not in (*needed, *OPTIONAL):
                raise SourceFailed(
                    f"QUERY has the column {name!r}, which documents do not have; remove it, or put it into metadata "
                    f"with jsonb_build_object('{name}', {name}) AS metadata"
                )

    def _document(self, row: Row, number: int) -> dict[str, Any] | Skipped:
        document = {name: row[name] for name in (*REQUIRED, *OPTIONAL) if row.get(name) is not None}
        for name, value in document.items():
            if isinstance(value, Unreadable):
                place = f"row with {self._key} {row[POSITION]!s:.100}" if self._key else f"row {number:,}"
                reason = f"{name} is {value!r}; correct the row, or give another value in QUERY"
                return Skipped(path=place, reason=reason, id=document_label(document))
        return document

    def _highest(self, row: Row, highest: Any, types: Mapping[str, sql.SQL]) -> Any:
        """Return the higher of the row's CURSOR and the highest value so far."""
        value = row[self._cursor] if self._cursor else None
        if isinstance(value, Unreadable):
            # before all dates of Python, or after them: then it counts as the present
            is_early = value.text.startswith("-") or value.text.endswith("BC")
            value = None if is_early else LATEST.get(types[self._cursor].as_string(), value)
        if value is None or (isinstance(value, float | Decimal) and not math.isfinite(value)):
            return highest  # neither NaN nor infinity is a place to go on from
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal | date):
            raise SourceFailed(
                f"CURSOR {self._cursor!r} is of type {type(value).__name__}; name a column of numbers or times"
            )
        if isinstance(value, datetime) and value.tzinfo is not None:
            # Python subtracts within one zone by its wall clock, which daylight saving shifts
            value = _in_utc(value)
        return value if highest is None or value > highest else highest

    def _less_overlap(self, highest: Any) -> str | None:
        """Return where the next incremental run begins."""
        if highest is None:
            return None
        try:
            if isinstance(highest, datetime):
                return str(highest - timedelta(seconds=self._overlap))
            if isinstance(highest, date):
                return str(highest - timedelta(days=math.ceil(self._overlap / 86_400)))
        except OverflowError:  # Python's dates begin with the year 1
            return str(highest)
        return str(highest - math.ceil(self._overlap))


def _not_after(now: Row, highest: Any) -> Any:
    """Return the highest value of CURSOR, or the time at which the reading began if that is earlier.

    A time without a zone may be that of the server or UTC: the earlier one counts.
    """
    if isinstance(highest, datetime):
        return min(highest, now["zoned"] if highest.tzinfo else min(now["local"], now["utc"]))
    if isinstance(highest, date):
        return min(highest, now["local"].date(), now["utc"].date())
    return highest


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:  # within a day of the first or the last time of Python
        return time.replace(tzinfo=UTC)


def _column(name: str) -> sql.SQL:
    """Quote a column for a statement with parameters."""
    return sql.SQL(sql.Identifier(name).as_string().replace("%", "%%"))
