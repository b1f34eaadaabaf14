"""`live`: the liveness check for supervisors, from the heartbeat files of this machine's workers."""

import click

from worker.celery import liveness
from worker.celery.liveness import Heartbeat
from worker.cli.streams import echo
from worker.configuration import load
from worker.exit_codes import ExitCode

# a worker sends a heartbeat every 10 s, or every 20 s while its broker is unreachable
SILENT_SECONDS = 60.0


@click.command()
@click.option(
    "--worker", help="Check only the worker of this name, such as `embed`.  [default: all of this home]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    default=SILENT_SECONDS,
    show_default=True,
    help="Maximum age of a worker's last heartbeat.",
)
def live(worker: str | None, seconds: float) -> ExitCode:
    """Liveness check: exit 0 if this machine's workers are responsive.

    Reads the heartbeat files in VECTOR_INDEX_HOME, so it also works while Postgres or the broker is down. A busy
    worker is responsive, and so is one that has lost its broker: it reconnects by itself. A worker that was killed,
    is stopped or hangs fails the check. Exit code 1: no worker is running, or one is not responsive.
    """
    home = load().home
    found = [p for p in liveness.read(home) if worker in (None, p.worker, p.worker.partition("@")[0])]
    problems = [problem for p in found if (problem := _problem(p, seconds))]
    if not found:
        named = f" {worker}" if worker else ""
        problems = [
            f"no worker{named} of the home {home} is running: start it with `vector-index worker`, or read its log: "
            "it may have ended, or not have reached its broker yet"
        ]
    for line in problems or [f"{p.worker} sent a heartbeat {p.age_seconds:.0f} s ago" for p in found]:
        echo(line, err=bool(problems))
    return ExitCode.FAILED if problems else ExitCode.DONE


def _problem(last: Heartbeat, seconds: float) -> str | None:
    """Return the reason why a worker fails the check, or `None`."""
    if not last.process_exists:
        return (
            f"worker {last.worker} (pid {last.pid}) is gone: start it again, or delete its file in the folder "
            "`alive` of the home if you removed this worker"
        )
    if not 0 <= last.age_seconds <= seconds:
        return (
            f"worker {last.worker} (pid {last.pid}) has been unresponsive for {last.age_seconds:.0f} s: "
            "kill it with SIGKILL"
        )
    return None
