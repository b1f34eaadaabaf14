"""Connections to Postgres: pooled, in autocommit, with every transaction explicit."""

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
CHECKOUT_TIMEOUT_SECONDS = 30  # how long a caller waits for a connection of the pool

# READ COMMITTED is part of the protocol, whatever the database's default: publishing checks in the statement
# after the one that locked. synchronous_commit: "accepted" means on disk. hnsw: a walk of the vector index goes on
# until enough of what it meets passes the filter; the figures are in docs/decisions.md.
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

# SQLSTATEs, by their beginning, of what can succeed later: conflicts, resources, an operator's or the system's doing,
# and the time limits of a lock and of an idle transaction.
TEMPORARY = ("40", "53", "57", "58", "55P03", "25P03")

OF_A_BUILD = re.compile(r"vector_index\.(chunks|embeddings|pending|served)_\d+")
MISCONFIGURED = re.compile(r"authentication failed|no password supplied|does not exist|no pg_hba.conf entry")

DROPPED = "the index, or a build of it, was dropped while it was being used: try again"

_opening = threading.Lock()
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
    with _opening:  # the others wait: a pool that is not open yet refuses them
        if key not in _pools:
            _pools[key] = ConnectionPool[Connection](
                url,
                min_size=0,
                max_size=max_size,
                timeout=CHECKOUT_TIMEOUT_SECONDS,
                reconnect_timeout=CHECKOUT_TIMEOUT_SECONDS,  # shorter, a caller would wait on after it is back
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
    """Close the pools of this process."""
    for key in [key for key in _pools if key[0] == os.getpid()]:
        _pools.pop(key).close()


def retry_on_deadlock(function: Callable[P, T]) -> Callable[P, T]:
    """Run a transaction again that lost a conflict: locks are taken in one order everywhere, and yet.

    A context, as the decorator of stamina gives the arguments, which hold documents, to whoever logs retries.
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
    """Turn a lost or refused connection, and what can succeed later, into one sentence; other errors pass."""
    try:
        yield
    except PoolTimeout as error:
        raise ServiceUnreachable(f"Postgres at {where(url)} is unreachable: {_reason(error)}") from error
    except pg.ReadOnlySqlTransaction as error:
        raise ServiceUnreachable(f"Postgres at {where(url)} is read-only: {_reason(error)}") from error
    except pg.UndefinedTable as error:
        if not OF_A_BUILD.search(error.diag.message_primary or ""):
            raise
        raise BuildDropped(DROPPED) from error
    except psycopg.Error as error:
        if error.sqlstate is not None and error.sqlstate.startswith(TEMPORARY):
            said = error.diag.message_primary or type(error).__name__  # the detail may hold values
            raise ServiceUnreachable(f"Postgres at {where(url)} is unable for now: {said}") from error
        if error.sqlstate is not None or not isinstance(error, psycopg.OperationalError):
            raise
        said = _reason(error)
        if MISCONFIGURED.search(said):  # while connecting, libpq gives the server's words but no SQLSTATE
            raise SettingsError(f"DATABASE_URL: Postgres at {where(url)} says: {said}") from error
        raise ServiceUnreachable(f"Postgres at {where(url)} is unreachable: {said}") from error


def where(url: str) -> str:
    """Host, port and database of a URL, without its password."""
    info = psycopg.conninfo.conninfo_to_dict(url)
    return f"{info.get('host', 'localhost')}:{info.get('port', 5432)}/{info.get('dbname', '')}"


def _reason(error: Exception) -> str:
    """The reason: libpq indents its hints below it, and names each address that it tried above it."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line[0].isspace()]
    return lines[-1] if lines else type(error).__name__
