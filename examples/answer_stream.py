"""Read streamed answers, and await results, in a web application: copy this file into yours.

    for entry in events(task.id): ...                  # plain Python
    server_sent(task.id, last, app.control.revoke)     # for a browser, in threads
    server_sent_async(task.id, last, ...)              # for a browser, in an event loop
    await result_of(task)                              # any result of Celery

It needs `pip install "celery[redis]"`. The guide is docs/how-to/streaming.md.
"""

import asyncio
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from typing import Any

import redis
import redis.asyncio
from celery.result import AsyncResult

RESULT_BACKEND = os.environ.get("RESULT_BACKEND") or os.environ["BROKER_URL"]  # as the workers have it
SILENT_SECONDS = 150  # without a new entry until a reader gives up; a killed worker is replaced before
GRACE_SECONDS = 10  # an answer continues for so long without a reader: browsers reconnect after RETRY_SECONDS
RETRY_SECONDS = 2
# proxies must pass each event on at once
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Entry = tuple[str, str, str]  # id, name of the event, and its data as JSON
LAST = ("done", "error")
GAVE_UP = ("", "error", f'"no answer within {SILENT_SECONDS} s: ask again"')
# protocol 2 gives the replies one shape in every version of redis-py
OPTIONS: dict[str, Any] = {"decode_responses": True, "protocol": 2}


def events(task: str, last: str | None = None) -> Iterator[Entry | None]:
    """Yield the entries of an answer after `last`, to `done` or `error`, and `None` for each second without one."""
    key, last, heard = _key(task), _position(last), time.monotonic()
    with redis.Redis.from_url(RESULT_BACKEND, **OPTIONS) as client:
        while time.monotonic() < heard + SILENT_SECONDS:
            found: Any = client.xread({key: last}, count=1000, block=1000)  # milliseconds
            for id, entry in found[0][1] if found else []:
                last, heard = id, time.monotonic()
                yield id, entry["event"], entry["data"]
                if entry["event"] in LAST:
                    return
            if not found:
                if _is_read(client.xrevrange(key, count=1), last):
                    return
                yield None
    yield GAVE_UP


async def events_async(task: str, last: str | None = None) -> AsyncIterator[Entry | None]:
    """Yield what `events` yields, without blocking the event loop."""
    key, last, heard = _key(task), _position(last), time.monotonic()
    async with redis.asyncio.Redis.from_url(RESULT_BACKEND, **OPTIONS) as client:
        while time.monotonic() < heard + SILENT_SECONDS:
            found: Any = await client.xread({key: last}, count=1000, block=1000)  # milliseconds
            for id, entry in found[0][1] if found else []:
                last, heard = id, time.monotonic()
                yield id, entry["event"], entry["data"]
                if entry["event"] in LAST:
                    return
            if not found:
                if _is_read(await client.xrevrange(key, count=1), last):
                    return
                yield None
    yield GAVE_UP


def server_sent(task: str, last: str | None, revoke: Callable[[str], object]) -> Iterator[str]:
    """Yield an answer as server-sent events, from the one after `last`: the `Last-Event-ID` of the browser.

    Call `revoke` when the last reader has been gone for GRACE_SECONDS.
    """
    finished = False
    _enter(task)
    try:
        yield f"retry: {RETRY_SECONDS * 1000}\n\n"
        with closing(events(task, last)) as entries:
            for entry in entries:
                finished = entry is not None and entry[1] in LAST
                yield _framed(entry)
        finished = True
    finally:
        if not finished:
            _leave(task, revoke)


async def server_sent_async(
    task: str, last: str | None, revoke: Callable[[str], object]
) -> AsyncIterator[str]:
    """Yield what `server_sent` yields, without blocking the event loop."""
    finished = False
    await asyncio.to_thread(_enter, task)
    try:
        yield f"retry: {RETRY_SECONDS * 1000}\n\n"
        async with aclosing(events_async(task, last)) as entries:
            async for entry in entries:
                finished = entry is not None and entry[1] in LAST
                yield _framed(entry)
        finished = True
    finally:
        if not finished:
            _leave(task, revoke)


async def result_of(task: AsyncResult, timeout_seconds: float = 90) -> Any:
    """Await the result of a task. Raises the error of the task, or TimeoutError."""
    deadline = time.monotonic() + timeout_seconds
    async with redis.asyncio.Redis.from_url(RESULT_BACKEND) as client, client.pubsub() as changes:
        await changes.subscribe(task.backend.get_key_for_task(task.id))
        while not await asyncio.to_thread(task.ready):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no result within {timeout_seconds} s")
            await changes.get_message(ignore_subscribe_messages=True, timeout=1)
    return task.get()  # it has been read by now


def _key(task: str) -> str:
    return f"vector-index:chat:{task}"


def _position(last: str | None) -> str:
    """The id after which to read: the start for a header that is no id of Redis."""
    return last if last and re.fullmatch(r"\d{1,15}-\d{1,15}", last) else "0"


def _is_read(newest: Any, last: str) -> bool:
    """Tell whether a reader comes back that has already had the last entry."""
    return bool(newest) and newest[0][0] == last and newest[0][1]["event"] in LAST


def _framed(entry: Entry | None) -> str:
    """An entry as a server-sent event. A comment in its place finds out that the browser has gone."""
    if entry is None:
        return ": waiting\n\n"
    id, event, data = entry
    return (f"id: {id}\n" if id else "") + f"event: {event}\ndata: {data}\n\n"


def _enter(task: str) -> None:
    """Count one more reader of an answer, over all processes."""
    with redis.Redis.from_url(RESULT_BACKEND) as client:
        client.incr(f"answer-readers:{task}")
        client.expire(f"answer-readers:{task}", 3600)


def _leave(task: str, revoke: Callable[[str], object]) -> None:
    """Count one reader less after GRACE_SECONDS, and stop the answer if it was the last one."""

    def leave() -> None:
        with redis.Redis.from_url(RESULT_BACKEND) as client:
            if int(client.decr(f"answer-readers:{task}")) <= 0:
                revoke(task)

    timer = threading.Timer(GRACE_SECONDS, leave)
    timer.daemon = True
    timer.start()
