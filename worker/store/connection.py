"""Connections to Postgres: pooled, in autocommit mode, with explicit transactions."""

import atexit
import os
import re
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import psycopg
import stamina
from pgvector.psycopg import register_vector
from psycopg import errors as pg
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from worker.errors import BuildDropped, ServiceUnreachable, SettingsError, VectorIndexError
from worker.sessions import DRIVER, TRANSACTION_TIMEOUT_SINCE
from worker.store import advice, tsvectors

P = ParamSpec("P")
T = TypeVar("T")

Connection = psycopg.Connection[TupleRow]

CONNECT_TIMEOUT_SECONDS = 5
PROGRAM = "vector-index-worker"  # as pg_stat_activity shows it
NEVER = 2**31  # uses of a statement before psycopg prepares it by itself; None: it cannot be prepared
PREPARED_STATEMENTS = 300  # of a connection: about 25 for each build
CHECKOUT_TIMEOUT_SECONDS = 30  # how long a caller waits for a connection from the pool

# What our SQL relies on, whatever the server, the database and the role set. READ COMMITTED is part of the protocol:
# publishing locks in one statement and checks in the next. synchronous_commit: an accepted document is on disk. No
# timeout but our own ends a statement: a migration and the vector index take minutes.
SESSION = (
    DRIVER
    + """
SET default_transaction_isolation = 'read committed';
SET default_transaction_deferrable = off;
SET synchronous_commit = on;
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_session_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET DateStyle = 'ISO, MDY';
SET TimeZone = 'UTC';
SET transform_null_equals = off;
SET quote_all_identifiers = off;
SET row_security = on;
SET gin_fuzzy_search_limit = 0;
SET jit = off;
SET plan_cache_mode = auto;
"""
)

# The schema of pgvector may be in no search path, as `extensions` on Supabase. Text search configurations of the
# setting LANGUAGE are in `public` or have a schema in their name.
SEARCH_PATH = """
SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', (
    SELECT pg_catalog.quote_ident(nspname)
    FROM pg_catalog.pg_extension JOIN pg_catalog.pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'
), 'public'), false)
"""

# Of connections in the pool: a worker that hangs in a transaction holds no lock for long. hnsw: a scan of the vector
# index goes on until enough rows pass the filter; docs/internals/decisions.md has the figures.
POOLED = """
SET idle_in_transaction_session_timeout = '10s';
SET hnsw.iterative_scan = relaxed_order;
SET hnsw.max_scan_tuples = 100000;
SET hnsw.scan_mem_multiplier = 4;
"""

# Prefixes of the SQLSTATEs of errors that a retry may solve: conflicts, resources, operator intervention, system
# errors, lock timeouts and idle transaction timeouts.
TEMPORARY = ("40", "53", "57", "58", "55P03", "25P03")

NO_REASON = re.compile(r"\s|\w+: {2}")  # such as DETAIL and HINT, in any language
BUILD_TABLE = re.compile(r"vector_index\.(chunks|embeddings|pending|served)_\d+")
# whether the server is a standby, and where it has its default from
READ_ONLY = """
SELECT pg_is_in_recovery(), source FROM pg_settings WHERE name = 'default_transaction_read_only'
"""

DROPPED = "the index, or a build of it, was dropped while it was being used: try again"

# Of transactions whose statements look up rows by key. A kept plan was perhaps made while the tables were empty, so it
# must scan none of them; and starting a process for a part of such a plan takes longer than all of the rest.
LOOKUPS = "SELECT set_config('enable_seqscan', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)"
NO_JOINS_OF_TABLES = (
    "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
)

_opening = threading.Lock()
_pools: dict[tuple[int, str], ConnectionPool[Connection]] = {}


def configure(connection: Connection) -> None:
    """Configure a connection of the pool. Raises an error without the extension."""
    prepare(connection)
    connection.execute(POOLED)
    register_vector(connection)
    tsvectors.register(connection)


def prepare(connection: Connection) -> None:
    """Make a session mean the same on every server; only `schema.install` needs no more than that."""
    connection.autocommit = True
    connection.prepare_threshold = None  # always plans for the actual values, but see `prepared`
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.execute(SESSION)
    if connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
        connection.execute("SET transaction_timeout = 0")
    set_search_path(connection)
    if connection.execute("SELECT pg_backend_pid()").fetchone() == (connection.info.backend_pid,):
        connection.prepare_threshold = NEVER
        connection.prepared_max = PREPARED_STATEMENTS


