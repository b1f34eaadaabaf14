"""What a worker process holds: its addresses, its backends and its drainers, each made once."""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from worker import backends, configuration, services
from worker.backends.budgets import CHAT_BURST, Budget
from worker.configuration import (
    ChatBackendSettings,
    Configuration,
    EmbeddingBackendSettings,
    IndexSettings,
    SourceSettings,
)
from worker.errors import InvalidQuery, SettingsError
from worker.index import Index
from worker.indexing.draining.drainer import Drainer
from worker.protocols import ChatBackend, EmbeddingBackend, Source
from worker.services import Addresses
from worker.store import connection, schedule, schema

P = ParamSpec("P")
T = TypeVar("T")

# what a backend's class does not need to know: the drainer and the budget look after these
NOT_FOR_BACKENDS = ("class_path", "concurrency", "requests_per_minute", "tokens_per_minute")

_making = threading.RLock()


def once_per_process(make: Callable[P, T]) -> Callable[P, T]:
    """Cache by arguments and process id: a forked child makes its own, and threads wait for the first."""
    made: dict[tuple[object, ...], T] = {}

    @wraps(make)
    def get(*args: P.args, **kwargs: P.kwargs) -> T:
        key = (os.getpid(), *args, *kwargs.items())
        with _making:
            if key not in made:
                made[key] = make(*args, **kwargs)
            return made[key]

    return get


@once_per_process
def addresses() -> Addresses:
    """Postgres and the broker: as configured, else those of the home. Raises ServiceUnreachable."""
    settings = configuration.current()
    return services.locate(settings.home, database_url=settings.database_url, broker_url=settings.broker_url)


def result_backend() -> str:
    """Where results and streamed answers go."""
    return configuration.current().result_backend or addresses().broker_url


def index(name: str) -> Index:
    """An index of the settings. Raises UnknownIndex, SettingsError."""
    settings = configuration.current().index(name)
    backend = settings.embedding_backend.name
    return Index(
        url=addresses().database_url,
        settings=settings,
        backend=embedding_backend(backend),
        budget=embedding_budget(backend),
    )


@once_per_process
def embedding_backend(name: str) -> EmbeddingBackend:
    """The embedding backend of that name. Raises SettingsError."""
    return make_backend(configuration.current().embedding_backends[name])


@once_per_process
def embedding_budget(name: str) -> Budget:
    """The limits of the embedding backend of that name, which all processes share."""
    settings = configuration.current().embedding_backends[name]
    return Budget(
        addresses().broker_url,
        f"embedding:{name}",
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
    )


def chat_budget(index: IndexSettings, name: str | None = None) -> Budget:
    """The limits of the chat backend of that name, or of the index, which all processes share."""
    return _chat_budget(name or index.chat_backend.name)


@once_per_process
def _chat_budget(name: str) -> Budget:
    settings = configuration.current().chat_backends[name]
    return Budget(
        addresses().broker_url,
        f"chat:{name}",
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        burst=CHAT_BURST,
    )


def make_backend(settings: EmbeddingBackendSettings) -> EmbeddingBackend:
    """A new backend of the settings' CLASS. Raises SettingsError."""
    made: EmbeddingBackend = _made(settings)
    return made


def chat_backend(index: IndexSettings, name: object = None) -> ChatBackend:
    """The chat backend of that name, or of the index. Raises InvalidQuery, SettingsError."""
    known = configuration.current().chat_backends
    if name is None:
        name = index.chat_backend.name
    elif not isinstance(name, str) or name not in known:
        raise InvalidQuery(
            f"there is no chat_backend {name!r:.100}: the settings have {', '.join(sorted(known))}"
        )
    return _chat_backend(str(name))


@once_per_process
def _chat_backend(name: str) -> ChatBackend:
    return make_chat_backend(configuration.current().chat_backends[name])


def make_chat_backend(settings: ChatBackendSettings) -> ChatBackend:
    """A new chat backend of the settings' CLASS. Raises SettingsError."""
    made: ChatBackend = _made(settings)
    return made


def _made(settings: EmbeddingBackendSettings | ChatBackendSettings) -> Any:
    backends.load_plugins()
    keywords = {key: value for key, value in asdict(settings).items() if key not in NOT_FOR_BACKENDS}
    made = backends.load_class(settings.class_path)
    try:
        signature(made).bind(**keywords)
    except TypeError as error:
        raise SettingsError(
            f"CLASS {settings.class_path!r} of backend {settings.name!r} cannot be made ({error}): let its "
            f"__init__ take {', '.join(keywords)}, or **_ for those that it does not use"
        ) from error
    return made(**keywords)


