"""Contenders alternate in one run, so that a busy neighbour slows all of them: compare the ratios of one run.

Each begins a group of scenarios with a new process and a new database, and with a warm-up that is not measured.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

from benchmarks.rivals import corpus
from benchmarks.rivals.contender import WARM_DOCUMENTS
from benchmarks.rivals.contestants import Entry
from benchmarks.rivals.process import Contestant, Failed, Setting, running
from benchmarks.rivals.scenarios import BY_NAME, Scenario, written


def measure(
    setting: Setting,
    database_url: str,
    entries: Sequence[Entry],
    scenarios: Sequence[Scenario],
    *,
    latencies_ms: Sequence[float],
    repeats: int,
    count: int | None,
) -> Iterator[dict[str, Any]]:
    """Yield a measurement for each contender, scenario, latency and repeat; a failure has `error`."""
    warm = corpus.write(setting.folder / "warm.jsonl", corpus.documents(WARM_DOCUMENTS, seed=9))
    for latency_ms in latencies_ms:
        for _ in range(repeats):
            for group in groups(scenarios):
                for entry in entries:
                    common = {"contender": str(entry), "latency_ms": latency_ms}
                    with database(database_url, entry.name) as url:
                        setting.provider.reset(latency_seconds=latency_ms / 1000)
                        for found in _group(setting, entry, group, url, warm, count):
                            yield {**common, **found}


def groups(scenarios: Sequence[Scenario]) -> list[list[Scenario]]:
    """Scenarios that use the same database, the one that fills it first."""
    found: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        found.setdefault(scenario.after or scenario.name, []).append(scenario)
    return list(found.values())


def _group(
    setting: Setting, entry: Entry, group: Sequence[Scenario], url: str, warm: Path, count: int | None
) -> Iterator[dict[str, Any]]:
    wanted = [scenario for scenario in group if scenario.has(entry.name)]
    if not wanted:
        return
    named = {"scenario": wanted[0].name, "what": wanted[0].what}
    try:
        with running(entry, setting, url, warm) as contestant:
            if wanted[0].after:
                _run(contestant, BY_NAME[wanted[0].after], count)
            for scenario in wanted:
                named = {"scenario": scenario.name, "what": scenario.what}
                yield named | _run(contestant, scenario, count)
    except Failed as error:
        yield named | {"error": str(error)}


def _run(contestant: Contestant, scenario: Scenario, count: int | None) -> dict[str, Any]:
    return contestant.measured(scenario, written(scenario, count, contestant.setting.folder))


@contextmanager
def database(server_url: str, name: str) -> Iterator[str]:
    """Make a new database on the server, with pgvector; drop it when the block ends."""
    parts = urlsplit(server_url)
    fresh = f"rivals_{name}"
    with psycopg.connect(server_url, autocommit=True) as administrator:
        _drop(administrator, fresh)
        administrator.execute(f"CREATE DATABASE {fresh}")
        try:
            url = urlunsplit(parts._replace(path=f"/{fresh}"))
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            yield url
        finally:
            _drop(administrator, fresh)


def _drop(administrator: "psycopg.Connection[Any]", name: str) -> None:
    """Drop a database, once Postgres' own maintenance has left it: only a superuser may end that."""
    for pause_seconds in (0.5, 1, 2, 4, 8):
        with suppress(psycopg.errors.InsufficientPrivilege):
            administrator.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            return
        time.sleep(pause_seconds)
    administrator.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
