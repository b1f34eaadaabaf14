"""Checks at the start of a worker: settings, schema, schedules, sources and models."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from worker import configuration, wiring
from worker.celery.broker_errors import check_login
from worker.configuration import EmbeddingBackendSettings
from worker.errors import VectorIndexError
from worker.indexing import drift
from worker.store import connection, schedule, schema


def prepare() -> Sequence[str]:
    """Check everything that a worker needs: the settings, Postgres and its schema, sources, llm and its plugins.

    Returns notices for the operator. Raises SettingsError or ServiceUnreachable before any task is taken.
    """
    check_broker()
    sync_schedules()
    check_sources()
    check_models()
    return configuration.current().notices


def check_broker() -> None:
    """Check the passwords of the broker and of the result backend. Raises SettingsError."""
    check_login("BROKER_URL", wiring.addresses().broker_url)
    check_login("RESULT_BACKEND", wiring.result_backend())


def sync_schedules() -> None:
    """Install the schema, and store the schedules of the settings. Raises SettingsError, ServiceUnreachable."""
    url = wiring.addresses().database_url
    schema.install(url)
    with connection.checkout(url) as conn:
        indexes = configuration.current().indexes
        schedule.sync(conn, dict.fromkeys(indexes) | schedules(), configuration.current().timezone)


def note_drift() -> Sequence[str]:
    """Compare each index with its settings. Returns a sentence for each one that differs."""
    sentences = []
    for name in configuration.current().indexes:
        # a service that is down now is reported by whatever needs it next
        with suppress(VectorIndexError):
            sentences.append(drift.note(wiring.index(name)))
    return [sentence for sentence in sentences if sentence is not None]


def schedules() -> dict[str, str]:
    """Return the SCHEDULE of each index that has one."""
    indexes = configuration.current().indexes.items()
    return {name: str(index.schedule) for name, index in indexes if index.schedule is not None}


def check_sources() -> None:
    """Make the source of every index, without connecting to it. Raises SettingsError for the first that fails."""
    for name, settings in configuration.current().indexes.items():
        if settings.source is not None:
            wiring.source(name)


def check_models() -> None:
    """Make the backends of all indexes, with the fallbacks for answers, and all rerankers.

    Raises SettingsError for the first that fails.
    """
    for used in embedding_backends_in_use():
        wiring.embedding_backend(used.name)
    for name in _chat_backends_in_use():
        wiring.chat_backend(name)
    for name in configuration.current().rerank_backends:
        wiring.rerank_backend(name)


def _chat_backends_in_use() -> Iterator[str]:
    """Yield the chat backends of all indexes, each with its fallbacks."""
    known = configuration.current().chat_backends
    for index in configuration.current().indexes.values():
        name: str | None = index.chat_backend.name
        while name is not None:
            yield name
            name = known[name].fallback


def embedding_backends_in_use() -> list[EmbeddingBackendSettings]:
    """Return the embedding backends that at least one index uses."""
    indexes = configuration.current().indexes.values()
    return list({index.embedding_backend.name: index.embedding_backend for index in indexes}.values())
