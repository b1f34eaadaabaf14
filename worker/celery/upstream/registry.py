"""Registry of every change to code of Celery, kombu and Flower.

Two kinds. An *override* is a method of a subclass that our app uses through a supported hook: `Celery(amqp=...)` and
`Celery(loader=...)`. A *patch* replaces an attribute of the library itself, where there is no such hook. Both depend
on the code that they replace, so each entry has a fingerprint of it. A change is needed as long as its test fails
without it: `tests/integration/test_upstream.py`.
"""

import inspect
import linecache
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from worker.celery.upstream import (
    beat_signals,
    monitors,
    payloads,
    pool_results,
    replaced_tasks,
    shutdown_notice,
)
from worker.celery.upstream.callbacks import Router
from worker.celery.upstream.channel import AMQP, Channel, ConnectionPool
from worker.celery.upstream.outlines import fingerprint
from worker.celery.upstream.redelivery import UnackedMessages
from worker.celery.upstream.refusals import Consumer
from worker.celery.upstream.results import RedisBackend
from worker.errors import SettingsError

CELERY, KOMBU, FLOWER = "5.7.0", "5.7.0", "2.2.0"  # the versions that the fingerprints are of

logger = logging.getLogger("vector_index.upstream")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One attribute of a library, and its replacement."""

    owner: str  # module:class, or a module
    name: str  # of the attribute
    replacement: object  # the subclass that overrides it, or its new value
    reason: str  # one clause: without the change, ...
    upstream: str  # the issue that describes the defect, or "not reported"
    verified: str  # the version of the library that the tests passed with
    fingerprint: str  # of the code that is replaced

    @property
    def library(self) -> str:
        return self.owner.partition(".")[0]

    @property
    def label(self) -> str:
        return f"{self.owner.rpartition(':')[2]}.{self.name}"

    @property
    def is_patch(self) -> bool:
        return not isinstance(self.replacement, type)

    def found_owner(self) -> Any:
        """Find the class or module that has the attribute. Raises ImportError, AttributeError."""
        module, _, path = self.owner.partition(":")
        found: Any = import_module(module)
        return getattr(found, path) if path else found

    def original(self) -> Any:
        """Find the library's own attribute, even if it is patched. Raises ImportError, AttributeError."""
        if self.owner + self.name in _originals:
            return _originals[self.owner + self.name]
        return inspect.getattr_static(self.found_owner(), self.name)


