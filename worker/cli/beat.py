"""`beat`: the scheduler process."""

import click

from worker.cli.celery_program import run_celery
from worker.cli.options import loglevel_option


@click.command()
@loglevel_option("INFO")
def beat(loglevel: str) -> int:
    """Run the scheduler that sends periodic tasks.

    It is stateless: due times are in Postgres. Running a second one is harmless.
    """
    return run_celery("beat", "--scheduler", "celery.beat:Scheduler", "--loglevel", loglevel)
