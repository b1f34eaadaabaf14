"""Install and migrate the schema, in one idempotent call."""

import logging
import time
from importlib import resources

from psycopg import errors as pg
from psycopg import sql

from worker.errors import ServiceUnreachable, SettingsError
from worker.store.connection import Connection, check_writable, connect, set_search_path, where
from worker.store.statements import SCHEMA, read

LOCK_NAMESPACE = (
    0x76_69_77_00  # "viw": first key of our advisory locks; the second is the index, or 0 for the schema
)
MINIMUM_POSTGRES = 150000
MINIMUM_PGVECTOR = (0, 8)
LOCK_SECONDS = 0.5  # that a migration waits for a lock, and that everybody else waits behind it
RETRY_SECONDS = 2.0  # in which the others pass, until it tries again
PATIENCE_SECONDS = 120.0  # until it gives up

HOLDER = """
SELECT l.pid, extract(epoch FROM clock_timestamp() - a.xact_start)
FROM pg_locks l JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE c.relnamespace = to_regnamespace(%s) AND l.pid <> pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY a.xact_start LIMIT 1
"""

logger = logging.getLogger("vector_index.schema")


def install(url: str, *, patience_seconds: float = PATIENCE_SECONDS) -> int:
    """Create or migrate the schema; its version. Any number of processes may call it at the same time.

    A migration waits for locks for LOCK_SECONDS at a time, as everything that an application enqueues waits behind it.
    Raises SettingsError when the server is older than PostgreSQL 15 or lacks pgvector 0.8, when the database cannot
    hold every text, when the role may not create the schema, and when the schema is newer than this release;
    ServiceUnreachable when the server does not answer or allows no writing, or an open transaction holds a lock for
    `patience_seconds`.
    """
    with connect(url) as connection:
        _check_server(connection, url)
        check_writable(connection, url)
        deadline, told = time.monotonic() + patience_seconds, False
        while True:
            try:
                with connection.transaction():
                    return _migrate(connection, url)
            except pg.LockNotAvailable as error:
                waits_for = _holder(connection)
                if time.monotonic() > deadline:
                    raise ServiceUnreachable(
                        f"the schema at {where(url)} cannot be migrated, because another transaction uses it "
                        f"({waits_for}): end that transaction, then start again"
                    ) from error
                if not told:
                    logger.warning("the migration waits for another transaction (%s) to end", waits_for)
                told = True
            time.sleep(RETRY_SECONDS)


def _check_server(connection: Connection, url: str) -> None:
    if connection.info.server_version < MINIMUM_POSTGRES:
        raise SettingsError(
            f"Postgres at {where(url)} has version {connection.info.server_version // 10000}: "
            "upgrade it to 15 or later"
        )
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise SettingsError(
            f"the database at {where(url)} has the encoding {encoding}, which cannot hold every text: create one "
            "with CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0, and set DATABASE_URL to it"
        )


