"""`doctor`: what a worker needs, looked at in order."""

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import click

from worker import process
from worker.cli.client import Client
from worker.configuration import Configuration, load
from worker.errors import InputError, ServiceUnreachable, SettingsError, VectorIndexError
from worker.services import attach
from worker.store import schema

MINIMUM_REDIS = (6, 2)
QUEUES = ("vector_index", "vector_index.embed", "vector_index.chat")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at; `code` is the exit code that it asks for."""

    name: str
    ok: bool
    detail: str
    code: int = 0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> int:
    """Check the settings, the services and the workers; what is wrong comes with its mend.

    Sets up the schema in Postgres as the start of a worker does.
    """
    configuration = load()
    findings = []
    for finding in _findings(configuration):
        findings.append(finding)
        if not as_json:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:<9} {finding.detail}")
    if as_json:
        checks = [asdict(finding) for finding in findings]
        click.echo(json.dumps({"ok": all(finding.ok for finding in findings), "checks": checks}))
    return max(finding.code for finding in findings)


def _findings(configuration: Configuration) -> Iterator[Finding]:
    looks: dict[str, Callable[[Configuration], str]] = {
        "settings": _settings,
        "models": _models,
        "Postgres": _postgres,
        "broker": _broker,
        "workers": _workers,
    }
    for name, look in looks.items():
        try:
            yield Finding(name=name, ok=True, detail=look(configuration))
        except VectorIndexError as error:
            code = 2 if isinstance(error, InputError | SettingsError) else 3
            yield Finding(name=name, ok=False, detail=str(error), code=code)


def _settings(configuration: Configuration) -> str:
    notices = "".join(f"; {notice}" for notice in configuration.notices)
    return (
        f"Python {platform.python_version()}, indexes {', '.join(configuration.indexes)}, "
        f"home {configuration.home}{notices}"
    )


def _models(_: Configuration) -> str:
    return ", ".join(process.check_models())


def _postgres(configuration: Configuration) -> str:
    url = configuration.database_url or attach(configuration.home, valkey=False).database_url
    return f"{_place(url)}, schema {schema.install(url)}"


def _broker(configuration: Configuration) -> str:
    client = Client(configuration)
    with client.reachable(), client.app.connection_for_read() as connection:
        info = connection.default_channel.client.info()
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_REDIS:
        raise SettingsError(f"the broker speaks Redis {version}: 6.2 or later is needed")
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        raise SettingsError(
            f"the broker may drop queued tasks: its maxmemory-policy is {info['maxmemory_policy']}, "
            "set it to noeviction"
        )
    if not info.get("aof_enabled"):
        raise SettingsError("the broker forgets queued tasks when it stops: set its appendonly to yes")
    return f"{_place(client.broker_url)}, Redis {version}, append-only file on"


def _workers(configuration: Configuration) -> str:
    nodes = Client(configuration).consumers()
    ours = {node: queues for node, queues in nodes.items() if queues & set(QUEUES)}
    unserved = set(QUEUES).difference(*ours.values())
    if unserved:
        raise ServiceUnreachable(
            f"no worker consumes {', '.join(sorted(unserved))}: start one with `vector-index up` or "
            "`vector-index worker`"
        )
    return ", ".join(sorted(ours))


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or 'local'}:{parts.port}" if parts.port else parts.hostname or parts.path
