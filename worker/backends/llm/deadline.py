"""A timeout for every call of a plugin, since some (llm-gemini 0.35) lack one and could block a worker for ever.

Python cannot end a call. After the timeout it continues in a daemon thread, and its result is discarded. While
MAX_CALLS calls hang, further calls raise TimeoutError.
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")

MAX_CALLS = 256  # at once in this process, including hanging calls after their timeout

_free = threading.BoundedSemaphore(MAX_CALLS)


def call_with_timeout(seconds: float, call: Callable[[], T]) -> T:
    """Return or raise the outcome of a call, or raise TimeoutError after this many seconds."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            future.set_exception(error)

    _start(seconds, run)
    return future.result(seconds)


def iterate_with_timeout(seconds: float, pieces: Generator[T, None, None]) -> Generator[T, None, None]:
    """Yield pieces as they arrive, and raise TimeoutError if none arrives for this many seconds.

    Passes the exceptions of the generator on. When the reader stops, the generator is closed at its next piece.
    """
    arrived: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
    stopped = threading.Event()

    def run() -> None:
        try:
            with closing(pieces):
                for piece in pieces:
                    if stopped.is_set():
                        return
                    arrived.put((piece,))
            arrived.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            arrived.put(error)

    _start(seconds, run)
    try:
        while (piece := arrived.get(timeout=seconds)) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece[0]
    except Empty:
        raise TimeoutError(f"nothing arrived for {seconds:g} s") from None
    finally:
        stopped.set()


def _start(seconds: float, run: Callable[[], None]) -> None:
    if not _free.acquire(timeout=seconds):
        raise TimeoutError(f"{MAX_CALLS} earlier calls hang: restart the worker")

    def run_and_release() -> None:
        try:
            run()
        finally:
            _free.release()

    threading.Thread(target=run_and_release, name="model", daemon=True).start()