def source(index: str) -> Source:
    """The source of an index. Raises UnknownIndex, SettingsError."""
    settings = configuration.current().index(index).source
    if settings is None:
        raise SettingsError(
            f'index {index!r} has no source to be read again: name an entry of VECTOR_INDEX["SOURCES"] as its SOURCE'
        )
    return make_source(settings, configuration.current(), lambda: addresses().database_url)


def make_source(settings: SourceSettings, known: Configuration, database_url: Callable[[], str]) -> Source:
    """A new source of the settings' CLASS. Raises SettingsError."""
    keywords = {str(key).lower(): value for key, value in settings.config.items() if value is not None}
    made = backends.load_class(settings.class_path)
    offered: dict[str, Callable[[], object]] = {
        "DATABASE_URL": database_url,
        "MAX_DOCUMENT_BYTES": lambda: known.max_document_bytes,
        "SETTINGS_FOLDER": lambda: str(known.folder),
    }
    for key, setting in getattr(made, "defaults_from_settings", {}).items():
        if setting not in offered:
            raise SettingsError(
                f"defaults_from_settings of {settings.class_path} names {setting!r:.100}: choose {', '.join(offered)}"
            )
        if key not in keywords:
            keywords[key] = offered[setting]()
    where = f'VECTOR_INDEX["SOURCES"]["{settings.name}"]["CONFIG"]'
    try:
        signature(made).bind(**keywords)
    except TypeError as error:
        names = ", ".join(map(str.upper, signature(made).parameters))
        raise SettingsError(
            f"{where} does not fit {settings.class_path} ({error}): its keys are {names}"
        ) from error
    found: Source = made(**keywords)
    return found


def check_sources() -> None:
    """Make the source of every index, which connects to nothing. Raises SettingsError for the first that cannot be."""
    for name, settings in configuration.current().indexes.items():
        if settings.source is not None:
            source(name)


def used_embedding_backends() -> list[EmbeddingBackendSettings]:
    """Those that some index uses, each once."""
    indexes = configuration.current().indexes.values()
    return list({index.embedding_backend.name: index.embedding_backend for index in indexes}.values())


def schedules() -> dict[str, str]:
    """The indexes that are read again by themselves, each with its SCHEDULE."""
    indexes = configuration.current().indexes.items()
    return {name: str(index.schedule) for name, index in indexes if index.schedule is not None}


def take_over_schedules() -> None:
    """Install the schema, and make the schedules those of the settings. Raises SettingsError, ServiceUnreachable."""
    url = addresses().database_url
    schema.install(url)
    with connection.checkout(url) as conn:
        indexes = configuration.current().indexes
        schedule.sync(conn, dict.fromkeys(indexes) | schedules(), configuration.current().timezone)


def prepare() -> Sequence[str]:
    """Check what every worker needs: the settings, Postgres with its schema, llm and its plugins.

    Returns sentences that an operator should see. Raises SettingsError or ServiceUnreachable, before any job is taken.
    """
    take_over_schedules()
    check_sources()
    check_models()
    return configuration.current().notices


def check_models() -> Sequence[str]:
    """Make the backends of all indexes; their models. Raises SettingsError for the first that cannot be made."""
    embedding = [embedding_backend(settings.name).model_id for settings in used_embedding_backends()]
    chat = [chat_backend(index).model_id for index in configuration.current().indexes.values()]
    return list(dict.fromkeys(embedding + chat))


def measured() -> tuple[list[str], list[str], list[str]]:
    """What metrics are of, by the names that they carry: indexes, embedding backends, chat backends."""
    settings = configuration.current()
    embedding = [embedding_budget(used.name).name for used in used_embedding_backends()]
    return list(settings.indexes), embedding, [f"chat:{name}" for name in settings.chat_backends]


def drainers() -> list[Drainer]:
    """One for each embedding backend in use, not yet started."""
    url = addresses().database_url
    return [
        Drainer(url, settings, embedding_backend(settings.name), embedding_budget(settings.name))
        for settings in used_embedding_backends()
    ]
