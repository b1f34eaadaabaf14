"""`pause`, `resume`, `drop`."""

from collections.abc import Iterator
from typing import Any

import click

from worker.cli.client import Client
from worker.cli.documents import options, output
from worker.configuration import load
from worker.errors import InvalidQuery
from worker.keyspace import CHAT, STAGING


@click.command()
@options
def pause(index: str, as_json: bool) -> None:
    """Send nothing of an index to its provider any more. Documents are accepted and wait; search goes on."""
    # to the queue of questions: the one of documents may have a backlog, for which this is asked
    state = Client(load()).call("tasks.pause", CHAT, index=index)
    output(state, as_json, [f"{index}: paused since {state['paused']}; `vector-index resume` goes on"])


@click.command()
@options
def resume(index: str, as_json: bool) -> None:
    """Go on with what waits in a paused index."""
    state = Client(load()).call("tasks.resume", CHAT, index=index)
    output(state, as_json, [f"{index}: goes on"])


@click.command()
@click.argument("index")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def drop(index: str, yes: bool, as_json: bool) -> None:
    """Delete an index: documents, vectors, what waits, and its history. There is no way back.

    An index that the settings no longer name can be dropped too; one that they name is made anew with its next
    document.
    """
    configuration = load()
    if not yes:
        question = f"Type {index} to delete the index {index} with all of its documents"
        if click.prompt(question, default="", show_default=False, err=True) != index:
            raise click.UsageError(f"{index} was not dropped: its name was not typed")
    dropped = Client(configuration).call("tasks.drop", STAGING, index=index)
    if not (dropped["builds"] or dropped["enqueued"] or dropped["configured"]):
        raise InvalidQuery(
            f"there is no index {index!r}, in the settings or in the database: nothing was dropped"
        )
    output(dropped, as_json, _dropped(dropped))


def _dropped(dropped: dict[str, Any]) -> Iterator[str]:
    index = dropped["index"]
    if dropped["builds"] or dropped["enqueued"]:
        enqueued = f", and {dropped['enqueued']:,} enqueued changes" if dropped["enqueued"] else ""
        yield f"{index}: dropped with {dropped['documents']:,} documents in {dropped['builds']:,} builds{enqueued}"
    else:
        yield f"{index}: there was nothing to drop"
    if dropped["configured"]:
        yield f"the settings name {index}: the next document for it makes it anew"