def _migrate(connection: Connection, url: str) -> int:
    """Bring the schema up to date, in a transaction. Raises LockNotAvailable."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, 0)", [LOCK_NAMESPACE])
    connection.execute(
        sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{LOCK_SECONDS * 1000:.0f}ms"))
    )
    _create_extension_and_schema(connection, url)
    _check_pgvector(connection, url)
    set_search_path(connection)
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {SCHEMA}.migrations (version integer PRIMARY KEY, "
        "applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    applied = {row[0] for row in connection.execute("SELECT version FROM vector_index.migrations")}
    newest = max(migrations())
    if max(applied, default=0) > newest:
        raise SettingsError(
            f"the schema at {where(url)} has version {max(applied)}, this release knows {newest}: "
            "upgrade vector-index-worker"
        )
    for number, file in sorted(migrations().items()):
        if number not in applied:
            connection.execute(read(f"migrations/{file}").encode())
            connection.execute("INSERT INTO vector_index.migrations (version) VALUES (%s)", [number])
    _drop_user_from_search_path(connection)
    return newest


def _create_extension_and_schema(connection: Connection, url: str) -> None:
    try:
        with connection.transaction():
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            # CREATE SCHEMA IF NOT EXISTS needs the right to create it even if it exists
            if not _schema_exists(connection):
                connection.execute(f"CREATE SCHEMA {SCHEMA}")
    except (pg.InsufficientPrivilege, pg.InvalidSchemaName) as error:
        raise SettingsError(
            f"the role of DATABASE_URL may not set up {where(url)} ({error.diag.message_primary}): "
            f"let an owner run CREATE EXTENSION vector; CREATE SCHEMA {SCHEMA} AUTHORIZATION its_role; once"
        ) from error
    except (pg.UndefinedFile, pg.FeatureNotSupported) as error:
        raise SettingsError(
            f"Postgres at {where(url)} has no pgvector: install the extension `vector` 0.8 or later on the server, "
            + packages(connection.info.server_version // 10000)
        ) from error


def packages(major: int) -> str:
    """Return the names of the packages of pgvector for a version of Postgres."""
    return (
        f"which is `apt install postgresql-{major}-pgvector` on Debian and Ubuntu, `dnf install pgvector_{major}` on "
        f"Red Hat, `brew install pgvector` on macOS, and the image pgvector/pgvector:pg{major} for containers"
    )


def _check_pgvector(connection: Connection, url: str) -> None:
    """Check the version of pgvector, and that the role may use it."""
    row = connection.execute(
        "SELECT extversion, nspname, has_schema_privilege(n.oid, 'USAGE') FROM pg_extension "
        "JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'"
    ).fetchone()
    found, namespace, usable = row if row else ("0", "", True)
    if tuple(int(part) for part in found.split(".")[:2]) < MINIMUM_PGVECTOR:
        raise SettingsError(
            f"pgvector at {where(url)} has version {found}; it must be 0.8 or later: install that version, "
            "then run ALTER EXTENSION vector UPDATE"
        )
    if not usable:
        raise SettingsError(
            f"the role of DATABASE_URL may not use pgvector at {where(url)}: let an owner run "
            f"GRANT USAGE ON SCHEMA {namespace} TO its_role"
        )


def _holder(connection: Connection) -> str:
    """Describe the oldest transaction of another session that holds a lock in our schema."""
    row = connection.execute(HOLDER, [SCHEMA]).fetchone()
    return f"pid {row[0]}, open for {row[1] or 0:.0f} s" if row else "which has just ended"


def _schema_exists(connection: Connection) -> bool:
    return connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", [SCHEMA]).fetchone() == (True,)


def _drop_user_from_search_path(connection: Connection) -> None:
    """Keep tables that an application creates with our role out of our schema.

    A session creates tables in the schema with the name of its role first. In the embedded Postgres and in containers
    the role is `vector_index`, as our schema. Our own sessions set a search path: its reset value is that of others.
    """
    row = connection.execute(
        "SELECT current_database(), reset_val FROM pg_settings WHERE name = 'search_path'"
    ).fetchone()
    if row is None or connection.info.user != SCHEMA or '"$user"' not in row[1]:
        return
    path = [name for name in row[1].split(",") if name.strip() != '"$user"'] or ["public"]
    connection.execute(
        sql.SQL("ALTER ROLE CURRENT_USER IN DATABASE {} SET search_path = {}").format(
            sql.Identifier(row[0]), sql.SQL(",").join(map(sql.SQL, path))
        )
    )


def check(url: str) -> None:
    """Raise ServiceUnreachable unless the server answers and has the schema version of this release. Only reads."""
    newest = max(migrations())
    with connect(url) as connection:
        there = connection.execute("SELECT to_regclass('vector_index.migrations')").fetchone()
        row = (
            there
            and there[0]
            and connection.execute("SELECT max(version) FROM vector_index.migrations").fetchone()
        )
    if row != (newest,):
        found = f"schema version {row[0]}" if row else f"no schema {SCHEMA}"
        raise ServiceUnreachable(
            f"Postgres at {where(url)} has {found}, this release needs schema version {newest}: start a worker of "
            "this release, which migrates it"
        )


def migrations() -> dict[int, str]:
    """The migration files by number."""
    folder = resources.files("worker.store").joinpath("sql", "migrations")
    return {int(file.name[:4]): file.name for file in folder.iterdir() if file.name.endswith(".sql")}
