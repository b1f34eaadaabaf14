"""Make things from the settings, once per process: addresses, indexes, backends, budgets, sources."""

import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel

from worker import backends, configuration, services
from worker.backends.budgets import CHAT_BURST, Budget
from worker.backends.redaction import redact
from worker.backends.remembered import RememberedBackend
from worker.chat.schemas import check_schema
from worker.chat.sending import ChatModel
from worker.configuration import (
    ChatBackendSettings,
    Configuration,
    EmbeddingBackendSettings,
    IndexSettings,
    RerankBackendSettings,
    SourceSettings,
)
from worker.documents import digest
from worker.errors import InvalidQuery, SettingsError, VectorIndexError, described
from worker.index import Embedder, Index
from worker.indexing.waiting import JobWatcher
from worker.protocols import ChatBackend, EmbeddingBackend, RerankBackend, Source
from worker.recipes import Recipe
from worker.search.reranking import Reranker
from worker.services import Addresses
from worker.store import builds, connection
from worker.store.builds import Build

P = ParamSpec("P")
T = TypeVar("T")

BackendSettings = EmbeddingBackendSettings | ChatBackendSettings | RerankBackendSettings

# settings for drainers, budgets and chats; the class of a backend does not get them
NOT_FOR_BACKENDS = (
    "class_path",
    "concurrency",
    "fallback",
    "follow_up",
    "requests_per_minute",
    "tokens_per_minute",
)

_making = threading.RLock()


def once_per_process(make: Callable[P, T]) -> Callable[P, T]:
    """Cache the result by arguments and process id: a forked child makes its own; threads wait for the first call."""
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
    """Return the URLs of Postgres and the broker: from the settings, else from the home. Raises ServiceUnreachable."""
    settings = configuration.current()
    return services.locate(settings.home, database_url=settings.database_url, broker_url=settings.broker_url)


def result_backend() -> str:
    """Return the URL of the Redis that stores results and streamed answers."""
    return configuration.current().result_backend or addresses().broker_url


@once_per_process
def job_watcher() -> JobWatcher:
    """Return what looks for the results of the jobs that wait in this process."""
    return JobWatcher(addresses().database_url)


def index(name: str) -> Index:
    """Return an index of the settings, ready to work on. Raises UnknownIndex, SettingsError."""
    settings = configuration.current().index(name)
    backend = settings.embedding_backend.name
    return Index(
        url=addresses().database_url,
        settings=settings,
        backend=embedding_backend(backend),
        budget=embedding_budget(backend),
        remembered=remembered,
    )


def index_without_broker(known: Configuration, name: str, *, dimensions: int | None = None) -> Index:
    """Return an index for a command that sends no request, with the address of Postgres alone.

    `dimensions`: the length of its vectors, if only the provider could tell. Raises UnknownIndex, SettingsError,
    ServiceUnreachable.
    """
    settings = known.index(name)
    own = settings.embedding_backend
    backend = make_backend(own)
    if dimensions is not None and getattr(backend, "stated_dimensions", dimensions) is None:
        backend = make_backend(replace(own, dimensions=dimensions))
    url = known.database_url or services.attach(known.home, valkey=False).database_url
    return Index(url=url, settings=settings, backend=backend, budget=Budget("", own.name))


def remembered(index: Index, build: Build) -> Embedder:
    """Return the backend that makes the vectors of a build of another model than the settings of the index name.

    It is the entry of EMBEDDING_BACKENDS with that model. Without one, it is made from the settings that the build
    remembers, with the key that `llm` has for the model. Raises SettingsError, with the entry to keep.
    """
    return _remembered(index.name, build.build, json.dumps(dict(build.recipe)))


@once_per_process
def _remembered(index: str, build: int, stored: str) -> Embedder:
    recipe = Recipe.stored(json.loads(stored))
    for name, settings in configuration.current().embedding_backends.items():
        with suppress(VectorIndexError):  # of an entry that has nothing to do with this build
            if recipe.is_made_by(embedding_backend(name)):
                return _with_tokenizer(settings, recipe)
    until = (
        f"searches of index {index!r} read build {build}, which has vectors of {recipe.model} ({recipe.dimensions:,} "
        f"dimensions): keep an entry of EMBEDDING_BACKENDS with MODEL_ID {recipe.model!r} and its key, until "
        f"`vector-index rebuild --index {index}` has ended"
    )
    try:
        settings = _remembered_settings(build, recipe)
        backend = RememberedBackend(make_backend(settings), until, dimensions=recipe.dimensions)
    except SettingsError as error:
        raise SettingsError(f"{error}; {until}") from error
    budget = Budget(
        addresses().broker_url,
        f"embedding:{settings.name}",
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        account=rate_limit_account("embedding", settings),
    )
    return Embedder(settings=settings, backend=backend, budget=budget)


