"""A bound for every call of a plugin: one without a timeout (llm-gemini 0.35) would hold a worker's slot for ever."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

MAX_CALLS = 256  # of this process at once, those included that were given up and still hang

_free = threading.BoundedSemaphore(MAX_CALLS)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What the call returns or raises, or TimeoutError after so many seconds.

    Python cannot end a call: one that is given up goes on in its thread, which does not keep the process alive, and
    its outcome is thrown away. Where MAX_CALLS of them hang, nothing is called any more.
    """
    if not _free.acquire(timeout=seconds):
        raise TimeoutError(f"{MAX_CALLS} calls before this one hang: start the worker again")
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            future.set_exception(error)
        finally:
            _free.release()

    threading.Thread(target=run, name="model", daemon=True).start()
    return future.result(seconds)
