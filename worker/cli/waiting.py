"""What a command says on stderr while it waits for documents: why they wait, and what goes on after Ctrl-C."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery.result import AsyncResult

from worker.cli.client import Client
from worker.cli.streams import echo
from worker.keyspace import CHAT

REASON_SECONDS = 3.0  # without progress, until the command asks for the reason; then between two questions


class WaitReason:
    """Prints why the documents of an index wait, each reason once: the provider's error, or a pause."""

    def __init__(self, client: Client, index: str) -> None:
        self._client, self._index = client, index
        self._progress: object = None
        self._since = time.monotonic()
        self._asked: AsyncResult[Any] | None = None
        self._told: str | None = None

    def check(self, progress: object) -> None:
        """Call this with any value that changes with progress."""
        if progress != self._progress:
            self._progress, self._since, self._asked = progress, time.monotonic(), None
        elif self._asked is not None:
            with self._client.reachable():
                if self._asked.ready():
                    self._tell(self._asked.result)
                    self._asked, self._since = None, time.monotonic()
        elif time.monotonic() - self._since > REASON_SECONDS:
            self._asked = self._client.send("tasks.status", CHAT, index=self._index)

    def _tell(self, state: object) -> None:
        reason = _reason(state) if isinstance(state, dict) else None
        if reason is not None and reason != self._told:
            echo(f"waiting: {reason}", err=True)
        self._told = reason


def _reason(state: dict[str, Any]) -> str | None:
    if state["paused"]:
        return f"index {state['index']} is paused: continue embedding with `vector-index resume`"
    if state["last_error"]:
        return " ".join(state["last_error"].split())
    return None


@contextmanager
def work_goes_on(work: Callable[[], str]) -> Iterator[None]:
    """On Ctrl-C, say what the workers go on with: leaving a command takes nothing back."""
    try:
        yield
    except KeyboardInterrupt:
        echo(f"stopped waiting: the workers go on with {work()}", err=True)
        raise