CHANGES = (
    Change(
        owner="kombu.transport.redis:Channel",
        name="_connparams",
        replacement=Channel,
        reason="a restart of the broker ends a worker that holds messages (23 of 50 restarts)",
        upstream="https://github.com/celery/kombu/issues/582 (closed; back with Celery 5.7.0)",
        verified=KOMBU,
        fingerprint="4a5bd4c83252a8eb",
    ),
    Change(
        owner="kombu.transport.redis:Channel",
        name="_brpop_start",
        replacement=Channel,
        reason="a message is lost if its worker dies right after taking it",
        upstream="https://github.com/celery/celery/issues/4354",
        verified=KOMBU,
        fingerprint="91a72825d0b9ec91",
    ),
    Change(
        owner="kombu.transport.redis:Channel",
        name="_brpop_read",
        replacement=Channel,
        reason="an unreadable message ends every worker that takes it",
        upstream="https://github.com/celery/celery/issues/4308",
        verified=KOMBU,
        fingerprint="3e8fc12d0ae906d0",
    ),
    Change(
        owner="kombu.transport.redis:QoS",
        name="append",
        replacement=UnackedMessages,
        reason="a full broker refuses to record a message that was taken, and the worker ends",
        upstream="https://github.com/celery/celery/issues/5716",
        verified=KOMBU,
        fingerprint="0e36f3973fad1faa",
    ),
    Change(
        owner="kombu.transport.redis:QoS",
        name="_remove_from_indices",
        replacement=UnackedMessages,
        reason="an acknowledgement that is cut off leaves the message in Redis for ever",
        upstream="not reported",
        verified=KOMBU,
        fingerprint="5e0f7b9f6911e508",
    ),
    Change(
        owner="kombu.transport.redis:QoS",
        name="restore_visible",
        replacement=UnackedMessages,
        reason="the lock of a killed worker delays redelivery by five minutes",
        upstream="not reported (an earlier defect of this lock: https://github.com/celery/kombu/issues/1190)",
        verified=KOMBU,
        fingerprint="becff38a599c3c52",
    ),
    Change(
        owner="kombu.transport.redis:QoS",
        name="restore_by_tag",
        replacement=UnackedMessages,
        reason="an unreadable entry of a dead worker ends every worker that restores messages",
        upstream="not reported (for messages: https://github.com/celery/celery/issues/4308)",
        verified=KOMBU,
        fingerprint="4b8fc920b7bf13f4",
    ),
    Change(
        owner="kombu.transport.redis:Channel",
        name="_get_client",
        replacement=Channel,
        reason="a full Redis 6.2 or 7.0 refuses every transaction, so no message can be acknowledged",
        upstream="https://github.com/redis/redis/issues/9926",
        verified=KOMBU,
        fingerprint="d6ad6394b1e024f5",
    ),
    Change(
        owner="kombu.transport.redis:Channel",
        name="_put",
        replacement=Channel,
        reason="a full broker refuses a task's successor, and Celery drops the task",
        upstream="https://github.com/celery/celery/issues/5716",
        verified=KOMBU,
        fingerprint="7c59274bf790f04a",
    ),
    Change(
        owner="kombu.transport.redis:Channel",
        name="_queue_bind",
        replacement=Channel,
        reason="no worker can start while the broker is full",
        upstream="not reported",
        verified=KOMBU,
        fingerprint="9ae53dfbbcb23666",
    ),
    Change(
        owner="kombu.transport.redis:Channel",
        name="_refresh_binding",
        replacement=Channel,
        reason="a full broker refuses to renew the binding of a queue that expires",
        upstream="not reported",
        verified=KOMBU,
        fingerprint="c0d92cc692227b6e",
    ),
    Change(
        owner="kombu.connection:ConnectionPool",
        name="new",
        replacement=ConnectionPool,
        reason="connections of a pool have kombu's own channel, so that a full broker refuses a task's successor",
        upstream="not reported",
        verified=KOMBU,
        fingerprint="bbcc5059247fe5a4",
    ),
    Change(
        owner="kombu.message:Message",
        name="_decode",
        replacement=payloads.Message,
        reason="one value that kombu or Python cannot read costs its whole message",
        upstream="not reported",
        verified=KOMBU,
        fingerprint="5921d4a48cc8fda1",
    ),
    Change(
        owner="celery.worker.consumer.consumer:Consumer",
        name="create_task_handler",
        replacement=Consumer,
        reason="a header or a body of another type ends every worker that takes its message",
        upstream="https://github.com/celery/celery/issues/4308",
        verified=CELERY,
        fingerprint="119f8581b6d1ccb5",
    ),
    Change(
        owner="celery.worker.consumer.consumer:Consumer",
        name="on_decode_error",
        replacement=Consumer,
        reason="a message that cannot be read is dropped, and its task is pending for ever",
        upstream="https://github.com/celery/celery/issues/1442 (closed: not a bug)",
        verified=CELERY,
        fingerprint="890d610baf03771a",
    ),
    Change(
        owner="celery.worker.consumer.consumer:Consumer",
        name="on_invalid_task",
        replacement=Consumer,
        reason="a message that cannot be read is dropped, and its task is pending for ever",
        upstream="https://github.com/celery/celery/issues/1442 (closed: not a bug)",
        verified=CELERY,
        fingerprint="b841365ea3ef126c",
    ),
    Change(
        owner="celery.app.routes:Router",
        name="route",
        replacement=Router,
        reason="callbacks of the application go to our queues, or fail a task that is done",
        upstream="https://github.com/celery/celery/issues/3127 (closed: name the queue of each callback)",
        verified=CELERY,
        fingerprint="2e78e5f70f2350a8",
    ),
    Change(
        owner="celery.app.amqp:AMQP",
        name="Router",
        replacement=AMQP,
        reason="callbacks of the application go to our queues, or fail a task that is done",
        upstream="https://github.com/celery/celery/issues/3127 (closed: name the queue of each callback)",
        verified=CELERY,
        fingerprint="f946e707559f0a63",
    ),
    Change(
        owner="celery.app.amqp:AMQP",
        name="_retry_publish",
        replacement=AMQP,
        reason="a full broker refuses the callbacks of a finished task, and the task fails",
        upstream="https://github.com/celery/celery/issues/5716",
        verified=CELERY,
        fingerprint="1ebf8aa0bdb74b4e",
    ),
    Change(
        owner="celery.backends.redis:RedisBackend",
        name="_set",
        replacement=RedisBackend,
        reason="a full broker refuses the result of a finished task",
        upstream="https://github.com/celery/celery/issues/5716",
        verified=CELERY,
        fingerprint="353888ab315cb52f",
    ),
    Change(
        owner="celery.concurrency.asynpool:ResultHandler",
        name="_recv_message",
        replacement=pool_results.receive_message,
        reason="a worker with pool processes ends if the broker goes away while it reads a large result",
        upstream="https://github.com/celery/celery/issues/1314 (closed)",
        verified=CELERY,
        fingerprint="737f1befbaeb1a5a",
    ),
    Change(
        owner="celery.app.trace",
        name="ExceptionInfo",
        replacement=replaced_tasks.exception_info,
        reason="a task that is replaced takes 4 ms more, for a traceback that nobody reads",
        upstream="not reported",
        verified=CELERY,
        fingerprint="5d89a7aa1da13c8a",
    ),
    Change(
        owner="celery.apps.worker",
        name="safe_say",
        replacement=shutdown_notice.print_nothing,
        reason="Celery prints a line of text into JSON logs at a signal",
        upstream="https://github.com/celery/celery/issues/8101",
        verified=CELERY,
        fingerprint="34b24b94493ac022",
    ),
    Change(
        owner="celery.apps.beat:Beat",
        name="install_sync_handler",
        replacement=beat_signals.end_at_signals,
        reason="the beat survives a signal that arrives while it sends a task",
        upstream="not reported",
        verified=CELERY,
        fingerprint="2ecb49cb1c3bc810",
    ),
    Change(
        owner="celery.events.receiver:EventReceiver",
        name="event_from_message",
        replacement=monitors.event_from_message,
        reason="Flower shows the texts of an application that sets task_send_sent_event",
        upstream="https://github.com/mher/flower/issues/1161 (closed: its option hides them in the pages only)",
        verified=CELERY,
        fingerprint="725245922f852428",
    ),
    Change(
        owner="flower.api.tasks:TaskResult",
        name="get",
        replacement=monitors.refuse_result,
        reason="Flower's API serves stored passages and answers",
        upstream="not reported",
        verified=FLOWER,
        fingerprint="cc61bb0a3d0c5e4b",
    ),
)

