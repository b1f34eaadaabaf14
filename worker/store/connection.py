"""Connections to Postgres: pooled, in autocommit mode, with explicit transactions."""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import psycopg
import stamina
from pgvector.psycopg import register_vector
from psycopg import errors as pg
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from worker.errors import BuildDropped, ServiceUnreachable, SettingsError

P = ParamSpec("P")
T = TypeVar("T")

Connection = psycopg.Connection[TupleRow]

CONNECT_TIMEOUT_SECONDS = 5
CHECKOUT_TIMEOUT_SECONDS = 30  # how long a caller waits for a connection from the pool

# READ COMMITTED is part of the protocol, whatever the default of the database: publishing locks in one statement and
# checks in the next. synchronous_commit: an accepted document is on disk. hnsw: a scan of the vector index goes on
# until enough rows pass the filter; docs/internals/decisions.md has the figures.
SESSION = """
SET default_transaction_isolation = 'read committed';
SET synchronous_commit = on;
SET idle_in_transaction_session_timeout = '10s';
SET jit = off;
SET hnsw.iterative_scan = relaxed_order;
SET hnsw.ef_search = 100;
SET hnsw.max_scan_tuples = 100000;
SET hnsw.scan_mem_multiplier = 4;
"""

# Prefixes of the SQLSTATEs of errors that a retry may solve: conflicts, resources, operator intervention, system
# errors, lock timeouts and idle transaction timeouts.
TEMPORARY = ("40", "53", "57", "58", "55P03", "25P03")

BUILD_TABLE = re.compile(r"vector_index\.(chunks|embeddings|pending|served)_\d+")
MISCONFIGURED = re.compile(r"authentication failed|no password supplied|does not exist|no pg_hba.conf entry")

DROPPED = "the index, or a build of it, was dropped while it was being used: try again"

_opening = threading.Lock()
_pools: dict[tuple[int, str], ConnectionPool[Connection]] = {}


def configure(connection: Connection) -> None:
    """Configure a connection. Raises an error without the extension, which only `schema.install` can do without."""
    connection.autocommit = True
    connection.prepare_threshold = None  # works behind a pooler, and always plans for the actual values
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.execute(SESSION)
    register_vector(connection)


def pool(url: str, *, max_size: int = 16) -> ConnectionPool[Connection]:
    """The connection pool of this process for a database; a forked child gets its own."""
    key = (os.getpid(), url)
    with _opening:  # other threads must wait, as a pool that is not open yet refuses them
        if key not in _pools:
            _pools[key] = ConnectionPool[Connection](
                url,
                min_size=0,
                max_size=max_size,
                timeout=CHECKOUT_TIMEOUT_SECONDS,
                # with a shorter one, callers would go on waiting after Postgres is back
                reconnect_timeout=CHECKOUT_TIMEOUT_SECONDS,
                kwargs={
                    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                    "application_name": "vector-index-worker",
                },
                configure=configure,
                check=ConnectionPool.check_connection,
                open=True,
            )
        return _pools[key]


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
    """Open a connection outside the pool, without its configuration: for set-up and for single reads.

    Raises ServiceUnreachable or SettingsError with the message of the server.
    """
    with translate_errors(url):
        connection = psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS)
        with connection:
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
        raise ServiceUnreachable(f"Postgres at {where(url)} is unreachable: {_reason(error)}") from error
    except pg.ReadOnlySqlTransaction as error:
        raise ServiceUnreachable(f"Postgres at {where(url)} is read-only: {_reason(error)}") from error
    except pg.UndefinedTable as error:
        if not BUILD_TABLE.search(error.diag.message_primary or ""):
            raise
        raise BuildDropped(DROPPED) from error
    except psycopg.Error as error:
        if error.sqlstate is not None and error.sqlstate.startswith(TEMPORARY):
            message = (
                error.diag.message_primary or type(error).__name__
            )  # the detail may quote values of a row
            raise ServiceUnreachable(f"Postgres at {where(url)} cannot do this now: {message}") from error
        if error.sqlstate is not None or not isinstance(error, psycopg.OperationalError):
            raise
        message = _reason(error)
        if MISCONFIGURED.search(
            message
        ):  # while connecting, libpq has the message of the server but no SQLSTATE
            raise SettingsError(
                f"Postgres at {where(url)} refused the connection: {message}; check DATABASE_URL"
            ) from error
        raise ServiceUnreachable(f"Postgres at {where(url)} is unreachable: {message}") from error


def where(url: str) -> str:
    """Host, port and database of a URL, without user and password."""
    info = psycopg.conninfo.conninfo_to_dict(url)
    return f"{info.get('host', 'localhost')}:{info.get('port', 5432)}/{info.get('dbname', '')}"


def _reason(error: Exception) -> str:
    """The last line that is not indented: libpq lists the addresses it tried above it and indents hints below it."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line[0].isspace()]
    return lines[-1] if lines else type(error).__name__
