"""The tables of `status --watch`."""

from io import StringIO
from typing import Any

import pytest
from rich.columns import Columns
from rich.console import Console

from worker.cli.status import Rates, _index_state, _line, _table

RED, GREEN, YELLOW = "\x1b[31m", "\x1b[32m", "\x1b[33m"


def state(**values: Any) -> dict[str, Any]:
    return {
        "index": "default", "documents": {"pending": 0, "live": 0, "failed": 0}, "refused": 0, "pending_chunks": 0,
        "pending_tokens": 0, "embedded_chunks": 0, "oldest_seconds": 0.0, "paused": None, "last_error": None,
        "builds": [],
    } | values  # fmt: skip


def shown(*states: dict[str, Any], width: int = 100, colours: bool = True) -> str:
    written = StringIO()
    system: Any = "standard" if colours else None
    console = Console(
        file=written, force_terminal=True, color_system=system, width=width, no_color=not colours
    )
    tables = []
    for each in states:
        rates = Rates()
        rates.add(1.0, each)
        tables.append(_table(each, rates.as_json()))
    console.print(Columns(tables))
    return written.getvalue()


def test_pending_is_yellow_live_is_green_and_failed_is_red() -> None:
    busy = shown(state(documents={"pending": 3, "live": 2, "failed": 1}))
    assert [colour in busy for colour in (RED, GREEN, YELLOW)] == [True, True, True]
    idle = shown(state())
    assert [colour in idle for colour in (RED, GREEN, YELLOW)] == [False, False, False]


def test_an_error_is_red_and_its_brackets_are_not_markup() -> None:
    said = shown(state(last_error="[red]the key [sk] is refused[/] [/nothing]"))
    assert RED in said
    assert "[red]the key [sk] is refused[/] [/nothing]" in said


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"state": "building", "progress": 0.434}, "43% built; until then,"),
        ({"state": "waiting", "progress": None}, "waits for the end of the load"),
        ({"state": "ready", "progress": None}, None),
    ],
)
def test_a_missing_vector_index_is_told(found: dict[str, Any], told: str | None) -> None:
    build = {"build": 1, "state": "live", "documents": 9, "rebuild": None, "drift": [], "vector_index": found}
    outbox = {"waiting": 0, "rejected": 0, "oldest_seconds": 0.0, "unknown_indexes": {}}
    large = state(builds=[build], outbox=outbox)
    rates = Rates()
    rates.add(1.0, large)
    for text in (shown(large), _line(large, rates.as_json()), "\n".join(_index_state(large))):
        assert ("vector index" in text) == (told is not None)
        assert told is None or told in text


def test_a_rebuild_is_shown_with_its_progress() -> None:
    progress = {
        "documents": 1_200, "filled": 400, "done": 300, "pending_chunks": 5_000, "copied": 70, "embedded": 900,
        "failed": 0, "seconds": 60.0, "seconds_left": 180.0,
    }  # fmt: skip
    common = {"drift": [], "vector_index": {"state": "ready", "progress": None}}
    live = {"build": 1, "state": "live", "documents": 1_200, "rebuild": None, **common}
    new = {"build": 2, "state": "filling", "documents": 300, "rebuild": progress, **common}
    busy = state(builds=[live, new])
    rates = Rates()
    rates.add(1.0, busy)
    told = "build 2: filling, 300 documents of 1,200, 5,000 chunks pending, 70 vectors reused, 180 s left"
    assert told in _line(busy, rates.as_json())
    assert told in " ".join(shown(busy, colours=False).replace("│", " ").split())
    assert "build 1" not in shown(busy)


def test_tables_are_side_by_side_if_the_terminal_is_wide_enough() -> None:
    states = [state(index="articles"), state(index="products", last_error="word " * 40)]
    together = [line for line in shown(*states, width=120).splitlines() if "pending chunks" in line]
    apart = [line for line in shown(*states, width=60).splitlines() if "pending chunks" in line]
    assert ([line.count("pending chunks") for line in together], len(apart)) == ([2], 2)
