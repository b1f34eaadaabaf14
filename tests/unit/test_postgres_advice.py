"""Every refusal of Postgres and of a pooler comes with advice that fits it."""

import pytest

from worker.store import advice

START = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '

# what the server or libpq says, part of the advice, and whether it lasts until somebody changes a setting
REFUSED = [
    ('FATAL:  database "shop" is not currently accepting connections', "ALLOW_CONNECTIONS true", False),
    ('FATAL:  too many connections for database "shop"', "CONNECTION LIMIT", False),
    ('FATAL:  too many connections for role "shop"', "ALTER ROLE name CONNECTION LIMIT", False),
    ("FATAL:  sorry, too many clients already", "raise max_connections", False),
    ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", "fewer", False),
    ("FATAL:  no more connections allowed (max_client_conn)", "or the pooler", False),
    ("FATAL:  Max client connections reached", "or the pooler", False),
    ("FATAL:  the database system is starting up", "wait until the server is ready", False),
    ("FATAL:  the database system is in recovery mode", "wait until the server is ready", False),
    ("FATAL:  the database system is not yet accepting connections", "wait until the server is ready", False),
    ("FATAL:  the database system is not accepting connections", "wait until the server is ready", False),
    ("FATAL:  could not write to file \"pg_wal/xlogtemp.9\": No space left on device", "free space", False),
    ("FATAL:  could not open file \"global/pg_filenode.map\": Too many open files", "free space", False),
    ('FATAL:  role "shop" is not permitted to log in', "ALTER ROLE name LOGIN", True),
    ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "shop"', "let pg_hba.conf of the server", True),
    ('FATAL:  pg_hba.conf rejects connection for host "10.0.0.1"', "let pg_hba.conf of the server", True),
    ('FATAL:  password authentication failed for user "shop"', "correct user and password", True),
    ('FATAL:  Peer authentication failed for user "shop"', "correct user and password", True),
    ("FATAL:  Tenant or user not found", "correct user and password", True),
    ('FATAL:  database "shop" does not exist', "createdb", True),
    ('FATAL:  no such database: shop', "settings of the pooler", True),
    ('FATAL:  permission denied for database "shop"', "GRANT CONNECT", True),
    ("FATAL:  unsupported startup parameter: options", "leave it out", True),
    ("server is in hot standby mode", "target_session_attrs", True),
    ("session is read-only", "target_session_attrs", True),
    ("FATAL:  канал закрыт", "the server answered", False),
    ("ВАЖНО:  база не принимает подключения", "the server answered", False),
    ("received invalid response to SSL negotiation: H", "another program answers there", False),
    ("Connection refused", "start it, or correct the host and port", False),
    ("timeout expired", "start it, or correct the host and port", False),
]  # fmt: skip


@pytest.mark.parametrize(("said", "advised", "misconfigured"), REFUSED, ids=[said for said, _, _ in REFUSED])
def test_advice_fits_what_the_server_says(said: str, advised: str, misconfigured: bool) -> None:
    given = advice.of_connection(START + said)
    assert advised in given.to_do
    assert given.misconfigured == misconfigured


@pytest.mark.parametrize(
    ("said", "advised"),
    [
        ('could not extend file "base/5/1": No space left on device', "free space"),
        ("terminating connection due to administrator command", "try again later"),
        ("out of shared memory", "give the server more memory"),
    ],
)
def test_a_statement_that_may_succeed_later_says_what_to_do(said: str, advised: str) -> None:
    assert advised in advice.of_statement(said)


@pytest.mark.parametrize(
    ("standby", "source", "advised"),
    [
        (True, "default", "set DATABASE_URL to the primary"),
        (False, "configuration file", "turn it off by its configuration"),
        (False, "database", "ALTER DATABASE name RESET"),
    ],
)
def test_a_session_that_may_not_write_is_told_by_what(standby: bool, source: str, advised: str) -> None:
    assert advised in advice.of_read_only(standby=standby, source=source)
