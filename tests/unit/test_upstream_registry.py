"""The registry of changes to libraries."""

import re
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest

from worker.celery.upstream import registry
from worker.celery.upstream.callbacks import Router
from worker.celery.upstream.channel import AMQP, Channel
from worker.celery.upstream.outlines import fingerprint, outline
from worker.celery.upstream.payloads import Message
from worker.celery.upstream.redelivery import UnackedMessages
from worker.celery.upstream.refusals import Consumer
from worker.celery.upstream.registry import CHANGES, Change
from worker.celery.upstream.results import RedisBackend
from worker.errors import SettingsError

PUT = next(change for change in CHANGES if change.label == "Channel._put")
SAY = next(change for change in CHANGES if change.label == "celery.apps.worker.safe_say")


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the registry hold these changes only, and restore what they patch."""

    def set_changes(*changes: Change) -> None:
        monkeypatch.setattr(registry, "CHANGES", changes)
        monkeypatch.setattr(registry, "_originals", {})

    return set_changes


def test_the_installed_libraries_are_those_that_the_changes_were_verified_with() -> None:
    pytest.importorskip("flower")
    assert list(registry.check()) == []
    assert {(change.library, change.verified) for change in CHANGES} == {
        (library, version(library)) for library in ("celery", "flower", "kombu")
    }


@pytest.mark.parametrize("change", CHANGES, ids=[change.label for change in CHANGES])
def test_each_change_gives_a_reason_and_an_issue(change: Change) -> None:
    assert re.fullmatch(r"\S.{20,100}[^.]", change.reason)
    assert re.match(r"https://github\.com/[\w/-]+/issues/\d+\b|not reported\b", change.upstream)


@pytest.mark.parametrize("cls", [AMQP, Channel, Consumer, Message, RedisBackend, Router, UnackedMessages])
def test_every_override_is_in_the_registry(cls: type) -> None:
    listed = {change.name for change in CHANGES if change.replacement is cls}
    known = {name for base in cls.__mro__[1:-1] for name in vars(base)}
    # the classes that kombu looks up in a class attribute are hooks
    assert {name for name in vars(cls) if not name.startswith("__")} & known - {
        "Connection",
        "Message",
        "QoS",
        "codecs",
    } == listed


def test_a_missing_attribute_ends_in_a_sentence(changes: Any) -> None:
    changes(replace(PUT, name="_put_message"))
    with pytest.raises(SettingsError) as caught:
        registry.install()
    installed = version("kombu")
    assert str(caught.value) == (
        f"kombu {installed} has no kombu.transport.redis:Channel._put_message, which vector-index-worker replaces "
        "because a full broker refuses a task's successor, and Celery drops the task: install kombu==5.7.0"
    )
    assert list(registry.check()) == [str(caught.value)]


@pytest.mark.parametrize("owner", ["kombu.transport.redis:NoChannel", "kombu.transport.no_redis:Channel"])
def test_a_missing_class_or_module_ends_in_a_sentence(changes: Any, owner: str) -> None:
    changes(replace(PUT, owner=owner))
    with pytest.raises(
        SettingsError, match=rf"^kombu [\d.]+ has no {owner}\._put, which .* install kombu==5\.7\.0$"
    ):
        registry.install()


def test_another_fingerprint_is_logged_in_a_sentence(changes: Any, caplog: pytest.LogCaptureFixture) -> None:
    changes(PUT, replace(PUT, fingerprint="another", verified="5.6.9"))
    registry.install()
    registry.warn()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            f"kombu {version('kombu')} has another Channel._put than kombu 5.6.9, which vector-index-worker replaces "
            "because a full broker refuses a task's successor, and Celery drops the task: install kombu==5.6.9, or a "
            "vector-index-worker that was tested with this version",
        )
    ]


def test_a_library_that_is_not_installed_is_not_checked(changes: Any) -> None:
    changes(replace(PUT, owner="no_such_library:Channel"))
    assert list(registry.check()) == []


def test_install_twice_changes_nothing_more(changes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SAY.found_owner(), SAY.name, SAY.original())
    changes(SAY)
    original = SAY.original()
    for _ in range(2):
        registry.install()
        assert getattr(SAY.found_owner(), SAY.name) is SAY.replacement
        assert SAY.original() is original
        assert list(registry.check()) == []


def commented(text: str) -> str:
    """Return it without space."""
    # a comment
    return (text
            .strip())  # fmt: skip


def plain(text: str) -> str:
    return text.strip()


def other(text: str) -> str:
    return text.rstrip()


def test_comments_docstrings_and_formatting_do_not_change_a_fingerprint() -> None:
    named = [fingerprint(function) for function in (commented, plain, other)]
    bodies = [outline(function) for function in (commented, plain, other)]
    assert len(set(named)) == 3
    assert bodies[0].replace("commented", "plain") == bodies[1]
    assert bodies[1] != bodies[2].replace("other", "plain")


@pytest.mark.parametrize("sourceless", [len, 7, SimpleNamespace()])
def test_code_without_source_has_no_fingerprint(sourceless: Any) -> None:
    assert fingerprint(sourceless) == ""
