"""Say what to do about an error of Postgres, by its message: libpq gives no SQLSTATE for a refused connection."""

import re
from typing import NamedTuple

START = "start it, or correct the host and port of DATABASE_URL"
ANSWERED = "the server answered, so check user, database and parameters of DATABASE_URL, and the server's log"


class Advice(NamedTuple):
    """What to do about an error."""

    to_do: str  # completes a sentence
    misconfigured: bool  # whether the same attempt fails until somebody changes a setting


# Patterns of messages of Postgres, libpq, PgBouncer and Supavisor, with what to do. The first that fits counts.
_WRONG = {
    r"pg_hba\.conf": "let pg_hba.conf of the server admit this host, or correct user and database",
    r"not permitted to log in": "let the role log in with ALTER ROLE name LOGIN, or name another role",
    r"permission denied for database": "let an owner run GRANT CONNECT ON DATABASE name TO its_role",
    r"(?i)no such database": "add the database to the settings of the pooler, or correct its name",
    r"(?i)unsupported startup parameter": "let the pooler ignore that parameter, or leave it out",
    r"database .*does not exist": "correct the name of the database, or create it with `createdb`",
    r"(?i)authentication failed|no password|no such user|tenant or user not found|\brole .*does not exist": (
        "correct user and password, or set one on the server: ALTER ROLE name PASSWORD '...'"
    ),
    r"session is read-only|session is not read-only|server is in hot standby|server is not in hot standby": (
        "name a server of the kind that target_session_attrs asks for: workers need one that can be written"
    ),
    # values of parameters of the address, and what they ask for in vain
    r"invalid .*(value|port number)|^connection is bad: (definition of service|weak sslmode)"
    r"|unrecognized configuration parameter|channel binding required|authentication method requirement"
    r"|does not support SSL|certificate|REPLICATION attribute|could not parse network address|does not exist": (
        "correct what the server names"
    ),
}
_PASSING = {
    r"not currently accepting connections": (
        "somebody has closed this database: wait, or open it with ALTER DATABASE name ALLOW_CONNECTIONS true"
    ),
    r"too many connections for database": (
        "raise its limit with ALTER DATABASE name CONNECTION LIMIT n, or run fewer processes"
    ),
    r"too many connections for role": (
        "raise its limit with ALTER ROLE name CONNECTION LIMIT n, or run fewer processes"
    ),
    r"(?i)too many (clients|connections)|connection slots are reserved|max_client_conn|max client connections": (
        "raise max_connections of the server or the pooler, or run fewer processes: each takes up to 16 connections"
    ),
    r"is starting up|is shutting down|in recovery mode|not yet accepting|not accepting connections": (
        "wait until the server is ready; its log says what it does"
    ),
    r"No space left|(?i:disk full)|could not (extend|write|create|open|fsync|resize) .*file": (
        "free space on the disk of the server, and see its log"
    ),
    r"out of memory|out of shared memory|could not fork|Cannot allocate memory": (
        "give the server more memory, or lower its max_connections and work_mem"
    ),
    r"HTTP/|received invalid response|expected authentication request|invalid response to SSL": (
        "another program answers there: correct the host and port of DATABASE_URL"
    ),
}
_SERVER_SPEAKS = re.compile(r"\b[A-ZА-Я]{4,}: {1,2}\S")  # FATAL, in the language of the server


def of_connection(message: str) -> Advice:
    """Say what to do about a connection that could not be opened."""
    for known, misconfigured in ((_PASSING, False), (_WRONG, True)):
        for pattern, to_do in known.items():
            if re.search(pattern, message):
                return Advice(to_do, misconfigured)
    return Advice(ANSWERED if _SERVER_SPEAKS.search(message) else START, False)


def of_statement(message: str) -> str:
    """Say what to do about a statement that may succeed later."""
    return next(
        (to_do for pattern, to_do in _PASSING.items() if re.search(pattern, message)), "try again later"
    )


def of_read_only(*, standby: bool, source: str) -> str:
    """Say what to do about a session that may not write. `source` is where Postgres has that default from."""
    if standby:
        return "this server is a standby: set DATABASE_URL to the primary"
    place = {
        "database": "ALTER DATABASE name RESET default_transaction_read_only",
        "user": "ALTER ROLE name RESET default_transaction_read_only",
        "database user": "ALTER ROLE name IN DATABASE name RESET default_transaction_read_only",
        "client": "leaving `default_transaction_read_only` out of the options of DATABASE_URL",
    }.get(source, "its configuration")
    return (
        f"default_transaction_read_only is on; turn it off by {place}, after the disk has space again if your provider "
        "set it for that"
    )
