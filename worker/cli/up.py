"""`up`: everything in the foreground, on one machine."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import click

from worker.celery import startup_checks
from worker.celery.broker_errors import check_login
from worker.cli.client import Client
from worker.cli.flower import Access
from worker.cli.interruption import Interruption
from worker.cli.options import loglevel_option
from worker.cli.pools import POOLS, UP_POOLS
from worker.cli.streams import echo, print_json
from worker.cli.supervision import Supervisor, command_line
from worker.configuration import Configuration, environment, load
from worker.configuration.addresses import redacted
from worker.errors import SettingsError
from worker.services import running
from worker.store import schema


@click.command()
@click.option("--services-only", is_flag=True, help="Start only Postgres and Valkey.")
@loglevel_option("WARNING")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per service.")
def up(services_only: bool, loglevel: str, as_json: bool) -> None:
    """Start everything: Postgres, Valkey, workers, beat and Flower.

    Prints each address, then `ready`, and runs until Ctrl-C or SIGTERM. Data, ports and passwords stay in
    VECTOR_INDEX_HOME, so the addresses are the same at every start. A terminal and --json get the passwords too; a
    log does not, and `vector-index addresses` prints them. Set DATABASE_URL or BROKER_URL to use your own server
    instead of an embedded one. A process that dies is restarted.
    """
    configuration = load()
    for notice in configuration.notices:
        _notify(notice)
    for setting, url in (
        ("BROKER_URL", configuration.broker_url),
        ("RESULT_BACKEND", configuration.result_backend),
    ):
        if url:
            check_login(setting, url)
    if not services_only:
        startup_checks.check_models()  # reports a wrong model once, before anything starts, and not from each worker
    interruption = Interruption()
    interruption.install()
    try:
        with ExitStack() as stack:
            _run(stack, configuration, interruption, services_only, loglevel=loglevel, as_json=as_json)
    except KeyboardInterrupt:
        return


def _run(
    stack: ExitStack,
    configuration: Configuration,
    interruption: Interruption,
    services_only: bool,
    *,
    loglevel: str,
    as_json: bool,
) -> None:
    """Start everything in order and supervise it; the stack stops it in reverse order."""
    embedded = {"postgres": not configuration.database_url, "valkey": not configuration.broker_url}
    services = stack.enter_context(running(configuration.home, **embedded, check=interruption.check))
    if not services_only:
        stack.enter_context(_only_one(services.home))
    urls = {
        "DATABASE_URL": services.addresses.database_url or configuration.database_url,
        "BROKER_URL": services.addresses.broker_url or configuration.broker_url,
    }
    for (setting, url), (name, ours) in zip(urls.items(), embedded.items(), strict=True):
        _print(as_json, name, {setting: url}, _shown(url, ours))
    checks: list[Callable[[], object]] = [interruption.check, services.check]
    if not services_only:
        schema.install(urls["DATABASE_URL"])  # each worker does this too: here an error is reported once
        commands = {name: ["worker", "--queues", name, "--loglevel", loglevel] for name in UP_POOLS}
        ports = _metrics_ports(configuration.metrics_port)
        for name, port in ports.items():
            commands[name] += ["--metrics-port", str(port)]
        commands["beat"] = ["beat", "--loglevel", loglevel]
        variables = {**environment(), **urls}
        if find_spec("flower"):
            access = Access.of(services.home)
            access.check_port()
            commands["flower"] = ["flower"]
            variables |= access.variables() | {"FLOWER_LOGGING": "error"}
        programs = {name: command_line(arguments) for name, arguments in commands.items()}
        supervisor = stack.enter_context(Supervisor(programs, variables, notify=_notify))
        checks.append(supervisor.check)
        Client(load(variables)).await_consumers(POOLS["all"].queues, checks)
        for name, port in ports.items():
            url = f"http://{configuration.metrics_address}:{port}/metrics"
            _print(as_json, "metrics", {f"METRICS_URL_{name.upper()}": url}, f"{url}  {name}")
        if "flower" in commands:
            login = access.login(show_password=sys.stdout.isatty())
            _print(as_json, "flower", access.as_json(), f"{access.url}  {login}")
    _print(as_json, "ready", {"ready": True}, "")
    while True:
        interruption.sleep(1)
        for check in checks:
            check()


def _metrics_ports(first: int | None) -> dict[str, int]:
    """Return a port per worker process, counted up from METRICS_PORT."""
    return {} if first is None else {name: first + offset for offset, name in enumerate(UP_POOLS)}


def _shown(url: str, ours: bool) -> str:
    """Return an address for people: the password of the operator's own server never, ours not into a log."""
    if ours and sys.stdout.isatty():
        return url
    return redacted(url).strip("'") + ("  (password: `vector-index addresses`)" if ours else "")


def _notify(sentence: str) -> None:
    echo(f"vector-index: {sentence}", err=True)


def _print(as_json: bool, name: str, values: Mapping[str, object], text: str) -> None:
    if as_json:
        print_json(values)
    else:
        echo(f"{name:<9} {text}".rstrip())


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
