"""Install and migrate the schema, in one idempotent call."""

from importlib import resources

from psycopg import errors as pg
from psycopg import sql

from worker.errors import ServiceUnreachable, SettingsError
from worker.store.connection import Connection, connect, where
from worker.store.statements import SCHEMA, read

LOCK_NAMESPACE = (
    0x76_69_77_00  # "viw": first key of our advisory locks; the second is the index, or 0 for the schema
)
MINIMUM_POSTGRES = 150000
MINIMUM_PGVECTOR = (0, 8)


def install(url: str) -> int:
    """Create or migrate the schema; its version. Any number of processes may call it at the same time.

    Raises SettingsError when the server is older than PostgreSQL 15 or lacks pgvector 0.8, when the role may not
    create the schema, and when the schema is newer than this release; ServiceUnreachable when the server does not
    answer.
    """
    with connect(url) as connection, connection.transaction():
        if connection.info.server_version < MINIMUM_POSTGRES:
            raise SettingsError(
                f"Postgres at {where(url)} has version {connection.info.server_version // 10000}: "
                "upgrade it to 15 or later"
            )
        connection.execute("SELECT pg_advisory_xact_lock(%s, 0)", [LOCK_NAMESPACE])
        try:
            with connection.transaction():
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                # CREATE SCHEMA IF NOT EXISTS needs the right to create it even if it exists
                if not _schema_exists(connection):
                    connection.execute(f"CREATE SCHEMA {SCHEMA}")
        except pg.InsufficientPrivilege as error:
            raise SettingsError(
                f"the role of DATABASE_URL may not set up {where(url)} ({error.diag.message_primary}): "
                f"let an owner run CREATE EXTENSION vector; CREATE SCHEMA {SCHEMA} AUTHORIZATION its_role; once"
            ) from error
        except (pg.UndefinedFile, pg.FeatureNotSupported) as error:
            raise SettingsError(
                f"Postgres at {where(url)} has no pgvector: install the extension `vector` 0.8 or later on the server"
            ) from error
        row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        found = row[0] if row else "0"
        if tuple(int(part) for part in found.split(".")[:2]) < MINIMUM_PGVECTOR:
            raise SettingsError(
                f"pgvector at {where(url)} has version {found}; it must be 0.8 or later: install that version, "
                "then run ALTER EXTENSION vector UPDATE"
            )
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


def _schema_exists(connection: Connection) -> bool:
    return connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", [SCHEMA]).fetchone() == (True,)


def _drop_user_from_search_path(connection: Connection) -> None:
    """Keep tables that an application creates with our role out of our schema.

    A session creates tables in the schema with the name of its role first. In the embedded Postgres and in containers
    the role is `vector_index`, as our schema.
    """
    row = connection.execute("SELECT current_database(), current_setting('search_path')").fetchone()
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
