"""Answers in a browser, through the examples for FastAPI and Django."""

import os
from contextlib import closing
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.fixtures.answering import ANSWER, QUESTION, REVOKED, last_event
from tests.fixtures.proxy import Proxy
from tests.fixtures.sites import Site
from tests.fixtures.system import System, eventually
from tests.provider import Provider

pytestmark = pytest.mark.slow

Event = tuple[str, str, Any]
FINAL = ("done", "error")


def three_readers(site: Site, task: str) -> list[list[Event]]:
    """What three browsers get: one from the start, one that reconnects after each event, and a late one."""
    first: list[Event] = []
    early = Thread(target=lambda: first.extend(site.events(task)))
    early.start()
    again: list[Event] = []
    while not again or again[-1][1] not in FINAL:
        with closing(site.events(task, again[-1][0] if again else None)) as events:
            again += islice(events, 1)
    early.join()
    return [first, again, list(site.events(task))]


def test_three_browsers_get_the_same_answer(site: Site, answering: System, slow_words: Provider) -> None:
    early, again, late = three_readers(site, site.ask(QUESTION))
    assert early == again == late
    assert [event for _, event, _ in late] == ["sources", *["token"] * len(ANSWER.split()), "done"]
    assert late[-1][2]["answer"] == ANSWER


def test_three_browsers_see_where_an_answer_was_cut_off(
    site: Site, answering: System, slow_words: Provider
) -> None:
    slow_words.inject("cut", path="/chat/completions", after=3)
    early, again, late = three_readers(site, site.ask(QUESTION))
    assert early == again == late
    assert [event for _, event, _ in late] == ["sources", *["token"] * 3, "error"]
    assert late[-1][2] == "gpt-3.5-turbo: the stream of the answer broke off; retry later"


def test_answer_stops_when_the_browser_goes_away(site: Site, answering: System, slow_words: Provider) -> None:
    slow_words.answer = "word " * 3_000
    task = site.ask(QUESTION)
    with closing(site.events(task)) as events:
        assert [event for _, event, _ in islice(events, 3)] == ["sources", "token", "token"]
    eventually(lambda: last_event(answering, task) == ("error", REVOKED))


@pytest.mark.parametrize("site", ["fastapi", "django-wsgi"], indirect=True)
def test_page_shows_the_answer_through_a_lost_connection_and_a_reload(
    site: Site, answering: System, slow_words: Provider, browser: Any, tmp_path: Path
) -> None:
    slow_words.word_seconds = 0.5
    with Proxy(site.port) as between:
        browser.get(f"http://127.0.0.1:{between.port}/")
        browser.find_element("id", "question").send_keys(QUESTION)
        browser.find_element("css selector", "form button").click()
        eventually(lambda: "They sing" in text(browser, "answer"))
        between.cut()
        eventually(lambda: "Connection lost" in text(browser, "state"))
        between.restore()
        eventually(lambda: "tokens" in text(browser, "state"))
        assert text(browser, "answer") == ANSWER
        assert browser.find_element("css selector", ".cited").text == "Canaries"
        if folder := os.environ.get("SCREENSHOTS"):
            browser.find_element("tag name", "body").screenshot(f"{folder}/answers.png")
        browser.refresh()
        eventually(lambda: "tokens" in text(browser, "state"))
        assert text(browser, "answer") == ANSWER


@pytest.mark.parametrize("site", ["fastapi"], indirect=True)
def test_page_says_what_is_wrong(site: Site, answering: System, slow_words: Provider, browser: Any) -> None:
    slow_words.inject("cut", path="/chat/completions", after=2)
    browser.get(site.url)
    browser.find_element("id", "question").send_keys(QUESTION)
    browser.find_element("css selector", "form button").click()
    eventually(lambda: "broke off" in text(browser, "state"))
    assert text(browser, "answer") == "They sing "


def text(browser: Any, id: str) -> str:
    return str(browser.find_element("id", id).text)
