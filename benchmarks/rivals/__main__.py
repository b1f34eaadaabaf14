"""Compare indexing with rivals: the same machine, documents, Postgres and stand-in for a provider.

    python -m benchmarks.rivals --scenario bulk --latency 0,50,200 --contenders ours,pgai --repeats 3

Contenders alternate. A figure is the median of the repeats. CPU is that of the contender's processes and of Postgres,
for each row of an empty database, and for each document or call in scenarios that follow `bulk`. Memory is the peak of
the contender's processes (PSS) in MB. `times slower` compares documents a second, or medians. `inputs` are the texts
that the stand-in embedded.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.rivals import environments, standin
from benchmarks.rivals.contestants import KINDS, Entry
from benchmarks.rivals.process import Setting
from benchmarks.rivals.runs import measure
from benchmarks.rivals.scenarios import SCENARIOS, chosen
from benchmarks.rivals.table import tables
from worker import services


def parser() -> argparse.ArgumentParser:
    usual = ",".join(scenario.name for scenario in SCENARIOS if scenario.usual)
    names = ", ".join(f"{name} ({', '.join(kind.variants)})" for name, kind in KINDS.items())
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.rivals",
        description=__doc__,
        epilog="scenarios: " + "; ".join(f"{scenario.name}: {scenario.what}" for scenario in SCENARIOS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--scenario", default=usual, help=f"names with commas between (default: {usual})")
    found.add_argument("--contenders", default=",".join(KINDS), help=f"NAME or NAME:VARIANT of {names}")
    found.add_argument("--latency", default="50", help="ms of a request, with commas between (default: 50)")
    found.add_argument("--repeats", type=int, default=3, help="runs of each (default: 3)")
    found.add_argument("--documents", type=int, help="number, in place of the scenario's own")
    found.add_argument("--database-url", help="a Postgres with pgvector (default: an embedded one)")
    found.add_argument("--environments", type=Path, default=environments.FOLDER, help="folder of the rivals")
    found.add_argument("--timeout", type=float, default=300, help="seconds of a scenario, at most")
    found.add_argument("--output", type=Path, help="file for each measurement, a line of JSON each")
    return found


def main() -> None:
    arguments = parser().parse_args()
    entries = [Entry.parse(text) for text in arguments.contenders.split(",")]
    scenarios = chosen(arguments.scenario.split(","))
    for name in dict.fromkeys(entry.environment for entry in entries if entry.environment):
        environments.make(arguments.environments, name)
    measured = []
    with (
        tempfile.TemporaryDirectory(prefix="rivals-") as folder,
        postgres(arguments.database_url, Path(folder)) as database_url,
        standin.running() as provider,
    ):
        told(machine(), **provider.ceiling())
        setting = Setting(
            provider=provider,
            environments=arguments.environments,
            folder=Path(folder),
            timeout_seconds=arguments.timeout,
        )
        for row in measure(
            setting,
            database_url,
            entries,
            scenarios,
            latencies_ms=[float(text) for text in arguments.latency.split(",")],
            repeats=arguments.repeats,
            count=arguments.documents,
        ):
            measured.append(row)
            progress(row)
            if arguments.output:
                with arguments.output.open("a") as output:
                    output.write(json.dumps(row) + "\n")
    print(tables(measured))


@contextmanager
def postgres(given: str | None, folder: Path) -> Iterator[str]:
    """The address of the given server, or of an embedded one that is as durable as a user's."""
    if given:
        yield given
        return
    with services.running(folder / "home", valkey=False) as running:
        yield running.addresses.database_url


def machine() -> str:
    version = sys.version.split()[0]
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GB, load {os.getloadavg()[0]:.1f}, Python {version}"


def told(machine: str, *, requests_per_second: float, inputs_per_second: float) -> None:
    print(machine)
    print(
        f"the stand-in alone, at 0 ms: {requests_per_second:,.0f} requests/s of one input, "
        f"{inputs_per_second:,.0f} inputs/s in requests of 128\n",
        flush=True,
    )


def progress(row: dict) -> None:
    if "error" in row:
        told = "failed"
    else:
        told = f"{row['rate']:,.0f} documents/s" if row["rate"] else f"{row['p50_ms']:.0f} ms"
    line = f"{row['contender']}, {row['scenario']}, {row['latency_ms']:g} ms: {told}"
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
