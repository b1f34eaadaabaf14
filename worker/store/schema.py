"""The schema: installed and migrated by one idempotent call."""

from importlib import resources

from psycopg import errors as pg
from psycopg import sql

from worker.errors import ServiceUnreachable, SettingsError
from worker.store.connection import Connection, connect, where
from worker.store.statements import SCHEMA, read

LOCK_NAMESPACE = 0x76_69_77_00  # "viw": advisory locks of ours; the second key is the index, 0 is the schema
MINIMUM_POSTGRES = 150000
MINIMUM_PGVECTOR = (0, 8)


def install(url: str) -> int:
    """Create or migrate the schema and return its version; any number of processes may call it at once.

    Raises SettingsError when the server is older than PostgreSQL 15 or lacks pgvector 0.8, and when the
    role may not create what is missing; ServiceUnreachable when the server does not answer.
    """
    with connect(url) as connection, connection.transaction():
        if connection.info.server_version < MINIMUM_POSTGRES:
            raise SettingsError(
                f"Postgres at {where(url)} is version {connection.info.server_version // 10000}; 15 or later is needed"
            )
        connection.execute("SELECT pg_advisory_xact_lock(%s, 0)", [LOCK_NAMESPACE])
        try:
            with connection.transaction():
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                # IF NOT EXISTS asks for the right to create it all the same
                if not _is_there(connection):
                    connection.execute(f"CREATE SCHEMA {SCHEMA}")
        except pg.InsufficientPrivilege as error:
            raise SettingsError(
                f"the role of DATABASE_URL may not set up {where(url)} ({error.diag.message_primary}): "
                f"let an owner run CREATE EXTENSION vector; CREATE SCHEMA {SCHEMA} AUTHORIZATION its_role; once"
            ) from error
        except (pg.UndefinedFile, pg.FeatureNotSupported) as error:
            raise SettingsError(
                f"Postgres at {where(url)} has no pgvector: install the extension `vector` 0.8 or later there"
            ) from error
        row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        found = row[0] if row else "0"
        if tuple(int(part) for part in found.split(".")[:2]) < MINIMUM_PGVECTOR:
            raise SettingsError(
                f"pgvector at {where(url)} is {found}; 0.8 or later is needed: run ALTER EXTENSION vector UPDATE"
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
        _keep_apart(connection)
        return newest


def _is_there(connection: Connection) -> bool:
    return connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", [SCHEMA]).fetchone() == (True,)


def _keep_apart(connection: Connection) -> None:
    """Let no table that an application creates with our role come among ours.

    A session looks into the schema of its role's name first: of `vector_index` that is ours, in the embedded Postgres
    and in containers.
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
    """Raise ServiceUnreachable unless the server answers and has the schema as this release knows it. A look only."""
    newest = max(migrations())
    with connect(url) as connection:
        there = connection.execute("SELECT to_regclass('vector_index.migrations')").fetchone()
        row = (
            there
            and there[0]
            and connection.execute("SELECT max(version) FROM vector_index.migrations").fetchone()
        )
    if row != (newest,):
        found = f"version {row[0]} of our schema" if row else "no schema of ours"
        raise ServiceUnreachable(
            f"Postgres at {where(url)} has {found}, this release needs version {newest}: start a worker of this "
            "release, which migrates it"
        )


def migrations() -> dict[int, str]:
    """The migration files by number."""
    folder = resources.files("worker.store").joinpath("sql", "migrations")
    return {int(file.name[:4]): file.name for file in folder.iterdir() if file.name.endswith(".sql")}
