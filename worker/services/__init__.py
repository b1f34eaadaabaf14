"""The embedded Postgres and Valkey: two servers of a home folder, children of the process that runs them.

A home holds `services.json` (ports and passwords, generated once) and the data, log and lock of each server. The
process that holds the lock owns the server, and the server stops with it. Other processes of the home share the server.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.errors import ServiceUnreachable
from worker.services import home as homes
from worker.services.postgres import Postgres
from worker.services.server import Server
from worker.services.valkey import Valkey


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Addresses of the servers of a home, with their passwords; empty for the others."""

    database_url: str
    broker_url: str


class Services:
    """The servers that `running` has started or shares."""

    def __init__(self, home: Path, servers: Sequence[Server]) -> None:
        self.home = home
        self.addresses = _addresses(servers)
        self._servers = servers

    def check(self) -> None:
        """Restart servers that died, on the same port, and take over those whose owner ended. Call it each second.

        Returns at once: clients reconnect when the server is ready. Raises ServiceUnreachable when a server keeps
        dying, SettingsError when another program took its port.
        """
        for server in self._servers:
            server.check()


@contextmanager
def running(
    home: Path,
    *,
    postgres: bool = True,
    valkey: bool = True,
    durable: bool = True,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Services]:
    """Run the requested servers of a home, or share those that another process runs, until the block ends.

    Yields when they answer. Servers that this process started stop with it; shared ones go on. Call it in a thread that
    lives as long as the process. Any number of processes may call it at once. With `durable=False`, for tests, Postgres
    may lose its data when the machine crashes. While it waits for the servers it calls `check`, and any exception of
    that ends the start. Raises SettingsError (the home is not writable, a port is in use, nothing is installed) and
    ServiceUnreachable (a server keeps dying, or does not answer).
    """
    home = home.expanduser().resolve()
    servers = _servers(home, homes.make(home), postgres=postgres, valkey=valkey, durable=durable)
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
            server.check()  # all start before the first is waited for
        for server in servers:
            server.wait(check)
        yield Services(home, servers)


def locate(home: Path, *, database_url: str, broker_url: str) -> Addresses:
    """Return the addresses; for an empty one, that of the home's server. Raises ServiceUnreachable."""
    if not (database_url and broker_url):
        own = attach(home, postgres=not database_url, valkey=not broker_url)
        database_url, broker_url = database_url or own.database_url, broker_url or own.broker_url
    return Addresses(database_url=database_url, broker_url=broker_url)


def attach(home: Path, *, postgres: bool = True, valkey: bool = True) -> Addresses:
    """Return the addresses of servers that another process of this home runs; starts nothing.

    Raises ServiceUnreachable, with the fix, when a requested server is down.
    """
    home = home.expanduser().resolve()
    if not homes.exists(home):
        raise ServiceUnreachable(
            f"no embedded services were started in {home} yet; run `vector-index up`, "
            "or set DATABASE_URL and BROKER_URL"
        )
    servers = _servers(home, homes.read(home), postgres=postgres, valkey=valkey)
    for server in servers:
        if not server.answers():
            raise ServiceUnreachable(
                f"the embedded {server.name} of {home} does not answer on port {server.endpoint.port}; "
                f"run `vector-index up`, or set {server.setting}"
            )
    return _addresses(servers)


def _servers(
    home: Path, endpoints: homes.Endpoints, *, postgres: bool, valkey: bool, durable: bool = True
) -> Sequence[Server]:
    servers: list[Server] = []
    if postgres:
        servers.append(Postgres(home, endpoints["postgres"], durable=durable))
    if valkey:
        servers.append(Valkey(home, endpoints["valkey"]))
    return servers


def _addresses(servers: Sequence[Server]) -> Addresses:
    urls = {server.setting: server.url for server in servers}
    return Addresses(database_url=urls.get("DATABASE_URL", ""), broker_url=urls.get("BROKER_URL", ""))
