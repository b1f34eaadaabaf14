"""What every connection to Postgres needs: an address that libpq reads, and settings that psycopg relies on."""

import re
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote, urlencode

from worker.errors import SettingsError

# psycopg quotes, sends and reads values in these forms, whatever the server, the database and the role set.
DRIVER = """
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET bytea_output = 'hex';
SET array_nulls = on;
SET extra_float_digits = 1;
SET DateStyle = 'ISO';
SET IntervalStyle = 'postgres';
"""

TRANSACTION_TIMEOUT_SINCE = 170000  # the version of Postgres that brought this setting

# parameters of an address, of libpq 18
PARAMETERS = """
application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation
gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
load_balance_hosts max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer
oauth_scope options passfile password port replication require_auth requirepeer scram_client_key scram_server_key
service sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey sslkeylogfile ssl_max_protocol_version
ssl_min_protocol_version sslmode sslnegotiation sslpassword sslrootcert sslsni target_session_attrs tcp_user_timeout
user
"""
SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


# schemes that SQLAlchemy, Django, Rails, Ecto and others write for Postgres; a driver follows a plus sign
SCHEMES = ("postgresql", "postgres", "postgis", "psql", "pgsql", "timescale", "timescaledb", "ecto")


def with_scheme_of_libpq(address: str) -> str:
    """Return an address of another tool, such as postgresql+psycopg:// or jdbc:postgresql://, as libpq reads it."""
    address = address.strip()
    if address[:1] in ("'", '"') and address[-1:] == address[:1]:  # as some files of variables have it
        address = address[1:-1].strip()
    scheme, separator, rest = address.removeprefix("jdbc:").partition("://")
    if not separator or scheme.lower().partition("+")[0] not in SCHEMES:
        return address
    return address if scheme == "postgres" else f"postgresql://{rest}"


def libpq_address(name: str, address: str) -> tuple[str, Sequence[str]]:
    """Return a URL for libpq without the parameters of other tools, and their names. Other forms stay as they are.

    Prisma, Rails, JDBC and others put parameters of their own into a URL, such as `schema` or `pool`. Raises
    SettingsError for one that asks for encryption in another way than libpq does.
    """
    address = with_scheme_of_libpq(address)
    base, _, query = address.partition("?")
    query = re.sub(r";(?=\w+=)", "&", query)
    if "://" not in base or not query:
        return address, ()
    known = set(PARAMETERS.split())
    parameters = parse_qsl(query, keep_blank_values=True)
    foreign = [parameter for parameter, _ in parameters if parameter not in known]
    for parameter, value in parameters:
        if parameter in foreign and ("ssl" in parameter.lower() or "tls" in parameter.lower()):
            raise SettingsError(
                f"{name} has the parameter {parameter!r:.100}, which libpq does not know; write sslmode=require or "
                "sslmode=verify-full, or leave it out"
            )
        if parameter == "sslmode" and value not in SSLMODES:
            raise SettingsError(f"sslmode of {name} is {value!r:.100}; choose {', '.join(SSLMODES)}")
    if not foreign and " " not in query and all("=" in part for part in query.split("&")):
        return f"{base}?{query}", ()
    kept = urlencode([pair for pair in parameters if pair[0] in known], quote_via=quote)
    return f"{base}?{kept}" if kept else base, foreign
