"""`worker`: one worker process."""

import os

import click

from worker.cli.allocator import return_freed_memory
from worker.cli.celery_program import run_celery
from worker.cli.options import loglevel_option
from worker.cli.pools import POOLS
from worker.configuration import environment


@click.command()
@click.option(
    "--queues",
    type=click.Choice(tuple(POOLS)),
    default="all",
    show_default=True,
    help="Queues to consume.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    help="Tasks at a time: processes for staging, threads for the others.  "
    "[default: one per core for staging, 16 for chat, 64 for embed and all]",
)
@click.option(
    "--name",
    help="Name of this process on its machine; set it when a second one consumes the same queues.  "
    "[default: the value of --queues]",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Serve Prometheus metrics on this port.  [default: METRICS_PORT]",
)
@click.option("--periodic", is_flag=True, help="Also send periodic tasks, in place of `vector-index beat`.")
@loglevel_option("INFO")
def worker(
    queues: str,
    concurrency: int | None,
    name: str | None,
    metrics_port: int | None,
    periodic: bool,
    loglevel: str,
) -> int:
    """Run one worker process, for one kind of task or for all.

    staging splits documents into chunks, embed requests their vectors, chat answers searches and questions. The first
    two run with a niceness of 5, so that on a busy machine answers get the processor first. On
    SIGTERM it stops taking tasks, and after 10 s returns unfinished ones to the queue.
    """
    if metrics_port:
        environment()["METRICS_PORT"] = str(metrics_port)
    return_freed_memory()
    pool = POOLS[queues]
    os.nice(pool.niceness)
    arguments = ["--queues", ",".join(pool.queues), "--pool", pool.kind, "--hostname", f"{name or queues}@%h"]
    arguments += ["--concurrency", str(concurrency or pool.concurrency or os.cpu_count() or 1)]
    arguments += ["--periodic"] * periodic
    # gossip and mingle exchange messages with every other worker and delay the start; we use neither
    return run_celery("worker", *arguments, "--loglevel", loglevel, "--without-gossip", "--without-mingle")
