"""`doctor`: what a worker needs, looked at in order."""

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from urllib.parse import urlsplit

import click

from worker import backends, wiring
from worker.cli.client import Client
from worker.cli.models import surroundings
from worker.configuration import (
    ChatBackendSettings,
    Configuration,
    EmbeddingBackendSettings,
    SourceSettings,
    load,
)
from worker.errors import InputError, ServiceUnreachable, SettingsError, VectorIndexError
from worker.keyspace import QUEUES
from worker.recipes import Recipe, probe
from worker.services import attach
from worker.sources import reading
from worker.store import builds, connection, outbox, schema

MINIMUM_REDIS = (6, 2)
MEMORY_SHARE = 0.8  # of the broker's maxmemory
PROMPT = "Say ok."
SHOWN_CHARACTERS = 40  # of an answer


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at; `code` is the exit code that it asks for."""

    name: str
    ok: bool
    detail: str
    code: int = 0


@click.command()
@click.option("--offline", is_flag=True, help="Send nothing to models: only look whether they are there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(offline: bool, as_json: bool) -> int:
    """Check the settings, the models, the services, the sources and the workers; what is wrong comes with its mend.

    Each backend gets one small request; a second one where the length of its vectors is not known. Sets up the schema
    in Postgres as the start of a worker does. Of a source no document is read, but a callable's module is imported.
    """
    configuration = load()
    findings = []
    for finding in _findings(configuration, offline):
        findings.append(finding)
        if not as_json:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:<17} {finding.detail}")
    if as_json:
        checks = [asdict(finding) for finding in findings]
        click.echo(json.dumps({"ok": all(finding.ok for finding in findings), "checks": checks}))
    return max(finding.code for finding in findings)


def _findings(configuration: Configuration, offline: bool) -> Iterator[Finding]:
    yield _look("settings", partial(_settings, configuration))
    plugins = _look("llm", _llm)
    yield plugins
    # after a plugin that failed to load, llm finds no model at all
    if plugins.ok:
        indexes = configuration.indexes.values()
        used = {index.embedding_backend.name: index.embedding_backend for index in indexes}
        for name, embedding in used.items():
            yield _look(f"embedding {name}", partial(_embedding, embedding, offline))
        # a question may name any of them
        for name, chat in configuration.chat_backends.items():
            yield _look(f"chat {name}", partial(_chat, chat, offline))
    postgres = _look("Postgres", partial(_postgres, configuration))
    yield postgres
    # the length of a model's vectors may have to be asked for
    if plugins.ok and postgres.ok and not offline:
        yield _look("indexes", partial(_indexes, configuration))
    if postgres.ok:
        yield _look("outbox", partial(_outbox, configuration))
    for index in configuration.indexes.values():
        if index.source is not None:
            yield _look(f"source {index.name}", partial(_source, index.source, configuration))
    yield _look("broker", partial(_broker, configuration))
    yield _look("workers", partial(_workers, configuration))


def _look(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name=name, ok=True, detail=look())
    except VectorIndexError as error:
        code = 2 if isinstance(error, InputError | SettingsError) else 3
        return Finding(name=name, ok=False, detail=str(error), code=code)


def _settings(configuration: Configuration) -> str:
    notices = "".join(f"; {notice}" for notice in configuration.notices)
    return (
        f"Python {platform.python_version()}, indexes {', '.join(configuration.indexes)}, "
        f"home {configuration.home}{notices}"
    )


def _llm() -> str:
    backends.warm_up()
    here = surroundings()
    return f"folder {here['folder']}, plugins {', '.join(here['plugins'])}"


def _embedding(settings: EmbeddingBackendSettings, offline: bool) -> str:
    backend = wiring.make_backend(settings)
    if offline:
        return f"{backend.model_id}, not asked"
    started = time.monotonic()
    probe(backend)
    seconds = time.monotonic() - started
    return f"{backend.model_id} returned a vector of length {backend.dimensions:,} in {seconds:.2f} s"


def _chat(settings: ChatBackendSettings, offline: bool) -> str:
    backend = wiring.make_chat_backend(settings)
    if offline:
        return f"{backend.model_id}, not asked"
    started = time.monotonic()
    reply = backend.reply([{"role": "user", "content": PROMPT}])
    seconds = time.monotonic() - started
    answer = " ".join(reply.text.split())[:SHOWN_CHARACTERS]
    return (
        f"{backend.model_id} answered {answer!r} in {seconds:.2f} s, {reply.input_tokens:,} tokens in and "
        f"{reply.output_tokens:,} out"
    )


def _postgres(configuration: Configuration) -> str:
    url = _database_url(configuration)
    return f"{_place(url)}, schema {schema.install(url)}"


def _indexes(configuration: Configuration) -> str:
    """Compared with what each index holds; raises SettingsError for another model or length."""
    found = []
    for name, index in configuration.indexes.items():
        with connection.checkout(_database_url(configuration)) as conn:
            live = builds.live(conn, name)
        if live is not None:
            recipe = Recipe.stored(live.recipe)
            recipe.check(name, wiring.make_backend(index.embedding_backend))
            found.append(f"{name} of {recipe.model}")
    return ", ".join(found) or "none holds documents yet"


def _outbox(configuration: Configuration) -> str:
    """What applications enqueued in their own transactions; raises SettingsError where nobody will ever take it."""
    known = list(configuration.indexes)
    with connection.checkout(_database_url(configuration)) as conn:
        strangers = outbox.strangers(conn, known)
        figures = [outbox.figures(conn, name) for name in known]
    if strangers:
        rows = ", ".join(f"{count:,} rows for {name!r:.100}" for name, count in strangers.items())
        raise SettingsError(
            f"nobody takes {rows}: the settings have no such index; add it to INDEXES, or remove the rows with "
            "`vector-index drop`"
        )
    waiting, rejected = (sum(figure[key] for figure in figures) for key in ("waiting", "rejected"))
    oldest = max(figure["oldest_seconds"] for figure in figures)
    return f"{waiting:,} rows wait, the oldest for {oldest:.0f} s; {rejected:,} cannot be staged"


def _source(settings: SourceSettings, configuration: Configuration) -> str:
    """Whether a reading can begin; none of its documents is read."""
    source = wiring.make_source(settings, configuration, partial(_database_url, configuration))
    said = reading.check(source, settings.name)
    return (
        f"{settings.name}: {said or f'{settings.class_path} has no check; a run will show whether it works'}"
    )


def _database_url(configuration: Configuration) -> str:
    return configuration.database_url or attach(configuration.home, valkey=False).database_url


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
    if info["used_memory"] > MEMORY_SHARE * (info.get("maxmemory") or sys.maxsize):
        share = info["used_memory"] / info["maxmemory"]
        raise SettingsError(
            f"the broker's memory is {share:.0%} full, and a full one takes no new work: raise its maxmemory "
            f"({info['maxmemory']:,} bytes), or start workers for what waits there"
        )
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