def _with_tokenizer(settings: EmbeddingBackendSettings, recipe: Recipe) -> Embedder:
    """Return a backend of the settings that counts as the recipe does, if that tokenizer can still be used."""
    backend, budget = embedding_backend(settings.name), embedding_budget(settings.name)
    if backend.tokenizer != recipe.tokenizer:
        with suppress(VectorIndexError):
            backend = make_backend(replace(settings, tokenizer=recipe.tokenizer))
    return Embedder(settings=settings, backend=backend, budget=budget)


def _remembered_settings(build: int, recipe: Recipe) -> EmbeddingBackendSettings:
    """Return the settings that a build remembers; of an earlier release, those that its recipe implies."""
    with connection.checkout(addresses().database_url) as conn:
        known = builds.remembered_backend(conn, build)
    implied = {"class_path": configuration.EMBEDDING_CLASS, "token_limit": recipe.token_limit}
    of_recipe = {"model_id": recipe.model, "dimensions": recipe.dimensions, "tokenizer": recipe.tokenizer}
    return EmbeddingBackendSettings(**{**(known or implied), **of_recipe, "name": f"build-{build}"})


@once_per_process
def embedding_backend(name: str) -> EmbeddingBackend:
    """Return the embedding backend of that name. Raises SettingsError."""
    return make_backend(configuration.current().embedding_backends[name])


@once_per_process
def embedding_budget(name: str) -> Budget:
    """Return the rate limits of an embedding backend, which all processes share."""
    settings = configuration.current().embedding_backends[name]
    return Budget(
        addresses().broker_url,
        f"embedding:{name}",
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        account=rate_limit_account("embedding", settings),
    )


@once_per_process
def chat_budget(name: str) -> Budget:
    """Return the rate limits of a chat backend, which all processes share."""
    return _waited_budget("chat", configuration.current().chat_backends[name])


def _waited_budget(kind: str, settings: BackendSettings) -> Budget:
    """Return the rate limits of a backend whose caller waits."""
    return Budget(
        addresses().broker_url,
        f"{kind}:{settings.name}",
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        burst=CHAT_BURST,
        account=rate_limit_account(kind, settings),
    )


def rate_limit_account(kind: str, settings: BackendSettings) -> str:
    """Identify the rate limits of a provider: those of a model under a key, whatever the settings call the backend."""
    told = [settings.class_path, settings.model_id, sorted(settings.init_kwargs.items())]
    return f"{kind}:{digest(json.dumps(told, default=lambda value: type(value).__name__)).hex()[:32]}"


def embedder(name: object) -> Embedder:
    """Return the embedding backend of that name with its rate limits. Raises InvalidQuery, SettingsError."""
    known = configuration.current().embedding_backends
    if not isinstance(name, str) or name not in known:
        raise InvalidQuery(
            f"embedding_backend {name!r:.100} is not in EMBEDDING_BACKENDS: choose {', '.join(sorted(known))}"
        )
    return Embedder(settings=known[name], backend=embedding_backend(name), budget=embedding_budget(name))


def make_backend(settings: EmbeddingBackendSettings) -> EmbeddingBackend:
    """Make an embedding backend of the settings' CLASS. Raises SettingsError."""
    made: EmbeddingBackend = _make(settings)
    return made


def chat_model(index: IndexSettings, name: object = None) -> ChatModel:
    """Return the chat model of that name, else the index's own. Raises InvalidQuery, SettingsError."""
    known = configuration.current().chat_backends
    if name is None:
        name = index.chat_backend.name
    elif not isinstance(name, str) or name not in known:
        raise InvalidQuery(
            f"chat_backend {name!r:.100} is not in CHAT_BACKENDS: choose {', '.join(sorted(known))}"
        )
    settings = known[str(name)]
    return ChatModel(
        backend=chat_backend(settings.name),
        budget=chat_budget(settings.name),
        rewrites=settings.follow_up == "rewrite",
        schema=answer_schema(settings),
        fallback=chat_model(index, settings.fallback) if settings.fallback else None,
    )


