"""Connections to Postgres: pooled, in autocommit, with every transaction explicit."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import stamina
from pgvector.psycopg import register_vector
from psycopg import errors as pg
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from worker.errors import ServiceUnreachable, SettingsError

Connection = psycopg.Connection[TupleRow]

CONNECT_TIMEOUT_SECONDS = 5
CHECKOUT_TIMEOUT_SECONDS = 30  # how long a caller waits for a connection of the pool

# READ COMMITTED is part of the protocol, whatever the database's default: publishing checks in the statement
# after the one that locked. synchronous_commit: "accepted" means on disk.
SESSION = """
SET default_transaction_isolation = 'read committed';
SET synchronous_commit = on;
SET idle_in_transaction_session_timeout = '10s';
SET jit = off;
"""

# Locks are taken in one order everywhere; these are retried all the same.
retry_on_deadlock = stamina.retry(
    on=(pg.DeadlockDetected, pg.SerializationFailure), attempts=6, wait_initial=0.02, wait_max=1.0, timeout=30
)

MISCONFIGURED = re.compile(r"authentication failed|no password supplied|does not exist|no pg_hba.conf entry")

_pools: dict[tuple[int, str], ConnectionPool[Connection]] = {}


def configure(connection: Connection) -> None:
    """Set up one connection; without the extension only the schema can be installed."""
    connection.autocommit = True
    connection.prepare_threshold = None  # nothing to lose behind a pooler, and always a plan for these values
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.execute(SESSION)
    register_vector(connection)


def pool(url: str, *, max_size: int = 16) -> ConnectionPool[Connection]:
    """The pool of this process for the database; a forked child gets one of its own."""
    key = (os.getpid(), url)
    if key not in _pools:
        fresh = ConnectionPool[Connection](
            url,
            min_size=0,
            max_size=max_size,
            timeout=CHECKOUT_TIMEOUT_SECONDS,
            reconnect_timeout=1.0,
            kwargs={"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "vector-index-worker"},
            configure=configure,
            check=ConnectionPool.check_connection,
            open=False,
        )
        if _pools.setdefault(key, fresh) is fresh:
            fresh.open()
    return _pools[key]


def close_pools() -> None:
    """Close the pools of this process."""
    for key in [key for key in _pools if key[0] == os.getpid()]:
        _pools.pop(key).close()


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """A connection outside any pool: for set-up and one-off looks.

    Raises ServiceUnreachable or SettingsError with the server's own words.
    """
    with translated(url):
        connection = psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS)
        with connection:
            yield connection


@contextmanager
def checkout(url: str) -> Iterator[Connection]:
    """A configured connection of the pool. Raises ServiceUnreachable."""
    with translated(url), pool(url).connection() as connection:
        yield connection


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn a lost or refused connection into one sentence; the errors of statements pass."""
    try:
        yield
    except (
        PoolTimeout,
        pg.AdminShutdown,
        pg.CrashShutdown,
        pg.CannotConnectNow,
        pg.TooManyConnections,
    ) as error:
        raise ServiceUnreachable(f"Postgres at {where(url)} is unreachable: {_first_line(error)}") from error
    except pg.ReadOnlySqlTransaction as error:
        raise ServiceUnreachable(f"Postgres at {where(url)} is read-only: {_first_line(error)}") from error
    except psycopg.OperationalError as error:
        if error.sqlstate is not None:
            raise
        said = _first_line(error)
        if MISCONFIGURED.search(said):  # while connecting, libpq gives the server's words but no SQLSTATE
            raise SettingsError(f"DATABASE_URL: Postgres at {where(url)} says: {said}") from error
        raise ServiceUnreachable(f"Postgres at {where(url)} is unreachable: {said}") from error


def where(url: str) -> str:
    """Host, port and database of a URL, without its password."""
    info = psycopg.conninfo.conninfo_to_dict(url)
    return f"{info.get('host', 'localhost')}:{info.get('port', 5432)}/{info.get('dbname', '')}"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[-1] if text else type(error).__name__
