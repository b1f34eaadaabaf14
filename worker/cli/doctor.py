"""`doctor`: check everything that a worker needs, in order."""

import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from urllib.parse import urlsplit

import click

from worker import backends, wiring
from worker.backends.redaction import redact
from worker.celery.upstream import registry
from worker.chat import replies
from worker.cli.client import Client
from worker.cli.models import llm_installation
from worker.cli.options import json_option
from worker.cli.output import counted
from worker.cli.streams import echo, print_json
from worker.configuration import (
    ChatBackendSettings,
    Configuration,
    EmbeddingBackendSettings,
    RerankBackendSettings,
    SourceSettings,
    load,
)
from worker.errors import InputError, ServiceUnreachable, SettingsError, VectorIndexError
from worker.exit_codes import ExitCode
from worker.indexing import drift
from worker.keyspace import QUEUES
from worker.protocols import EmbeddingBackend
from worker.recipes import Recipe, most_inputs, probe
from worker.services import attach
from worker.sources import reading
from worker.store import builds, connection, languages, outbox, schema, spelling

MINIMUM_REDIS = (6, 2)
MAX_MEMORY_SHARE = 0.8  # of the broker's maxmemory
MOST_WORDS = 256  # that a check sends in one request
WORD_TOKENS = 8  # of a word in a request of BATCH_SIZE words, at most
PROMPT = "Say ok."
SHOWN_CHARACTERS = 40  # of an answer
MAX_LANGUAGES = 5  # unknown ones that are shown


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The result of one check."""

    name: str
    ok: bool
    detail: str  # the facts if it is ok, else the problem and its fix
    code: ExitCode = ExitCode.DONE  # exit code that it asks for


@click.command()
@click.option(
    "--offline", is_flag=True, help="Send no request to models; check only that they are installed."
)
@json_option
def doctor(offline: bool, as_json: bool) -> ExitCode:
    """Diagnose settings, models, services, sources and workers.

    Prints a line per check, with the fix for each problem. Sends one small request to each backend, or two if the
    length of its vectors is unknown, and one of BATCH_SIZE words, at most 256, to each embedding backend. Creates the
    schema in Postgres if it is missing, as a worker does. Reads no document of a source, but imports a callable's
    module. Exit code 2: wrong settings; 3: a service is unreachable.
    """
    configuration = load()
    found = []
    for diagnosis in diagnoses(configuration, offline):
        found.append(diagnosis)
        if not as_json:
            echo(f"{'ok  ' if diagnosis.ok else 'FAIL'}  {diagnosis.name:<17} {diagnosis.detail}")
    if as_json:
        checks = [asdict(diagnosis) for diagnosis in found]
        print_json({"ok": all(diagnosis.ok for diagnosis in found), "checks": checks})
    return max(diagnosis.code for diagnosis in found)


def diagnoses(configuration: Configuration, offline: bool) -> Iterator[Diagnosis]:
    """Run the checks in order. A check that depends on a failed one is left out."""
    yield _diagnose("settings", partial(_settings, configuration))
    yield _diagnose("libraries", _libraries)
    plugins = _diagnose("llm", _llm)
    yield plugins
    # when a plugin fails to load, llm finds no model at all
    if plugins.ok:
        indexes = configuration.indexes.values()
        used = {index.embedding_backend.name: index.embedding_backend for index in indexes}
        for name, embedding in used.items():
            yield _diagnose(f"embedding {name}", partial(_embedding, embedding, offline))
        # tasks.chat may name any of them
        for name, chat in configuration.chat_backends.items():
            yield _diagnose(f"chat {name}", partial(_chat, chat, offline))
        for name, rerank in configuration.rerank_backends.items():
            yield _diagnose(f"rerank {name}", partial(_rerank, rerank, offline))
    postgres = _diagnose("Postgres", partial(_postgres, configuration))
    yield postgres
    # comparing the length of vectors may take a request to the model
    if plugins.ok and postgres.ok and not offline:
        yield _diagnose("indexes", partial(_indexes, configuration))
    if postgres.ok:
        yield _diagnose("words", partial(_words, configuration))
        yield _diagnose("outbox", partial(_outbox, configuration))
    for index in configuration.indexes.values():
        if index.source is not None:
            yield _diagnose(f"source {index.name}", partial(_source, index.source, configuration))
    yield _diagnose("broker", partial(check_broker, configuration))
    yield _diagnose("workers", partial(_workers, configuration))


def _diagnose(name: str, check: Callable[[], str]) -> Diagnosis:
    try:
        return Diagnosis(name=name, ok=True, detail=check())
    except VectorIndexError as error:
        is_input = isinstance(error, InputError | SettingsError)
        code = ExitCode.REFUSED if is_input else ExitCode.UNREACHABLE
        return Diagnosis(name=name, ok=False, detail=str(error), code=code)
    except Exception as error:  # noqa: BLE001 - of a library, or of a class of your own: the other checks go on
        detail = f"{type(error).__name__}: {redact(str(error))}"
        return Diagnosis(name=name, ok=False, detail=detail, code=ExitCode.REFUSED)


def _settings(configuration: Configuration) -> str:
    notices = "".join(f"; {notice}" for notice in configuration.notices)
    return (
        f"Python {platform.python_version()}, indexes {', '.join(configuration.indexes)}, "
        f"home {configuration.home}{notices}"
    )


def _libraries() -> str:
    registry.install()
    return "; ".join(registry.check()) or registry.verified()


def _llm() -> str:
    backends.load_plugins()
    installation = llm_installation()
    return f"folder {installation['folder']}, plugins {', '.join(installation['plugins'])}"


def _embedding(settings: EmbeddingBackendSettings, offline: bool) -> str:
    backend = wiring.make_backend(settings)
    if offline:
        return f"{backend.model_id}, no request sent"
    started = time.monotonic()
    probe(backend)
    seconds = time.monotonic() - started
    found = f"{backend.model_id} returned a vector of length {backend.dimensions:,} in {seconds:.2f} s"
    return found + _batch_size(backend)


def _batch_size(backend: EmbeddingBackend) -> str:
    """Try a request of BATCH_SIZE words, and suggest fewer if the provider refuses them."""
    wanted = max(1, min(backend.batch_size, MOST_WORDS, backend.batch_token_limit // WORD_TOKENS))
    try:
        taken = most_inputs(backend.embed, wanted=wanted)
    except VectorIndexError:  # a rate limit, such as one of a trial: the word before was answered
        return ""
    if taken == wanted:
        return ""
    return f"; it refuses {counted(wanted, 'input')} in a request: set BATCH_SIZE to {taken}"


def _chat(settings: ChatBackendSettings, offline: bool) -> str:
    backend = wiring.make_chat_backend(settings)
    fallback = f"; FALLBACK is {settings.fallback!r}" if settings.fallback else ""
    if offline:
        return f"{backend.model_id}, no request sent{fallback}"
    started = time.monotonic()
    reply = replies.read(backend.reply([{"role": "user", "content": PROMPT}]), backend.model_id)
    seconds = time.monotonic() - started
    text = " ".join(reply.text.split())
    answer = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    return (
        f"{backend.model_id} answered {answer!r} in {seconds:.2f} s, {reply.input_tokens:,} input tokens and "
        f"{reply.output_tokens:,} output tokens{fallback}"
    )


def _rerank(settings: RerankBackendSettings, offline: bool) -> str:
    backend = wiring.make_rerank_backend(settings)
    if offline:
        return f"{backend.model_id}, no request sent"
    started = time.monotonic()
    scores = backend.rerank("Is it here?", ["It is here.", "Rain falls."])
    seconds = time.monotonic() - started
    return f"{backend.model_id} scored {len(scores)} passages in {seconds:.2f} s"


def _postgres(configuration: Configuration) -> str:
    url = _database_url(configuration)
    return f"{_place(url)}, schema version {schema.install(url)}"


def _indexes(configuration: Configuration) -> str:
    """Compare each index with its settings. Raises SettingsError for a model that an index needs and nobody has."""
    found = []
    for name in configuration.indexes:
        with connection.checkout(_database_url(configuration)) as conn:
            live = builds.live(conn, name)
        if live is not None:
            recipe = Recipe.stored(live.recipe)
            target = wiring.index(name)
            if not recipe.is_made_by(target.backend):
                probe(wiring.remembered(target, live).backend)
            differences = [str(difference) for difference in drift.find(target, live)]
            found.append(
                drift.sentence(name, differences) if differences else f"{name} has vectors of {recipe.model}"
            )
    return ", ".join(found) or "no index has documents yet"


def _words(configuration: Configuration) -> str:
    with connection.checkout(_database_url(configuration)) as conn:
        kept = check_words(
            conn, {index.language for index in configuration.indexes.values() if index.language}
        )
        return "; ".join([kept, *_unknown_languages(conn, configuration.indexes)])


def _unknown_languages(conn: connection.Connection, indexes: Iterable[str]) -> Iterator[str]:
    """Say of each index which unknown languages its documents name."""
    for name in indexes:
        live = builds.live(conn, name)
        if live is not None and (unknown := languages.named(conn, live)[1]):
            shown = ", ".join(f"{value!r:.40}" for value in list(unknown)[:MAX_LANGUAGES])
            yield (
                f"{counted(sum(unknown.values()), 'document')} of {name} name an unknown language in "
                f"{live.language_field!r} ({shown}) and have LANGUAGE {live.language!r}: use codes such as 'de'"
            )


def check_words(conn: connection.Connection, configurations: Iterable[str]) -> str:
    """Check that Postgres takes each word as the index spells it. Raises SettingsError."""
    configurations = sorted(configurations)
    for language in dict.fromkeys(["simple", *configurations]):
        if misread := spelling.misread(conn, language):
            fix = (
                "create the database with LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' TEMPLATE template0"
                if language == "simple"
                else f"set LANGUAGE to simple, or map every type of token of {language} to a dictionary"
            )
            raise SettingsError(
                f"the text search configuration {language} drops or parts the words {', '.join(misread)}, so search "
                f"misses words of their kind: {fix}"
            )
    return f"kept whole by {', '.join(configurations)}"


def _outbox(configuration: Configuration) -> str:
    """Count the changes that applications enqueued. Raises SettingsError for rows of an index that is not set."""
    known = list(configuration.indexes)
    with connection.checkout(_database_url(configuration)) as conn:
        strangers = outbox.rows_of_unknown_indexes(conn, known)
        figures = [outbox.counts(conn, name) for name in known]
    if strangers:
        rows = ", ".join(f"{counted(count, 'row')} for {name!r:.100}" for name, count in strangers.items())
        raise SettingsError(
            f"the outbox has {rows}, and the settings have no such index: add it to INDEXES, or delete the rows "
            "with `vector-index drop`"
        )
    waiting, rejected = (sum(figure[key] for figure in figures) for key in ("waiting", "rejected"))
    oldest = max(figure["oldest_seconds"] for figure in figures)
    age = f", the oldest for {oldest:.0f} s" if waiting else ""
    return f"{counted(waiting, 'row')} pending{age}; {counted(rejected, 'row')} rejected"


def _source(settings: SourceSettings, configuration: Configuration) -> str:
    """Check that the source can be read, without reading a document."""
    source = wiring.make_source(settings, configuration, partial(_database_url, configuration))
    facts = (
        reading.check(source, settings.name)
        or f"{settings.class_path} has no check: the first sync will show whether it works"
    )
    return f"{settings.name}: {facts}"


def _database_url(configuration: Configuration) -> str:
    return configuration.database_url or attach(configuration.home, valkey=False).database_url


def check_broker(configuration: Configuration) -> str:
    """Check that the broker keeps queued tasks. Raises SettingsError."""
    client = Client(configuration)
    with client.reachable(), client.app.connection_for_read() as connection:
        info = connection.default_channel.client.info()
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_REDIS:
        raise SettingsError(f"the broker is Redis {version}: upgrade it to 6.2 or later")
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        raise SettingsError(
            f"the broker may evict queued tasks: its maxmemory-policy is {info['maxmemory_policy']}; "
            "set it to noeviction"
        )
    if not info.get("aof_enabled"):
        raise SettingsError("the broker loses queued tasks when it stops: set its appendonly to yes")
    if info["used_memory"] > MAX_MEMORY_SHARE * (info.get("maxmemory") or sys.maxsize):
        share = info["used_memory"] / info["maxmemory"]
        raise SettingsError(
            f"the broker uses {share:.0%} of its maxmemory, and refuses new tasks at 100%: raise maxmemory "
            f"({info['maxmemory']:,} bytes), or start workers that drain its queues"
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
