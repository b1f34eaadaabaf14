"""Schedules with real processes: two beats, a killed beat, broker outages, and the output of `schedule`.

Run it for a full minute: `SCHEDULE_SECONDS=60 .venv/bin/python -m pytest -s -n 0 tests/acceptance/test_schedule.py`
"""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.fixtures.proxy import Proxy
from tests.fixtures.system import CHAT, EMBED, STAGING, VECTOR_INDEX, System, eventually
from worker.cli.processes import spawn
from worker.cli.supervision import Supervisor

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("SCHEDULE_SECONDS", "15"))
EVERY_SECONDS = 2.0

SETTINGS = """
VECTOR_INDEX = {
    "INDEXES": {"default": {"SOURCE": "shelf", "SCHEDULE": 2}},
    "SOURCES": {"shelf": {"CLASS": "shelf.Shelf"}},
}
TIMEZONE = "Europe/Berlin"
"""

# The source records each reading in a file, independently of the product.
SHELF = """
import os, time

class Shelf:
    def documents(self):
        self.note("begin")
        yield from ({"id": str(number), "text": f"Book number {number}."} for number in range(5))
        time.sleep(0.2)
        self.note("end")

    def note(self, word):
        with open("readings", "a") as file:
            file.write(f"{word}\\n")
"""

WORKER = {"all": ["worker", "--queues", "all"]}


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts of a schedule's runs."""

    done: int
    skipped: int
    failed: int
    doubles: int  # due times with more than one run
    overlaps: int  # runs that began before the previous one ended
    readings: list[str]  # of the source: begin, end, begin, ...


def tally(system: System) -> Tally:
    with psycopg.connect(system.environment["DATABASE_URL"], autocommit=True) as connection:
        rows = connection.execute(
            "SELECT outcome, scheduled_for, started_at < lag(finished_at) OVER (ORDER BY started_at) "
            "FROM vector_index.runs WHERE outcome <> 'skipped'"
        ).fetchall()
        skips = connection.execute("SELECT count(*) FROM vector_index.runs WHERE outcome = 'skipped'")
        skipped = (skips.fetchone() or (0,))[0]
    outcomes = Counter(row[0] for row in rows)
    file = system.folder / "readings"
    return Tally(
        done=outcomes["done"],
        skipped=skipped,
        failed=outcomes["failed"],
        doubles=len(rows) - len({row[1] for row in rows if row[1] is not None}),
        overlaps=sum(bool(row[2]) for row in rows),
        readings=file.read_text().split() if file.exists() else [],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ours.py").write_text(SETTINGS)
    (tmp_path / "shelf.py").write_text(SHELF)
    return tmp_path


def when_idle(system: System) -> Tally:
    """Wait until no run is in progress, and return the tally. The beats must have ended."""

    def still() -> Tally | None:
        found = tally(system)
        return found if found.readings.count("begin") == found.readings.count("end") == found.done else None

    found: Tally = eventually(still)
    return found


@pytest.mark.timeout(SECONDS + 300)
def test_two_beats_send_each_run_once_though_one_is_killed(
    start_system: Callable[..., Any], folder: Path
) -> None:
    processes = {**WORKER, "one": ["beat"], "two": ["beat"]}
    with start_system(folder, processes, VECTOR_INDEX_SETTINGS=str(folder / "ours.py")) as system:
        eventually(lambda: tally(system).done)
        started, at_start = time.monotonic(), tally(system)
        time.sleep(SECONDS / 2)
        system.kill("one")
        halfway = tally(system)
        time.sleep(max(0.0, started + SECONDS - time.monotonic()))
        full, seconds = tally(system), time.monotonic() - started
        show(system)
        system.kill("two")
        found = when_idle(system)
    runs = full.done - at_start.done
    print(
        f"\n{seconds:.0f} s, every {EVERY_SECONDS:g} s, two beats, one killed half-way: {runs} runs, "
        f"{found.skipped} skipped, {found.failed} failed, {found.overlaps} overlaps, {found.doubles} doubles"
    )
    assert (found.overlaps, found.doubles, found.failed) == (0, 0, 0)
    assert found.readings == ["begin", "end"] * found.done
    assert at_start.done < halfway.done < full.done
    assert seconds / EVERY_SECONDS / 4 <= runs <= seconds / EVERY_SECONDS + 1


def show(system: System) -> None:
    """Check that `vector-index schedule` shows the last run and the next one."""
    (row,) = json.loads(system.command("schedule", "--json").stdout)["schedules"]
    assert (row["index"], row["schedule"], row["last_run"]["read"]) == ("default", "2", 5)
    assert -SECONDS < row["due_in_seconds"] <= EVERY_SECONDS
    printed = system.command("schedule", "--index", "default").stdout
    assert printed.startswith("default: every 2 s\n  last run: ")
    assert "5 read, " in printed
    assert " CET, " in printed


@contextmanager
def behind(proxy: Proxy, system: System) -> Iterator[System]:
    """The same system with processes that connect to the broker through a proxy."""
    broker = system.environment["BROKER_URL"]
    environment = {
        **system.environment,
        "BROKER_URL": broker.replace(f":{urlsplit(broker).port}", f":{proxy.port}"),
    }
    cut_off = System(folder=system.folder, environment=environment)
    try:
        for name, arguments in WORKER.items():
            cut_off.start(name, arguments)
        cut_off.await_queues(STAGING, EMBED, CHAT)
        yield cut_off
    finally:
        cut_off.stop()


def test_schedule_continues_after_broker_outages_and_a_killed_beat(
    start_system: Callable[..., Any], folder: Path
) -> None:
    """The beat has a supervisor, as in `up`. It survives the first outage and is killed in the second."""
    with start_system(folder, {}, VECTOR_INDEX_SETTINGS=str(folder / "ours.py")) as bare:
        port = urlsplit(bare.environment["BROKER_URL"]).port
        assert port
        with Proxy(port) as proxy, behind(proxy, bare) as system, (folder / "beat.log").open("ab") as log:
            beat = Supervisor({"beat": partial(spawn, [VECTOR_INDEX, "beat"], system.environment, log)})
            with beat:

                def more_runs(count: int = 2) -> None:
                    before = tally(system).done
                    eventually(lambda: beat.check() or tally(system).done >= before + count)

                more_runs()
                proxy.cut()
                eventually(lambda: "Couldn't apply scheduled task due" in system.log("beat"))
                proxy.restore()
                more_runs()
                assert beat.children["beat"].deaths == 0
                proxy.cut()
                process = beat.children["beat"].process
                assert process
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                eventually(lambda: beat.check() or beat.children["beat"].process not in (None, process))
                proxy.restore()
                more_runs()
                assert beat.children["beat"].deaths == 1
        assert "Traceback" not in bare.log("beat")
        assert (tally(bare).overlaps, tally(bare).doubles) == (0, 0)


def test_a_worker_sends_the_schedule_in_place_of_a_beat(
    start_system: Callable[..., Any], folder: Path
) -> None:
    worker = {"all": [*WORKER["all"], "--periodic"]}
    with start_system(folder, worker, VECTOR_INDEX_SETTINGS=str(folder / "ours.py")) as system:
        eventually(lambda: tally(system).done >= 3)
        assert "Traceback" not in system.log("all")
        assert (tally(system).overlaps, tally(system).doubles) == (0, 0)


def test_schedule_command_tells_how_to_set_a_schedule(system: System) -> None:
    done = system.command("schedule", "--index", "remote")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("remote has no schedule: set its SOURCE and its SCHEDULE")
