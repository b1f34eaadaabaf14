"""`up`, `worker`, `beat`, `flower`: the processes that do the work."""

import fcntl
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from worker.celery import startup
from worker.cli.client import Client
from worker.cli.interruption import Interruption
from worker.cli.monitor import Monitor, check_port, complete
from worker.cli.supervision import Supervisor
from worker.configuration import Configuration, environment, load
from worker.configuration.addresses import redacted
from worker.errors import ServiceUnreachable, SettingsError
from worker.keyspace import CHAT, EMBED, QUEUES, STAGING
from worker.services import running
from worker.store import schema


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How a worker process serves its queues."""

    queues: Sequence[str]
    kind: str  # of Celery's pools
    concurrency: int | None  # threads or processes; None: one per core


# Staging parses and hashes, on cores; the others wait for a provider or for Postgres, in threads.
# `processes` is Celery's prefork: `--pool prefork` Celery takes for not given, and the app's own setting wins.
POOLS = {
    "staging": Pool(queues=[STAGING], kind="processes", concurrency=None),
    "embed": Pool(queues=[EMBED], kind="threads", concurrency=64),
    "chat": Pool(queues=[CHAT], kind="threads", concurrency=16),
    "all": Pool(queues=QUEUES, kind="threads", concurrency=64),
}
PROCESSES = ("staging", "embed", "chat")  # of `up`: a backlog must not delay an answer

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
READY_SECONDS = 60

loglevel_option = click.option(
    "--loglevel", type=click.Choice(LEVELS, case_sensitive=False), default="INFO", show_default=True
)


@click.command()
@click.option(
    "--queues", type=click.Choice(tuple(POOLS)), default="all", show_default=True, help="What to serve."
)
@click.option("--concurrency", type=click.IntRange(1), help="Threads or processes.")
@click.option(
    "--name", help="Name of this process on its machine; needed for a second one of the same queues."
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Port of its Prometheus metrics.  [default: METRICS_PORT]",
)
@loglevel_option
def worker(
    queues: str, concurrency: int | None, name: str | None, metrics_port: int | None, loglevel: str
) -> int:
    """Run one worker process: staging, embed, chat, or all in one.

    Documents are staged in processes (one per core), requests are made in threads. SIGTERM lets running tasks
    finish.
    """
    if metrics_port:
        environment()["METRICS_PORT"] = str(metrics_port)
    pool = POOLS[queues]
    arguments = ["--queues", ",".join(pool.queues), "--pool", pool.kind, "--hostname", f"{name or queues}@%h"]
    arguments += ["--concurrency", str(concurrency or pool.concurrency or os.cpu_count() or 1)]
    # gossip and mingle talk to every other worker and delay the start; nothing here needs them
    return _celery("worker", *arguments, "--loglevel", loglevel, "--without-gossip", "--without-mingle")


@click.command()
@loglevel_option
def beat(loglevel: str) -> int:
    """Run the process that sends what is due; a second one is harmless.

    Due times stand in Postgres: nothing is written here.
    """
    return _celery("beat", "--scheduler", "celery.beat:Scheduler", "--loglevel", loglevel)


@click.command()
@click.option("--address", help="To listen on.  [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="To listen on.  [default: the one kept in the home]"
)
def flower(address: str | None, port: int | None) -> int:
    """Run Flower, the monitor of tasks and workers.

    Its options are also read from FLOWER_* variables. Without FLOWER_BASIC_AUTH (user:password) or FLOWER_AUTH
    the password is the one kept in the home, made and printed at the first start.
    """
    if not find_spec("flower"):
        raise SettingsError('Flower is not installed: pip install "vector-index-worker[flower]"')
    variables = environment()
    given = {"FLOWER_ADDRESS": address, "FLOWER_PORT": port and str(port)}
    variables.update({key: value for key, value in given.items() if value})
    opens = complete(variables, load().home)
    try:
        check_port(variables)
        click.echo(opens)
        return _celery("flower")
    except OSError as error:
        where = f"{variables['FLOWER_ADDRESS']}:{variables['FLOWER_PORT']}"
        raise SettingsError(
            f"Flower cannot listen on {where} ({error.strerror}): end the program that does, or give another "
            "--address or --port"
        ) from error
    except ValueError as error:
        raise SettingsError(f"a FLOWER_* variable has a wrong value ({error}): mend or unset it") from error


@click.command()
@click.option("--services-only", is_flag=True, help="Start just Postgres and Valkey.")
@click.option(
    "--loglevel", type=click.Choice(LEVELS, case_sensitive=False), default="WARNING", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per service.")
def up(services_only: bool, loglevel: str, as_json: bool) -> None:
    """Run everything in the foreground, until Ctrl-C or SIGTERM.

    The embedded Postgres and Valkey (unless DATABASE_URL or BROKER_URL is set), three worker processes, the
    beat and Flower, on the same ports at every start. A process that dies is started again.
    """
    configuration = load()
    for notice in configuration.notices:
        _say(notice)
    if not services_only:
        startup.check_models()  # told once and before anything starts, not by each worker
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
    """Start in order and watch; the stack stops in the reverse order."""
    own = {"postgres": not configuration.database_url, "valkey": not configuration.broker_url}
    services = stack.enter_context(running(configuration.home, **own, check=interruption.check))
    if not services_only:
        stack.enter_context(_alone(services.home))
    found = {
        "DATABASE_URL": services.addresses.database_url or configuration.database_url,
        "BROKER_URL": services.addresses.broker_url or configuration.broker_url,
    }
    for (setting, url), (name, embedded) in zip(found.items(), own.items(), strict=True):
        # the address of a server that is not ours was set by the operator, with a password of theirs
        _tell(as_json, name, {setting: url}, url if embedded else redacted(url).strip("'"))
    check = [interruption.check, services.check]
    if not services_only:
        schema.install(found["DATABASE_URL"])  # as each worker does: what is wrong is told once
        commands = {name: ["worker", "--queues", name, "--loglevel", loglevel] for name in PROCESSES}
        ports = metrics_ports(configuration.metrics_port)
        for name, port in ports.items():
            commands[name] += ["--metrics-port", str(port)]
        commands["beat"] = ["beat", "--loglevel", loglevel]
        variables = {**environment(), **found}
        if find_spec("flower"):
            monitor = Monitor.of(services.home)
            monitor.check_port()
            commands["flower"] = ["flower"]
            variables |= monitor.variables() | {"FLOWER_LOGGING": "error"}
        programs = {name: command_line(arguments) for name, arguments in commands.items()}
        supervisor = stack.enter_context(Supervisor(programs, variables, say=_say))
        check.append(supervisor.check)
        await_workers(load(variables), check)
        for name, port in ports.items():
            url = f"http://{configuration.metrics_address}:{port}/metrics"
            _tell(as_json, "metrics", {f"METRICS_URL_{name.upper()}": url}, f"{url}  {name}")
        if "flower" in commands:
            _tell(as_json, "flower", monitor.as_json(), f"{monitor.url}  {monitor.who}")
    click.echo(json.dumps({"ready": True}) if as_json else "ready")
    while True:
        interruption.sleep(1)
        for function in check:
            function()


def metrics_ports(first: int | None) -> dict[str, int]:
    """Of the worker processes of `up`, which are on one machine: METRICS_PORT and those behind it."""
    return {} if first is None else {name: first + at for at, name in enumerate(PROCESSES)}


def _say(sentence: str) -> None:
    click.echo(f"vector-index: {sentence}", err=True)


def _tell(as_json: bool, name: str, values: Mapping[str, str], shown: str) -> None:
    click.echo(json.dumps(values) if as_json else f"{name:<9} {shown}")


def command_line(arguments: Sequence[str]) -> list[str]:
    """A command of ours as a program of its own."""
    # -P: a folder's own worker.py is not ours
    return [sys.executable, "-P", "-m", "worker.cli", *arguments]


def await_workers(configuration: Configuration, check: Sequence[Any]) -> None:
    """Return when a worker consumes each queue. Raises ServiceUnreachable, or what `check` raises."""
    client = Client(configuration)
    wanted = set(POOLS["all"].queues)
    deadline = time.monotonic() + READY_SECONDS
    while not wanted <= set().union(*client.consumers(timeout_seconds=0.5).values()):
        if time.monotonic() > deadline:
            raise ServiceUnreachable(
                f"the workers are not ready after {READY_SECONDS} s: see what they said above"
            )
        for function in check:
            function()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One `up` with workers per home. Raises SettingsError."""
    with open(os.open(home / "up.lock", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"`vector-index up` runs for the home {home} already: stop that one, or set VECTOR_INDEX_HOME"
            ) from None
        yield


def _celery(command: str, *arguments: str) -> int:
    """Run a command of Celery on our app; ours is imported first, whatever modules the folder has."""
    load()  # a mistake in the settings is told before anything of Celery is imported
    _import_tasks()
    # as root: the danger it tells of is pickle, which our workers refuse
    warnings.filterwarnings("ignore", message="You're running the worker with superuser")
    app = import_module("worker.celery.application").app
    return int(app.start(["--quiet", command, *arguments]) or 0)


def _import_tasks() -> None:
    """Import our `tasks` before Celery, which looks into the working folder first. Raises SettingsError."""
    spec = find_spec("tasks")
    ours = Path(__file__).parents[2] / "tasks" / "__init__.py"
    if spec is None or spec.origin != str(ours):
        raise SettingsError(
            f"the module `tasks` is {spec.origin if spec else 'missing'}, not {ours}: take the folder of the "
            "former out of PYTHONPATH, or install vector-index-worker into an environment of its own"
        )
    import_module("tasks")
