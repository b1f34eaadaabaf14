"""Run every fault, the simulation and the rule tests at length: `python -m tests.soak`, about an hour and a half.

The faults of `tests/faults.py` run with the product's own times, each on a fresh system. The simulation follows, first
with all rules in place, then with one rule removed at a time. Tables are printed as Markdown.
"""

import argparse
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import rules
from tests.faults import FAULTS, Fault, Outcome, run, violations
from tests.fixtures.rig import running_rig
from tests.rules import fresh_database, fresh_postgres, silence
from tests.simulation import STORM, Simulation
from worker import configuration

HEADER = """
| fault | times injected | accepted | searchable | failed | lost | chunks embedded again | recovered after (s) |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def run_faults(word: str, *, quick: bool) -> bool:
    """Run the faults whose name contains the word, each on a fresh system; return whether all passed."""
    print(HEADER, flush=True)
    passed = True
    for fault in FAULTS:
        if word in fault.name:
            with TemporaryDirectory(prefix="vector-index-soak-") as folder:
                passed &= run_fault(fault, Path(folder), quick=quick)
    return passed


def run_fault(fault: Fault, folder: Path, *, quick: bool) -> bool:
    try:
        with running_rig(folder, fast=quick) as rig:
            outcome = run(rig, fault, "index0", long=not quick)
    except Exception:  # noqa: BLE001 - the other faults are still to be tried
        print(f"| {fault.name} | aborted |", flush=True)
        traceback.print_exc()
        return False
    print(row(outcome), flush=True)
    for violation in violations(fault, outcome):
        print(f"{fault.name}: {violation}", file=sys.stderr)
    return not violations(fault, outcome)


def row(outcome: Outcome) -> str:
    counts = [outcome.accepted, outcome.live, outcome.failed, outcome.lost, outcome.embedded_again]
    cells = [outcome.fault, str(outcome.times), *(f"{n:,}" for n in counts), f"{outcome.seconds:.0f}"]
    return f"| {' | '.join(cells)} |"


def simulate(seconds: float) -> bool:
    """Simulate with all rules in place; return whether every invariant held."""
    silence()
    with fresh_postgres() as url, fresh_database(url) as database:
        simulation = Simulation(database, configuration.load({}).index("default"), STORM)
        simulation.run(seconds)
    print(f"\n{seconds:.0f} s of simulation: {simulation}", flush=True)
    return not +simulation.violations


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--faults", metavar="WORD", default="", help="only faults whose name contains it")
    parser.add_argument(
        "--quick", action="store_true", help="short times and few documents, as in the test suite"
    )
    parser.add_argument("--minutes", type=float, default=10, help="length of the simulation (0: skip it)")
    parser.add_argument(
        "--rule-seconds", type=float, default=120, help="time limit for each removed rule (0: skip them)"
    )
    arguments = parser.parse_args()
    passed = [run_faults(arguments.faults, quick=arguments.quick)]
    if arguments.minutes:
        passed.append(simulate(60 * arguments.minutes))
    if arguments.rule_seconds:
        passed.append(rules.table(arguments.rule_seconds))
    raise SystemExit(not all(passed))


if __name__ == "__main__":
    main()