@contextmanager
def prepared(connection: Connection) -> Iterator[None]:
    """Prepare the statements of a transaction, which look up rows by key: planning was half of what they cost.

    The transaction must switch sequential scans off. A plan is made while the tables are empty, and outlives that.
    Behind a pooler, nothing is prepared: the next statement may meet another server process.
    """
    former = connection.prepare_threshold
    if former is not None:
        connection.prepare_threshold = 0
    try:
        yield
    finally:
        connection.prepare_threshold = former


@contextmanager
def lookups(connection: Connection) -> Iterator[None]:
    """Run a transaction whose statements look up rows by key: prepared, with plans that scan no table."""
    with connection.transaction(), prepared(connection):
        connection.execute(LOOKUPS)
        yield


@contextmanager
def walking(connection: Connection) -> Iterator[None]:
    """Run a transaction whose statements read a slice of a table, and look up rows of other tables by key.

    Otherwise plans read other tables as a whole for each slice: a walk then takes the square of their size.
    """
    with connection.transaction():
        connection.execute(LOOKUPS)
        connection.execute(NO_JOINS_OF_TABLES)
        yield


def set_search_path(connection: Connection) -> None:
    """Find the types and operators of pgvector, in whatever schema they are."""
    connection.execute(SEARCH_PATH)


def pool(url: str, *, max_size: int = 16) -> ConnectionPool[Connection]:
    """The connection pool of this process for a database; a forked child gets its own."""
    key = (os.getpid(), url)
    with _opening:  # other threads must wait, as a pool that is not open yet refuses them
        if key not in _pools:
            if not _pools:
                # Python 3.13 waits 5 s for each thread of a pool that is open when the interpreter ends
                atexit.register(close_pools)
            _pools[key] = ConnectionPool[Connection](
                url,
                min_size=0,
                max_size=max_size,
                timeout=CHECKOUT_TIMEOUT_SECONDS,
                # with a shorter one, callers would go on waiting after Postgres is back
                reconnect_timeout=CHECKOUT_TIMEOUT_SECONDS,
                kwargs={
                    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                    "application_name": PROGRAM,
                },
                configure=configure,
                check=_check,
                open=True,
            )
        return _pools[key]


def _check(connection: Connection) -> None:
    """Raise an error if the server has ended the connection.

    There is something to read from an idle connection only if it was ended, or for a notice. A statement at every
    checkout, as the pool's own check sends it, is a fifth of the statements of a job with one document.
    """
    socket = select.poll()
    socket.register(connection.fileno(), select.POLLIN)
    if socket.poll(0):
        ConnectionPool.check_connection(connection)


def close_pools() -> None:
    """Close the connection pools of this process."""
    for key in [key for key in _pools if key[0] == os.getpid()]:
        _pools.pop(key).close()


def retry_on_deadlock(function: Callable[P, T]) -> Callable[P, T]:
    """Retry a transaction after a deadlock or a serialization failure, up to six attempts in 30 s.

    Locks are taken in one order everywhere, so this should be rare. It uses stamina's context instead of its
    decorator, which would pass the arguments, with documents in them, to the hooks that log retries.
    """

    @wraps(function)
    def retrying(*args: P.args, **kwargs: P.kwargs) -> T:
        for attempt in stamina.retry_context(
            on=(pg.DeadlockDetected, pg.SerializationFailure),
            attempts=6,
            wait_initial=0.02,
            wait_max=1.0,
            timeout=30,
        ):
            with attempt:
                return function(*args, **kwargs)
        raise AssertionError("stamina tries at least once")

    return retrying


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """Open a connection outside the pool, without its limits: for set-up and for single reads.

    Raises ServiceUnreachable or SettingsError with the message of the server, for every error of Postgres.
    """
    with (
        _translate_rest(url),
        translate_errors(url),
        psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS) as connection,
    ):
        prepare(connection)
        yield connection


