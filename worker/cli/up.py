"""`up`: everything in the foreground, on one machine."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click

from worker.celery.broker_errors import check_login
from worker.cli.flower import Access
from worker.cli.interruption import Interruption
from worker.cli.options import loglevel_option
from worker.cli.pools import PERIODIC_POOLS, SMALL_POOLS, UP_POOLS
from worker.cli.processes import Programs, programs
from worker.cli.streams import echo, print_json
from worker.cli.supervision import Supervisor
from worker.configuration import Configuration, environment, load
from worker.configuration.addresses import redacted
from worker.errors import SettingsError
from worker.services import home as homes
from worker.services import running
from worker.store import schema


@click.command()
@click.option("--services-only", is_flag=True, help="Start only Postgres and Valkey.")
@click.option("--small", is_flag=True, help="Take half the memory: one worker process, without Flower.")
@loglevel_option("WARNING")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per service.")
def up(services_only: bool, small: bool, loglevel: str, as_json: bool) -> None:
    """Start everything: Postgres, Valkey, workers and Flower.

    Prints each address, then `ready`, and runs until Ctrl-C or SIGTERM. Data, ports and passwords stay in
    VECTOR_INDEX_HOME, so the addresses are the same at every start. A terminal and --json get the passwords too; a
    log does not, and `vector-index addresses` prints them. Set DATABASE_URL or BROKER_URL to use your own server
    instead of an embedded one. A process that dies is restarted.
    """
    if services_only and small:
        raise click.UsageError("--services-only starts no worker: leave out --small")
    pools = () if services_only else SMALL_POOLS if small else UP_POOLS
    wanted = Wanted(pools=pools, flower=not small, loglevel=loglevel, as_json=as_json)
    interruption = Interruption()
    interruption.install()
    configuration = load()  # before the fork, which inherits the rules of settings
    several = len(pools) > 1  # a single worker has nobody to share memory with, and reports its errors itself
    with programs() if several else nullcontext(Programs()) as ours, suppress(KeyboardInterrupt):
        _up(ours, wanted, configuration, interruption)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to start, and how to tell about it."""

    pools: Sequence[str]  # kinds of worker, see `worker.cli.pools`; none: only the services
    flower: bool
    loglevel: str
    as_json: bool

    def commands(self, metrics_port: int | None) -> dict[str, list[str]]:
        """Return the arguments of each worker, by name."""
        found = {name: ["worker", "--queues", name, "--loglevel", self.loglevel] for name in self.pools}
        for name, port in self.metrics_ports(metrics_port).items():
            found[name] += ["--metrics-port", str(port)]
        for name in found.keys() & set(PERIODIC_POOLS):
            found[name].append("--periodic")
        return found

    def metrics_ports(self, first: int | None) -> dict[str, int]:
        """Return a port per worker process, counted up from METRICS_PORT."""
        return {} if first is None else {name: first + offset for offset, name in enumerate(self.pools)}

    def tell(self, name: str, values: Mapping[str, object], text: str) -> None:
        """Print a line for people, or the values as JSON."""
        if self.as_json:
            print_json(values)
        else:
            echo(f"{name:<9} {text}".rstrip())


def _up(ours: Programs, wanted: Wanted, configuration: Configuration, interruption: Interruption) -> None:
    for notice in configuration.notices:
        _notify(notice)
    for setting, url in (
        ("BROKER_URL", configuration.broker_url),
        ("RESULT_BACKEND", configuration.result_backend),
    ):
        if url:
            check_login(setting, url)
    with ExitStack() as stack:
        _run(stack, ours, wanted, configuration, interruption)


def _run(
    stack: ExitStack, ours: Programs, wanted: Wanted, configuration: Configuration, interruption: Interruption
) -> None:
    """Start everything in order and supervise it; the stack stops it in reverse order."""
    prepared = ours.prepare(environment()) if len(wanted.pools) > 1 else None
    if prepared and not homes.exists(configuration.home):
        prepared()  # a wrong model leaves no home behind; later starts go on meanwhile
        prepared = None
    embedded = {"postgres": not configuration.database_url, "valkey": not configuration.broker_url}
    services = stack.enter_context(running(configuration.home, **embedded, check=interruption.check))
    if wanted.pools:
        stack.enter_context(_only_one(services.home))
    if prepared:
        prepared()
    urls = {
        "DATABASE_URL": services.addresses.database_url or configuration.database_url,
        "BROKER_URL": services.addresses.broker_url or configuration.broker_url,
    }
    for (setting, url), (name, is_ours) in zip(urls.items(), embedded.items(), strict=True):
        wanted.tell(name, {setting: url}, _shown(url, is_ours))
    checks: list[Callable[[], object]] = [interruption.check, services.check]
    if wanted.pools:
        schema.install(urls["DATABASE_URL"])  # each worker does this too: here an error is reported once
        variables = {**environment(), **urls}
        commands = wanted.commands(configuration.metrics_port)
        access = Access.of(services.home) if wanted.flower and find_spec("flower") else None
        if access:
            access.check_port()
        starts = {name: partial(ours.start, arguments, variables) for name, arguments in commands.items()}
        supervisor = stack.enter_context(Supervisor(starts, notify=_notify))
        checks.append(supervisor.check)
        supervisor.await_workers(configuration.home, checks)
        for name, port in wanted.metrics_ports(configuration.metrics_port).items():
            url = f"http://{configuration.metrics_address}:{port}/metrics"
            wanted.tell("metrics", {f"METRICS_URL_{name.upper()}": url}, f"{url}  {name}")
        if access:  # last, since it takes half a second of a processor from the workers
            dashboard = {**variables, **access.variables(), "FLOWER_LOGGING": "error"}
            supervisor.add("flower", partial(ours.start, ["flower"], dashboard))
            login = access.login(show_password=sys.stdout.isatty())
            wanted.tell("flower", access.as_json(), f"{access.url}  {login}")
    wanted.tell("ready", {"ready": True}, "")
    while True:
        interruption.sleep(1)
        for check in checks:
            check()


def _shown(url: str, ours: bool) -> str:
    """Return an address for people: the password of the operator's own server never, ours not into a log."""
    if ours and sys.stdout.isatty():
        return url
    return redacted(url).strip("'") + ("  (password: `vector-index addresses`)" if ours else "")


def _notify(sentence: str) -> None:
    echo(f"vector-index: {sentence}", err=True)


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the lock that allows one `up` with workers per home. Raises SettingsError."""
    with open(os.open(home / "up.lock", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"`vector-index up` is already running for the home {home}: stop it, or set VECTOR_INDEX_HOME to "
                "another folder"
            ) from None
        yield
