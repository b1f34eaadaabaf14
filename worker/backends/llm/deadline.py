"""A bound for every call of a plugin: one without a timeout (llm-gemini 0.35) would hold a worker's slot for ever.

Python cannot end a call: one that is given up goes on in its thread, which does not keep the process alive, and its
outcome is thrown away. Where MAX_CALLS of them hang, nothing is called any more.
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")

MAX_CALLS = 256  # of this process at once, those included that were given up and still hang

_free = threading.BoundedSemaphore(MAX_CALLS)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What the call returns or raises, or TimeoutError after so many seconds."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            future.set_exception(error)

    _start(seconds, run)
    return future.result(seconds)


def each_within(seconds: float, pieces: Generator[T, None, None]) -> Generator[T, None, None]:
    """The pieces as they come, or TimeoutError when none came for so many seconds; what they raise is raised.

    When the reader stops, they are closed at the next piece.
    """
    made: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
    left = threading.Event()

    def run() -> None:
        try:
            with closing(pieces):
                for piece in pieces:
                    if left.is_set():
                        return
                    made.put((piece,))
            made.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            made.put(error)

    _start(seconds, run)
    try:
        while (piece := made.get(timeout=seconds)) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece[0]
    except Empty:
        raise TimeoutError(f"nothing came for {seconds:g} s") from None
    finally:
        left.set()


def _start(seconds: float, run: Callable[[], None]) -> None:
    if not _free.acquire(timeout=seconds):
        raise TimeoutError(f"{MAX_CALLS} calls before this one hang: start the worker again")

    def freed() -> None:
        try:
            run()
        finally:
            _free.release()

    threading.Thread(target=freed, name="model", daemon=True).start()
