"""Readers of a streamed answer in an application: early, late, back again, and gone."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from threading import Thread
from types import ModuleType
from typing import Any

import pytest
import redis

from tests.fixtures.answering import ANSWER, QUESTION, REVOKED, last_event
from tests.fixtures.system import CHAT, PATIENCE_SECONDS, System, eventually
from tests.provider import Provider

pytestmark = pytest.mark.slow  # it starts a whole system

Entry = tuple[str, str, str]


def ask(system: System) -> str:
    task = system.app.send_task(
        "tasks.chat", queue=CHAT, kwargs={"question": QUESTION, "stream": True}, ignore_result=True
    )
    return str(task.id)


def whole(entries: Iterator[Entry | None]) -> list[Entry]:
    return [entry for entry in entries if entry is not None]


def three_readers(answer_stream: ModuleType, task: str) -> list[list[Entry]]:
    """What three readers get: one from the start, one that loses its connection after each entry, and a late one."""
    first: list[Entry] = []
    early = Thread(target=lambda: first.extend(whole(answer_stream.events(task))))
    early.start()
    again: list[Entry] = []
    while not again or again[-1][1] not in ("done", "error"):
        with closing(answer_stream.events(task, again[-1][0] if again else None)) as entries:
            again += islice((entry for entry in entries if entry), 1)
    early.join()
    return [first, again, whole(answer_stream.events(task))]


def test_three_readers_of_one_stream_read_the_same(
    answer_stream: ModuleType, answering: System, slow_words: Provider
) -> None:
    early, again, late = three_readers(answer_stream, ask(answering))
    assert early == again == late
    assert [event for _, event, _ in late] == ["sources", *["token"] * len(ANSWER.split()), "done"]


@pytest.mark.parametrize("abruptly", [False, True])
def test_readers_of_an_answer_that_is_cut_off_all_see_its_start_and_the_error(
    answer_stream: ModuleType, answering: System, slow_words: Provider, abruptly: bool
) -> None:
    slow_words.inject("cut", path="/chat/completions", after=3, abruptly=abruptly)
    early, again, late = three_readers(answer_stream, ask(answering))
    assert early == again == late
    assert [event for _, event, _ in late[:-1]] == ["sources", *["token"] * (len(late) - 2)]
    assert late[-1][1] == "error"
    assert late[-1][2].startswith('"gpt-3.5-turbo: ')


def test_reader_who_returns_after_the_end_gets_nothing_more(
    answer_stream: ModuleType, answering: System
) -> None:
    task = ask(answering)
    entries = whole(answer_stream.events(task))
    assert entries[-1][1] == "done"
    assert whole(answer_stream.events(task, entries[-1][0])) == []


def test_wrong_last_event_id_reads_from_the_start(answer_stream: ModuleType, answering: System) -> None:
    task = ask(answering)
    entries = whole(answer_stream.events(task))
    assert whole(answer_stream.events(task, "0-0 COUNT 1\r\nevent: done")) == entries


def test_reader_gives_up_when_no_worker_answers(
    answer_stream: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_stream, "SILENT_SECONDS", 0.5)
    ((id, event, _),) = whole(answer_stream.events("no-task-of-this-id"))
    assert (id, event) == ("", "error")


def test_asynchronous_reader_reads_the_same_and_leaves_the_loop_free(
    answer_stream: ModuleType, answering: System, slow_words: Provider
) -> None:
    """Between two entries, the loop runs other work, which a blocking reader would stop."""
    task, turns = ask(answering), 0

    async def read() -> tuple[list[Entry], list[int]]:
        nonlocal turns
        other = asyncio.create_task(turn())
        entries, seen = [], []
        async for entry in answer_stream.events_async(task):
            if entry:
                entries.append(entry)
                seen.append(turns)
        other.cancel()
        return entries, seen

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    entries, seen = asyncio.run(read())
    assert entries == whole(answer_stream.events(task))
    assert seen[-1] > seen[0] + 10


def test_answer_without_readers_is_revoked(
    answer_stream: ModuleType, answering: System, slow_words: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_stream, "GRACE_SECONDS", 0.1)
    slow_words.answer = "word " * 3_000
    task = ask(answering)
    revoke = answering.app.control.revoke
    with (
        closing(answer_stream.server_sent(task, None, revoke)) as stays,
        closing(answer_stream.server_sent(task, None, revoke)) as leaves,
    ):
        assert next(stays) == next(leaves) == "retry: 2000\n\n"
        leaves.close()
        shown = islice((event for event in stays if event.startswith("id: ")), 10)
        assert len(list(shown)) == 10  # the other reader has it on
        assert last_event(answering, task)[0] == "token"
    eventually(lambda: last_event(answering, task) == ("error", REVOKED))


def test_reader_who_returns_within_the_grace_period_keeps_the_answer(
    answer_stream: ModuleType, answering: System, slow_words: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count of readers is read when the period ends: the browser has reconnected by then."""
    revoked: list[str] = []
    ended: list[object] = []
    monkeypatch.setattr(answer_stream.threading, "Timer", lambda seconds, leave: _Timer(leave, ended))
    task = ask(answering)
    with closing(answer_stream.server_sent(task, None, revoked.append)) as lost:
        next(lost)
        first = next(event for event in lost if event.startswith("id: "))
    id = first.partition("\n")[0].removeprefix("id: ")
    rest = answer_stream.server_sent(task, id, revoked.append)
    next(rest)
    for leave in ended:
        leave()  # type: ignore[operator]
    assert len(ended) == 1
    assert "event: done" in list(rest)[-1]
    assert revoked == []


class _Timer:
    """A timer whose time the test chooses."""

    daemon = False

    def __init__(self, leave: object, ended: list[object]) -> None:
        self.start = lambda: ended.append(leave)


def test_result_is_awaited_while_the_loop_does_other_work(
    answer_stream: ModuleType, answering: System, slow_words: Provider
) -> None:
    """Given two questions, their answers are awaited together in one thread."""

    async def both() -> list[Any]:
        sent = [answering.send("tasks.chat", CHAT, question=QUESTION) for _ in range(2)]
        return await asyncio.gather(*(answer_stream.result_of(task, PATIENCE_SECONDS) for task in sent))

    assert [result["answer"] for result in asyncio.run(both())] == [ANSWER, ANSWER]


def test_awaited_result_raises_the_error_of_the_task_or_a_timeout(
    answer_stream: ModuleType, answering: System
) -> None:
    wrong = answering.send("tasks.chat", CHAT, question="")
    with pytest.raises(Exception, match="question must be a string with at least one word"):
        asyncio.run(answer_stream.result_of(wrong, PATIENCE_SECONDS))
    with pytest.raises(TimeoutError, match=r"no result within 0.1 s"):
        asyncio.run(answer_stream.result_of(answering.app.AsyncResult("no-task-of-this-id"), 0.1))


def test_lost_connection_to_redis_loses_and_doubles_no_entry(
    answer_stream: ModuleType, answering: System, slow_words: Provider
) -> None:
    task = ask(answering)
    got: list[Entry] = []
    with redis.Redis.from_url(answering.environment["BROKER_URL"]) as client:
        database = str(client.get_connection_kwargs()["db"])
        for entry in answer_stream.events(task):
            got += [entry] if entry else []
            if len(got) == 2:
                readers = [
                    each
                    for each in client.client_list()
                    if each["cmd"].startswith("xread") and each["db"] == database
                ]
                assert [client.client_kill_filter(_id=each["id"]) for each in readers] == [1]
    assert got == whole(answer_stream.events(task))
