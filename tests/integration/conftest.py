"""An index on real Postgres, embedded by a backend class in this process instead of a provider."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.fixtures.application import Application, HashBackend
from tests.fixtures.shelf import Shelf
from worker import configuration
from worker.configuration import IndexSettings, SourceSettings
from worker.indexing.draining.drainer import Drainer
from worker.store import connection


@pytest.fixture
def backend() -> HashBackend:
    return HashBackend()


@pytest.fixture
def index() -> IndexSettings:
    return configuration.load({}).index("default")


@pytest.fixture
def url(database_url: str) -> Iterator[str]:
    """The URL of a database with the schema; its connection pool is closed before the database is dropped."""
    yield database_url
    connection.close_pools()


@pytest.fixture
def drainer(url: str, index: IndexSettings, backend: HashBackend) -> Drainer:
    return Drainer(url, index.embedding_backend, backend)


@pytest.fixture
def application(url: str, index: IndexSettings, backend: HashBackend, drainer: Drainer) -> Application:
    """Stages and searches in this process; `application.drainer.drain()` embeds."""
    return Application(url, index, backend, drainer)


@pytest.fixture
def shelf() -> Shelf:
    """A source with 250 documents."""
    return Shelf({str(number): f"Book number {number}." for number in range(250)})


@pytest.fixture
def shop(application: Application) -> Application:
    """An application whose index has a source."""
    source = SourceSettings(name="shelf", class_path="tests.fixtures.shelf.Shelf")
    application.index = replace(application.index, source=source)
    return application
