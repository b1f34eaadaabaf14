"""What may be asked of a source of any class, and what becomes of its mistakes."""

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from worker import configuration, wiring
from worker.configuration import SourceSettings
from worker.errors import SettingsError, SourceFailed
from worker.protocols import CheckedSource, IncrementalSource, Source
from worker.sources.callable import CallableSource
from worker.sources.files import FolderSource
from worker.sources.reading import Reading, check
from worker.sources.sql import SQLSource


class Plain:
    def documents(self) -> Iterator[Any]:
        yield from "ab"


class Counting(Plain):
    """A source with a cursor."""

    cursor: Any = "7"
    since: str | None = "not read"

    def fingerprint(self) -> str:
        return "numbers"

    def documents_since(self, cursor: str | None) -> Generator[Any, None, str | None]:
        self.since = cursor
        yield "c"
        return self.cursor  # type: ignore[no-any-return]


class Wide(Plain):
    """A source that takes every setting that is offered."""

    defaults_from_settings: ClassVar = {
        "dsn": "DATABASE_URL",
        "limit": "MAX_DOCUMENT_BYTES",
        "folder": "SETTINGS_FOLDER",
    }

    def __init__(self, **given: Any) -> None:
        self.given = given


class Mistaken(Plain):
    defaults_from_settings: ClassVar = {"dsn": "DATABASE"}


def made(name: str, **config: Any) -> Any:
    settings = SourceSettings(name="own", class_path=f"{__name__}.{name}", config=config)
    known = replace(configuration.load({}), folder=Path("/srv"), max_document_bytes=5)
    return wiring.make_source(settings, known, lambda: "postgresql:///shop")


def sentence(source: Source, since: str | None = None) -> str:
    with pytest.raises(SourceFailed) as caught:
        list(Reading(source, "own").documents(since))
    return str(caught.value)


def test_shipped_sources_follow_the_protocols() -> None:
    sql = SQLSource(dsn="postgresql:///shop", query="SELECT 1")
    folder = FolderSource(paths=["/srv"], max_bytes=1)
    function = CallableSource(callable="shop:documents", folder="/srv")
    assert [isinstance(source, CheckedSource) for source in (sql, folder, function)] == [True] * 3
    assert [isinstance(source, IncrementalSource) for source in (sql, folder, function)] == [
        True,
        False,
        False,
    ]


def test_a_source_without_a_cursor_is_read_whole() -> None:
    reading = Reading(Plain(), "own")
    assert (list(reading.documents("3")), reading.cursor, reading.fingerprint) == (["a", "b"], None, "")


def test_a_source_with_a_cursor_is_read_since_it_and_returns_the_next() -> None:
    source = Counting()
    reading = Reading(source, "own")
    assert (list(reading.documents("3")), source.since, reading.cursor) == (["c"], "3", "7")
    assert reading.fingerprint == f"{__name__}.Counting numbers"


def test_an_empty_fingerprint_means_no_cursor() -> None:
    class Off(Counting):
        def fingerprint(self) -> str:
            return ""

    reading = Reading(Off(), "own")
    assert (list(reading.documents(None)), reading.fingerprint) == (["a", "b"], "")


def test_cursors_of_two_classes_differ_under_one_fingerprint() -> None:
    class Other(Counting):
        pass

    assert Reading(Other(), "own").fingerprint != Reading(Counting(), "own").fingerprint


@pytest.mark.parametrize("cursor", [7, b"7", "7\0"])
def test_a_cursor_that_cannot_be_stored_fails_the_run(cursor: object) -> None:
    source = Counting()
    source.cursor = cursor
    said = sentence(source)
    assert f"documents_since returned a cursor of type {type(cursor).__name__}" in said
    assert "nothing was deleted" in said


def test_a_fingerprint_that_fails_is_one_sentence() -> None:
    class Broken(Counting):
        def fingerprint(self) -> str:
            raise KeyError("HOST")

    assert "source 'own' failed after 0 documents (KeyError: 'HOST'): nothing was deleted" in sentence(
        Broken()
    )


def test_a_source_without_check_says_nothing() -> None:
    assert check(Plain(), "own") is None


@pytest.mark.parametrize("error", [SettingsError("PATH is empty: set it"), SourceFailed("the shop is away")])
def test_errors_of_check_that_are_ours_pass_unchanged(error: Exception) -> None:
    class Failing(Plain):
        def check(self) -> str:
            raise error

    with pytest.raises(type(error)) as caught:
        check(Failing(), "own")
    assert caught.value is error


def test_another_error_of_check_is_one_sentence() -> None:
    class Failing(Plain):
        def check(self) -> str:
            return str(1 / 0)

    with pytest.raises(
        SourceFailed, match=r"check of source 'own' failed \(ZeroDivisionError: division by zero\)"
    ):
        check(Failing(), "own")


def test_settings_fill_the_keys_that_config_leaves_out() -> None:
    assert made("Wide").given == {"dsn": "postgresql:///shop", "limit": 5, "folder": "/srv"}
    assert made("Wide", DSN="postgresql:///other", LIMIT=9, MORE=1).given == {
        "dsn": "postgresql:///other",
        "limit": 9,
        "folder": "/srv",
        "more": 1,
    }


def test_a_setting_that_is_not_offered_is_named() -> None:
    with pytest.raises(SettingsError, match="Mistaken names 'DATABASE': choose DATABASE_URL, MAX_DOCUMENT"):
        made("Mistaken")
