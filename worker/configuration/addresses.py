"""Checks the addresses of Postgres and the broker, and shows them without their passwords.

Celery, kombu and redis-py each read an address of Redis in their own way. `broker_url` writes it in the one form that
all three read alike.
"""

import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from worker.errors import SettingsError
from worker.sessions import libpq_address, with_scheme_of_libpq

REDIS_SCHEMES = ("redis", "rediss", "redis+socket")


def database_url(value: object, notices: list[str]) -> str:
    """Return the address of Postgres without the parameters of other tools. Adds a notice. Raises SettingsError."""
    example = "postgresql://user:password@host:5432/name"
    named = with_scheme_of_libpq(value) if isinstance(value, str) else value
    given = _url("DATABASE_URL", named, ("postgresql", "postgres"), example)
    url, foreign = libpq_address("DATABASE_URL", given)
    if foreign:
        notices.append(
            f"DATABASE_URL has parameters of other tools, without effect here: {', '.join(foreign):.200}"
        )
    if re.search(r"%(?![0-9A-Fa-f]{2})", url):
        raise SettingsError(
            f"DATABASE_URL is {redacted(given)}, which has a bare %; write % of a password as %25"
        )
    return url


# parameters of a rediss:// address; files are in PEM format
CERTIFICATES = ("required", "optional", "none")  # values of ssl_cert_reqs
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TLS = ("ssl_cert_reqs", *FILES, "ssl_check_hostname")
DATABASES = ("db", "virtual_host")  # parameters with the number of the database, of redis-py and kombu


def broker_url(name: str, value: object) -> str:
    """Return the address of a Redis in the form that all libraries read alike. Raises SettingsError."""
    if isinstance(value, str) and value.startswith("sentinel://"):
        raise SettingsError(
            f"{name} is {redacted(value)}, but Redis Sentinel is not supported; set it to the address of the master, "
            "or of a proxy that follows it, as redis://:password@host:6379/0"
        )
    url = _url(name, value, REDIS_SCHEMES, "redis://:password@host:6379/0")
    if not url:
        return url
    parts = urlsplit(url)
    parameters = _redis_parameters(name, url, TLS if parts.scheme == "rediss" else ())
    is_socket = parts.scheme == "redis+socket"
    numbers = [parameters.pop(each) for each in DATABASES if each in parameters]
    number = numbers[0] if numbers else "" if is_socket else parts.path.strip("/")
    if number and not number.isdecimal():
        raise SettingsError(
            f"{name} is {redacted(url)}, whose database {number!r} is not a number; write it as "
            "redis://:password@host:6379/0"
        )
    if is_socket:
        path = f"redis+socket://{parts.netloc}{parts.path}"  # urlunsplit leaves out an empty host
        return f"{path}?virtual_host={number}" if number else path
    if parts.scheme == "rediss":
        parameters = _tls(name, url, parameters)
    return urlunsplit(parts._replace(path=f"/{number}" if number else "", query=urlencode(parameters)))


def celery_settings(broker: str, results: str) -> dict[str, Any]:
    """Return Celery's settings for the addresses of the broker and of the results.

    Celery's result backend takes ssl_check_hostname for true, whatever it says, unless it has it from a setting.
    """
    settings: dict[str, Any] = {"broker_url": broker, "result_backend": results}
    if tls := dict(parse_qsl(urlsplit(broker).query)) if broker.startswith("rediss:") else {}:
        settings["broker_use_ssl"] = _typed(tls)  # Flower needs it too
    if results.startswith("rediss:"):
        parts = urlsplit(results)
        settings["redis_backend_use_ssl"] = _typed(dict(parse_qsl(parts.query)))
        settings["result_backend"] = urlunsplit(parts._replace(query=""))
    return settings


def _typed(tls: Mapping[str, str]) -> dict[str, object]:
    return {name: value != "false" if name == "ssl_check_hostname" else value for name, value in tls.items()}


def _redis_parameters(name: str, url: str, known: Sequence[str]) -> dict[str, str]:
    """Read the parameters of an address. Raises SettingsError for one that not all libraries know."""
    parameters = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    for parameter in parameters:
        if parameter in (*known, *DATABASES):
            continue
        if parameter in TLS:
            fix = "begin the address with rediss:// for an encrypted connection"
        else:
            fix = f"leave it out; an address may have {', '.join((*known, *DATABASES))}"
        raise SettingsError(
            f"{name} is {redacted(url)}, whose parameter {parameter!r:.100} has no effect; {fix}"
        )
    return parameters


def _tls(name: str, url: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """Write the parameters of an encrypted connection as all libraries spell them. Raises SettingsError."""
    required = parameters.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    checked = parameters.get("ssl_check_hostname", "true").lower()
    for parameter, value, choices in (
        ("ssl_cert_reqs", required, CERTIFICATES),
        ("ssl_check_hostname", checked, ("true", "false")),
    ):
        if value not in choices:
            raise SettingsError(
                f"{name} is {redacted(url)}, whose {parameter} is {parameters[parameter]!r:.100}; "
                f"choose {', '.join(choices)}"
            )
    files = {each: parameters[each] for each in FILES if parameters.get(each)}
    _check_files(name, files)
    return {"ssl_cert_reqs": required, **files} | (
        {"ssl_check_hostname": "false"} if checked == "false" else {}
    )


def _check_files(name: str, files: Mapping[str, str]) -> None:
    """Load the certificates. Raises SettingsError."""
    reading = "ssl_ca_certs"
    try:
        context = ssl.create_default_context(cafile=files.get(reading))
        reading = "ssl_certfile"
        if reading in files or "ssl_keyfile" in files:
            # a key with a password would be asked for on the terminal
            context.load_cert_chain(files.get(reading, ""), files.get("ssl_keyfile"), password="")
    except OSError as error:
        raise SettingsError(
            f"{reading} of {name} is {files.get(reading, '')!r}, which cannot be used ({error.strerror or error}): set "
            "it to a file in PEM format that this user can read, with ssl_keyfile for its key without a password"
        ) from error


def is_redis(value: object) -> bool:
    """Whether it is the address of a Redis; an application may use another broker, such as amqp://."""
    return isinstance(value, str) and value.partition("://")[0] in REDIS_SCHEMES


def redis_url(url: str) -> str:
    """Return a broker's address as redis-py reads it; Celery writes sockets as redis+socket:///path?virtual_host=1."""
    return re.sub(r"^redis\+socket:(.*)$", r"unix:\1", url).replace("virtual_host=", "db=")


def _url(name: str, value: object, schemes: Sequence[str], example: str) -> str:
    """Return the address, or "" for the embedded service; messages of this function hide the password."""
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
        readable = netloc.count("@") == 1 or "@" not in value.partition("?")[0]
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
