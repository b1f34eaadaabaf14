"""`pause`: stop requests to the embedding provider for one index."""

import click

from worker.cli.client import Client
from worker.cli.options import index_and_json
from worker.cli.output import print_result
from worker.configuration import load
from worker.keyspace import CHAT


@click.command()
@index_and_json
def pause(index: str, as_json: bool) -> None:
    """Pause embedding for an index; indexing and search still work.

    Workers accept new documents and queue them. After `vector-index resume` they send requests to the embedding
    provider again.
    """
    # not the staging queue: its backlog may be the reason for the pause
    state = Client(load()).call("tasks.pause", CHAT, index=index)
    print_result(
        state, as_json, [f"{index}: paused since {state['paused']}; continue with `vector-index resume`"]
    )
