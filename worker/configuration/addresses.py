"""Checks the addresses of Postgres and the broker, and shows them without their passwords."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from worker.errors import SettingsError

REDIS_SCHEMES = ("redis", "rediss", "redis+socket")


def database_url(value: object) -> str:
    return _url(
        "DATABASE_URL", value, ("postgresql", "postgres"), "postgresql://user:password@host:5432/name"
    )


def broker_url(name: str, value: object) -> str:
    if isinstance(value, str) and value.startswith("sentinel://"):
        raise SettingsError(
            f"{name} is {redacted(value)}, but Redis Sentinel is not supported; set it to the address of the master, "
            "or of a proxy that follows it, as redis://:password@host:6379/0"
        )
    url = _url(name, value, REDIS_SCHEMES, "redis://:password@host:6379/0")
    number = urlsplit(url).path.strip("/")
    if not url.startswith("redis+socket:") and number and not number.isdecimal():
        raise SettingsError(
            f"{name} is {redacted(url)}, whose database {number!r} is not a number; write it as "
            "redis://:password@host:6379/0"
        )
    return url


def is_redis(value: object) -> bool:
    """Whether it is the address of a Redis; an application may use another broker, such as amqp://."""
    return isinstance(value, str) and value.partition("://")[0] in REDIS_SCHEMES


def redis_url(url: str) -> str:
    """Return a broker's address as redis-py reads it; Celery writes sockets as redis+socket:///path?virtual_host=1."""
    return re.sub(r"^redis\+socket:(.*)$", r"unix:\1", url).replace("virtual_host=", "db=")


def _url(name: str, value: object, schemes: Sequence[str], example: str) -> str:
    """Return the address, or "" for the embedded service; no message of this function shows a password."""
    if not isinstance(value, str):
        raise SettingsError(f"{name} is of type {type(value).__name__}; write it as {example}")
    scheme, separator, rest = value.partition("://")
    if value and (not separator or scheme not in schemes or not rest):
        raise SettingsError(
            f"{name} is {redacted(value)}, which does not begin with {schemes[0]}://; write it as {example}"
        )
    if "socket" not in scheme:
        _check_hosts(name, value)
    return value


def _check_hosts(name: str, value: str) -> None:
    try:
        # several hosts, separated by commas, are an address too
        netloc = urlsplit(value).netloc
        readable = "@" in netloc or "@" not in value.partition("?")[0]
        for host in netloc.rpartition("@")[2].split(","):
            _ = urlsplit(f"//{host}").port
    except ValueError:
        readable = False
    if not readable:
        raise SettingsError(
            f"{name} is {redacted(value)}, whose host and port cannot be read; use a port up to 65535, and "
            "write #, /, ? and @ of a password as %23, %2F, %3F and %40"
        )


def redacted(value: object) -> str:
    """Return an address for messages, with *** in place of user name and password."""
    text = re.sub(r"^([\w+.-]+://)?.*@", r"\1***@", str(value), flags=re.DOTALL)
    return repr(re.sub(r"(?i)(pass\w*\s*=\s*)[^&\s]+", r"\1***", text))
