"""`resume`: continue embedding after `pause`."""

import click

from worker.cli.client import Client
from worker.cli.options import index_and_json
from worker.cli.output import print_result
from worker.configuration import load
from worker.keyspace import CHAT


@click.command()
@index_and_json
def resume(index: str, as_json: bool) -> None:
    """Resume embedding for a paused index."""
    state = Client(load()).call("tasks.resume", CHAT, index=index)
    print_result(state, as_json, [f"{index}: resumed"])
