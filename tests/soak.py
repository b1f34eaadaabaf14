"""The long runs: `python -m tests.soak` breaks a system in every way that the fault suite knows, with the product's own
times, and prints the table as Markdown; then the simulation of the protocol, whole and with one rule away at a time.

About an hour and a half. `--faults WORD` runs the rows that contain it, `--minutes` and `--rule-seconds` say how long
the simulation runs (0: not at all), `--quick` takes the suite's short times.
"""

import argparse
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import rules
from tests.faults import FAULTS, Fault, Outcome, complaints, run
from tests.fixtures.rig import running_rig
from tests.rules import fresh_database, fresh_postgres, silence
from tests.simulation import STORM, Simulation
from worker import configuration

HEADER = """
| fault | times | accepted | live | failed with a reason | lost | chunks embedded twice | seconds until normal |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def break_everything(word: str, *, quick: bool) -> bool:
    """Run the rows whose name contains the word, each on a system of its own; whether all kept their promises."""
    print(HEADER, flush=True)
    kept = True
    for fault in FAULTS:
        if word in fault.name:
            with TemporaryDirectory(prefix="vector-index-soak-") as folder:
                kept &= break_once(fault, Path(folder), quick=quick)
    return kept


def break_once(fault: Fault, folder: Path, *, quick: bool) -> bool:
    try:
        with running_rig(folder, hasty=quick) as rig:
            outcome = run(rig, fault, "index0", long=not quick)
    except AssertionError:
        print(f"| {fault.name} | broke off |", flush=True)
        traceback.print_exc()
        return False
    print(row(outcome), flush=True)
    for complaint in complaints(fault, outcome):
        print(f"{fault.name}: {complaint}", file=sys.stderr)
    return not complaints(fault, outcome)


def row(outcome: Outcome) -> str:
    counts = [outcome.accepted, outcome.live, outcome.failed, outcome.lost, outcome.twice]
    cells = [outcome.fault, str(outcome.times), *(f"{n:,}" for n in counts), f"{outcome.seconds:.0f}"]
    return f"| {' | '.join(cells)} |"


def simulate(seconds: float) -> bool:
    """The simulation, whole; whether no law was broken."""
    silence()
    with fresh_postgres() as url, fresh_database(url) as database:
        simulation = Simulation(database, configuration.load({}).index("default"), STORM)
        simulation.run(seconds)
    print(f"\n{seconds:.0f} s of simulation: {simulation}", flush=True)
    return not +simulation.violations


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--faults", metavar="WORD", default="", help="only rows that contain it")
    parser.add_argument("--quick", action="store_true", help="the times and loads of the test suite")
    parser.add_argument("--minutes", type=float, default=10, help="of simulation; 0: none")
    parser.add_argument("--rule-seconds", type=float, default=120, help="for each rule, at most; 0: none")
    arguments = parser.parse_args()
    right = [break_everything(arguments.faults, quick=arguments.quick)]
    if arguments.minutes:
        right.append(simulate(60 * arguments.minutes))
    if arguments.rule_seconds:
        right.append(rules.table(arguments.rule_seconds))
    raise SystemExit(not all(right))


if __name__ == "__main__":
    main()
