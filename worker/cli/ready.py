"""`ready`: the readiness check for load balancers."""

import click

from worker import services
from worker.cli.client import Client
from worker.cli.pools import POOLS
from worker.cli.streams import echo
from worker.configuration import load
from worker.errors import ServiceUnreachable
from worker.indexing import drift
from worker.store import builds, connection, schema


@click.command()
@click.option(
    "--queues",
    type=click.Choice(tuple(POOLS)),
    default="all",
    show_default=True,
    help="Queues that a worker must consume.",
)
def ready(queues: str) -> None:
    """Readiness check: exit 0 if Postgres, broker and workers respond.

    Postgres must have the schema vector_index, and a worker on any machine must consume each queue. Exit code 3:
    one of them is missing, and stderr has the reason.
    """
    configuration = load()
    url = configuration.database_url or services.attach(configuration.home, valkey=False).database_url
    schema.check(url)
    served = set().union(*Client(configuration).consumers().values())
    wanted = sorted(POOLS[queues].queues)
    if missing := [queue for queue in wanted if queue not in served]:
        raise ServiceUnreachable(
            f"no worker consumes {', '.join(missing)}: start one with `vector-index worker`, or read its log"
        )
    with connection.connect(url) as conn:
        for name, differences in builds.drift(conn, list(configuration.indexes)).items():
            echo(f"notice: {drift.sentence(name, differences)}")
    echo(f"Postgres and the broker respond, and workers consume {', '.join(wanted)}")