def answer_schema(settings: ChatBackendSettings) -> Mapping[str, Any] | None:
    """Return the JSON Schema of the answers of a chat backend, if it has one. Raises SettingsError."""
    given = settings.prompt_kwargs.get("schema")
    if given is None:
        return None
    owner = f"PROMPT_KWARGS of chat backend {settings.name!r}"
    if settings.follow_up == "rewrite":
        raise SettingsError(
            f'{owner} has a schema, which the request of FOLLOW_UP "rewrite" would get too: set FOLLOW_UP to "fuse"'
        )
    is_model = isinstance(given, type) and issubclass(given, BaseModel)
    return check_schema(given.model_json_schema() if is_model else given, owner)


@once_per_process
def chat_backend(name: str) -> ChatBackend:
    """Return the chat backend of that name. Raises SettingsError."""
    return make_chat_backend(configuration.current().chat_backends[name])


def make_chat_backend(settings: ChatBackendSettings) -> ChatBackend:
    """Make a chat backend of the settings' CLASS. Raises SettingsError, also for a schema that cannot be checked."""
    answer_schema(settings)
    made: ChatBackend = _make(settings)
    return made


def reranker(index: IndexSettings, wanted: object = None) -> Reranker | None:
    """Return the reranker that a search wants: `None`, the index's own, if any; or true, false, or its name.

    Raises InvalidQuery for a reranker that the settings do not have, SettingsError for one that cannot be made.
    """
    known = configuration.current().rerank_backends
    if wanted is False:
        return None
    name = wanted
    if (wanted is None or wanted is True) and index.rerank_backend:
        name = index.rerank_backend.name
    elif wanted is True:
        name = "default"
    if name is None:
        return None
    if not isinstance(name, str) or name not in known:
        choice = f"choose {', '.join(sorted(known))}, true or false" if known else "add it there"
        raise InvalidQuery(f"rerank {described(wanted)} names no entry of RERANK_BACKENDS: {choice}")
    return Reranker(backend=rerank_backend(name), budget=rerank_budget(name), passages=index.rerank_passages)


@once_per_process
def rerank_backend(name: str) -> RerankBackend:
    """Return the rerank backend of that name. Raises SettingsError."""
    return make_rerank_backend(configuration.current().rerank_backends[name])


def make_rerank_backend(settings: RerankBackendSettings) -> RerankBackend:
    """Make a rerank backend of the settings' CLASS. Raises SettingsError."""
    made: RerankBackend = _make(settings)
    return made


@once_per_process
def rerank_budget(name: str) -> Budget:
    """Return the rate limits of a rerank backend, which all processes share."""
    return _waited_budget("rerank", configuration.current().rerank_backends[name])


def _make(settings: BackendSettings) -> Any:
    backends.load_plugins()
    keywords = {key: value for key, value in asdict(settings).items() if key not in NOT_FOR_BACKENDS}
    made = backends.load_class(settings.class_path)
    try:
        signature(made).bind(**keywords)
    except TypeError as error:
        raise SettingsError(
            f"CLASS {settings.class_path!r} of backend {settings.name!r} does not take its settings ({error}): let its "
            f"__init__ take {', '.join(keywords)}, or **_ for those that it ignores"
        ) from error
    return _called(made, keywords, f"CLASS {settings.class_path!r} of backend {settings.name!r}")


def _called(made: Callable[..., Any], keywords: Mapping[str, object], owner: str) -> Any:
    """Make an object of a class of the settings. Raises SettingsError for any error of the class."""
    try:
        return made(**keywords)
    except VectorIndexError:
        raise
    except Exception as error:
        secrets = re.findall(r"'([^']{8,})'", repr(keywords))
        said = redact(str(error), secrets=secrets)
        raise SettingsError(
            f"{owner} cannot be used: it raised {type(error).__name__} ({said}); correct the class or its settings"
        ) from error


def source(index: str) -> Source:
    """Make the source of an index. Raises UnknownIndex, SettingsError."""
    settings = configuration.current().index(index).source
    if settings is None:
        raise SettingsError(
            f'index {index!r} has no SOURCE: set it to the name of an entry of VECTOR_INDEX["SOURCES"]'
        )
    return make_source(settings, configuration.current(), lambda: addresses().database_url)


def make_source(settings: SourceSettings, known: Configuration, database_url: Callable[[], str]) -> Source:
    """Make a source of the settings' CLASS. Raises SettingsError."""
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
    try:
        signature(made).bind(**keywords)
    except TypeError as error:
        names = ", ".join(map(str.upper, signature(made).parameters))
        raise SettingsError(
            f"CONFIG of source {settings.name!r} does not fit {settings.class_path} ({error}); its keys are {names}"
        ) from error
    found: Source = _called(made, keywords, f"source {settings.name!r}, of the class {settings.class_path},")
    return found
