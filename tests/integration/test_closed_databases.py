"""A server that refuses a connection, or a session that may not write, is told in a sentence that fits."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from tests.fixtures.system import VECTOR_INDEX, user_environment
from worker.errors import ServiceUnreachable, SettingsError, VectorIndexError
from worker.services import Addresses
from worker.store import connection, schema

READ_ONLY = "default_transaction_read_only = on"

Run = Callable[[str], None]  # run statements as an administrator, with {role} and {database}


@pytest.fixture
def role_url(database_url: str, administrator: psycopg.Connection) -> Iterator[str]:
    """The address of a database with the schema, for a role without rights of an administrator that owns it."""
    role, parts = f"role_{uuid4().hex}", urlsplit(database_url)
    administrator.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'geheim'".encode())
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(f"GRANT ALL ON SCHEMA vector_index TO {role}".encode())
    yield f"postgresql://{role}:geheim@{parts.hostname}:{parts.port}{parts.path}"
    connection.close_pools()
    administrator.execute(
        f"ALTER DATABASE {parts.path[1:]} ALLOW_CONNECTIONS true CONNECTION LIMIT -1".encode()
    )
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("SET default_transaction_read_only = off")
        conn.execute(f"DROP OWNED BY {role}".encode())
    administrator.execute(f"DROP ROLE {role}".encode())


@pytest.fixture
def run(role_url: str, administrator: psycopg.Connection) -> Run:
    parts = urlsplit(role_url)
    names = {"role": str(parts.username), "database": parts.path[1:]}
    return lambda statement: administrator.execute(statement.format(**names).encode()) and None


@pytest.mark.parametrize(
    ("closing", "kind", "advised"),
    [
        ("ALTER DATABASE {database} ALLOW_CONNECTIONS false", ServiceUnreachable, "ALLOW_CONNECTIONS true"),
        ("ALTER DATABASE {database} CONNECTION LIMIT 0", ServiceUnreachable, "ALTER DATABASE name CONNECTION"),
        ("ALTER ROLE {role} CONNECTION LIMIT 0", ServiceUnreachable, "ALTER ROLE name CONNECTION LIMIT"),
        ("ALTER ROLE {role} NOLOGIN", SettingsError, "ALTER ROLE name LOGIN"),
        ("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC", SettingsError, "GRANT CONNECT"),
    ],
)  # fmt: skip
def test_a_closed_database_says_how_to_open_it(
    closing: str, kind: type[VectorIndexError], advised: str, role_url: str, run: Run
) -> None:
    run(closing)
    with pytest.raises(kind, match=advised) as raised, connection.connect(role_url):
        pass
    assert "start it" not in str(raised.value)


@pytest.mark.parametrize(
    ("closing", "advised"),
    [
        (f"ALTER DATABASE {{database}} SET {READ_ONLY}", "ALTER DATABASE name RESET"),
        (f"ALTER ROLE {{role}} SET {READ_ONLY}", "ALTER ROLE name RESET"),
        (f"ALTER ROLE {{role}} IN DATABASE {{database}} SET {READ_ONLY}", "ALTER ROLE name IN DATABASE name"),
    ],
)
def test_a_read_only_role_or_database_says_how_to_let_it_write(
    closing: str, advised: str, role_url: str, run: Run
) -> None:
    run(closing)
    found = f"is read-only: .*; default_transaction_read_only is on; turn it off by {advised}"
    with pytest.raises(ServiceUnreachable, match=found):
        schema.install(role_url)
    with pytest.raises(ServiceUnreachable, match=found), connection.checkout(role_url) as conn:
        conn.execute("CREATE TABLE vector_index.test ()")


@pytest.mark.parametrize("command", ["schema", "doctor", "worker", "up"])
def test_a_command_on_a_closed_database_ends_with_a_sentence(
    command: str, role_url: str, run: Run, services: Addresses, tmp_path: Path
) -> None:
    run("ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    done = subprocess.run(
        [VECTOR_INDEX, command, *(["--offline"] if command == "doctor" else [])],
        cwd=tmp_path,
        env=user_environment(tmp_path, DATABASE_URL=role_url, BROKER_URL=services.broker_url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 3, output
    assert "ALTER DATABASE name ALLOW_CONNECTIONS true" in output
    assert "Traceback" not in output
    assert "geheim" not in output
