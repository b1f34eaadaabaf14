"""Errors of the broker in one sentence that says what to do."""

import re

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from worker.configuration.addresses import redacted, redis_url
from worker.errors import ServiceUnreachable, SettingsError, VectorIndexError

REFUSED_LOGIN = re.compile(
    r"username-password pair|WRONGPASS|NOAUTH|Authentication required|without any password",
    re.I,
)
CHECK_SECONDS = 5.0


def broker_error(setting: str, url: str, error: Exception) -> VectorIndexError:
    """Return SettingsError if the broker refuses the user or password of its address, else ServiceUnreachable."""
    shown = f"the broker {redacted(url)}"
    if REFUSED_LOGIN.search(str(error)):
        return SettingsError(
            f"{shown} refuses the user or password of {setting} ({error}): write it as redis://:password@host:6379/0 "
            "with the server's `requirepass`, or as redis://user:password@host:6379/0 with a user of its ACL"
        )
    fix = f"start it, run `vector-index up`, or set {setting}"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        fix = (
            "add ssl_ca_certs=FILE to its address, the authority that signed its certificate; "
            "ssl_check_hostname=false if only its host name differs"
        )
    return ServiceUnreachable(f"{shown} cannot be reached ({error}): {fix}")


def check_login(setting: str, url: str) -> None:
    """Raise SettingsError if the broker refuses the login. A broker that is away may come back: workers wait for it."""
    once = Retry(NoBackoff(), 0)
    try:
        with redis.Redis.from_url(
            redis_url(url), socket_timeout=CHECK_SECONDS, socket_connect_timeout=CHECK_SECONDS, retry=once
        ) as client:
            client.ping()
    except (RedisError, OSError) as error:
        refused = broker_error(setting, url, error)
        if isinstance(refused, SettingsError):
            raise refused from error