@contextmanager
def session(url: str) -> Iterator[Connection]:
    """Open a connection like those of the pool, for temporary tables: they go with it. Raises ServiceUnreachable."""
    with (
        translate_errors(url),
        psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_SECONDS, application_name=PROGRAM) as connection,
    ):
        configure(connection)
        yield connection


@contextmanager
def checkout(url: str) -> Iterator[Connection]:
    """Take a configured connection from the pool. Raises ServiceUnreachable."""
    with translate_errors(url), pool(url).connection() as connection:
        yield connection


@contextmanager
def translate_errors(url: str) -> Iterator[None]:
    """Translate errors of Postgres into ours, in one sentence; other errors pass.

    Lost and refused connections and errors that a retry may solve: ServiceUnreachable. A refused login or an unknown
    database: SettingsError. A missing table of a build: BuildDropped.
    """
    try:
        yield
    except PoolTimeout as error:
        reason = _reason(_connection_error(url) or error)
        to_do, _ = advice.of_connection(reason)
        raise ServiceUnreachable(f"Postgres at {where(url)} is unreachable: {reason}; {to_do}") from error
    except pg.ReadOnlySqlTransaction as error:
        raise _read_only(url, _reason(error)) from error
    except pg.UndefinedTable as error:
        if not BUILD_TABLE.search(error.diag.message_primary or ""):
            raise
        raise BuildDropped(DROPPED) from error
    except psycopg.Error as error:
        if error.sqlstate is not None and error.sqlstate.startswith(TEMPORARY):
            message = (
                error.diag.message_primary or type(error).__name__
            )  # the detail may quote values of a row
            raise ServiceUnreachable(
                f"Postgres at {where(url)} cannot do this now: {message}; {advice.of_statement(message)}"
            ) from error
        if error.sqlstate is not None or not isinstance(error, psycopg.OperationalError):
            raise
        message = _reason(error)
        to_do, misconfigured = advice.of_connection(message)
        if misconfigured:
            raise SettingsError(
                f"Postgres at {where(url)} refused the connection: {message}; check DATABASE_URL: {to_do}"
            ) from error
        raise ServiceUnreachable(f"Postgres at {where(url)} is unreachable: {message}; {to_do}") from error


def check_writable(connection: Connection, url: str) -> None:
    """Raise ServiceUnreachable if the sessions of this role may not write."""
    if connection.execute("SHOW transaction_read_only").fetchone() == ("on",):
        raise _read_only(url, "its sessions may not write", connection)


def _read_only(url: str, said: str, connection: Connection | None = None) -> ServiceUnreachable:
    """The error about a server, a database or a role that allows no writing."""
    try:
        with nullcontext(connection) if connection else connect(url) as asked:
            row = asked.execute(READ_ONLY).fetchone()
    except VectorIndexError:
        row = None
    to_do = advice.of_read_only(standby=row[0], source=row[1]) if row else "wait until it allows writing"
    return ServiceUnreachable(f"Postgres at {where(url)} is read-only: {said}; {to_do}")


def _connection_error(url: str) -> psycopg.Error | None:
    """Open a connection as the pool does, which keeps its errors to itself. None: it could be opened."""
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_SECONDS) as connection:
            configure(connection)
    except psycopg.Error as error:
        return error
    return None


@contextmanager
def _translate_rest(url: str) -> Iterator[None]:
    """Translate what `translate_errors` lets pass. Only for work that touches no document, whose text errors quote."""
    try:
        yield
    except psycopg.Error as error:
        said = error.diag.message_primary or _reason(error)
        raise SettingsError(
            f"Postgres at {where(url)} returned an error ({type(error).__name__}): {said}; correct the database, its "
            "role or DATABASE_URL"
        ) from error


def where(url: str) -> str:
    """Host, port and database of a URL, without user and password."""
    info = psycopg.conninfo.conninfo_to_dict(url)
    return f"{info.get('host', 'localhost')}:{info.get('port', 5432)}/{info.get('dbname', '')}"


def _reason(error: Exception) -> str:
    """The line with the reason, the last one of its kind.

    libpq lists the addresses that it tried above it, and a detail, a hint or an indented line follow it.
    """
    lines = [line for line in str(error).splitlines() if line.strip() and not NO_REASON.match(line)]
    return lines[-1] if lines else type(error).__name__
