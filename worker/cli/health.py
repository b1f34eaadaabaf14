"""`live` and `ready`: what a supervisor and a load balancer ask."""

import click

from worker.celery import liveness
from worker.celery.liveness import Heartbeat
from worker.configuration import load
from worker.errors import ServiceUnreachable
from worker.keyspace import CHAT, EMBED, STAGING

# a worker writes every 10 s, or 20 where its broker does not answer
SILENT_SECONDS = 60.0
KINDS: dict[str, set[str]] = {
    "staging": {STAGING},
    "embed": {EMBED},
    "chat": {CHAT},
}
KINDS["all"] = set().union(*KINDS.values())
kinds = click.Choice(tuple(KINDS))


@click.command()
@click.option(
    "--worker", help="Only that of this name, as `staging` or `embed`.  [default: all of this home]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    default=SILENT_SECONDS,
    show_default=True,
    help="How long a living worker may be silent.",
)
def live(worker: str | None, seconds: float) -> int:
    """Tell whether the workers of this machine and home turn: exit code 0, or 1 with the reason.

    One that is busy is alive, and so is one whose broker or Postgres is away: it reconnects by itself. One that was
    killed, is stopped, or whose loop hangs is not.
    """
    home = load().home
    found = [p for p in liveness.read(home) if worker in (None, p.worker, p.worker.partition("@")[0])]
    reasons = [reason for p in found if (reason := _silent(p, seconds))]
    if not found:
        named = f" {worker}" if worker else ""
        reasons = [
            f"no worker{named} of the home {home} serves: none was started, it has ended, or it has not reached its "
            "broker yet, which its log says"
        ]
    for line in reasons or [f"{p.worker} was alive {p.age_seconds:.0f} s ago" for p in found]:
        click.echo(line, err=bool(reasons))
    return 1 if reasons else 0


def _silent(last: Heartbeat, seconds: float) -> str | None:
    """Why a worker counts as dead; None: it lives."""
    if not last.process_exists:
        return (
            f"{last.worker} (process {last.pid}) is gone: start it again, or delete its file in `alive` of the home "
            "where no worker of this name is to run"
        )
    if not 0 <= last.age_seconds <= seconds:
        return f"{last.worker} (process {last.pid}) does not turn, for {last.age_seconds:.0f} s: end it with SIGKILL"
    return None


@click.command()
@click.option(
    "--queues", type=kinds, default="all", show_default=True, help="What has to be served, by any worker."
)
def ready(queues: str) -> None:
    """Tell whether what is sent is done now: exit code 0, or 3 with the reason.

    Postgres answers with our schema, the broker answers, and a worker of any machine consumes each queue.
    """
    configuration = load()
    # what `live`, which is asked more often, does not need: Celery alone takes half a second
    from worker import services
    from worker.cli.client import Client
    from worker.store import schema

    url = configuration.database_url
    schema.check(url or services.attach(configuration.home, valkey=False).database_url)
    served = set().union(*Client(configuration).consumers().values())
    if missing := sorted(KINDS[queues] - served):
        raise ServiceUnreachable(
            f"no worker consumes {', '.join(missing)}: start one, or see what its log says"
        )
    click.echo(f"Postgres and the broker answer, and workers consume {', '.join(sorted(KINDS[queues]))}")