_originals: dict[str, Any] = {}  # what a patch has replaced


def install() -> None:
    """Install all patches, once; check that everything exists that is patched or overridden.

    Raises SettingsError for a missing attribute. Flower is patched if this process has imported it.
    """
    for change in filter(_is_used, CHANGES):
        try:
            original, owner = change.original(), change.found_owner()
        except (ImportError, AttributeError) as error:
            raise SettingsError(_missing(change)) from error
        if change.is_patch:
            _originals[change.owner + change.name] = original
            setattr(owner, change.name, change.replacement)


def check() -> Iterator[str]:
    """Yield a sentence for each change whose library differs from the one that it was verified with."""
    for change in CHANGES:
        yield from difference(change)


def difference(change: Change) -> Sequence[str]:
    """Return the sentence of a change whose library differs from the one that it was verified with, if it does."""
    try:
        installed = version(change.library)
        original = change.original()
    except PackageNotFoundError:  # Flower is optional
        return ()
    except (ImportError, AttributeError):
        return (_missing(change),)
    if fingerprint(original) == change.fingerprint:
        return ()
    return (
        f"{change.library} {installed} has another {change.label} than {change.library} {change.verified}, which "
        f"vector-index-worker replaces because {change.reason}: install {change.library}=={change.verified}, or a "
        "vector-index-worker that was tested with this version",
    )


def verified() -> str:
    """Name the installed libraries and the number of changes to them. Call it when `check` finds nothing."""
    installed: dict[str, int] = {}
    for change in CHANGES:
        with suppress(PackageNotFoundError):
            label = f"{change.library} {version(change.library)}"
            installed[label] = installed.get(label, 0) + 1
    return f"{', '.join(sorted(installed))}: the code that {sum(installed.values())} changes replace is as tested"


def differences() -> Iterator[str]:
    """Yield what `check` yields, of the libraries that this process uses; a forked program finds it ready."""
    for change in filter(_is_used, CHANGES):
        yield from _known_difference(change)
    linecache.clearcache()  # 2 MB of sources


def warn() -> None:
    """Log the sentences of `differences`."""
    for sentence in differences():
        logger.warning(sentence)


_known_difference = cache(difference)


def _is_used(change: Change) -> bool:
    return change.library != "flower" or change.owner.partition(":")[0] in sys.modules


def _missing(change: Change) -> str:
    return (
        f"{change.library} {version(change.library)} has no {change.owner}.{change.name}, which vector-index-worker "
        f"replaces because {change.reason}: install {change.library}=={change.verified}"
    )
