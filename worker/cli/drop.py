"""`drop`: delete a whole index."""

from collections.abc import Iterator
from typing import Any

import click

from worker.cli.client import Client
from worker.cli.options import json_option
from worker.cli.output import counted, print_result
from worker.cli.waiting import work_goes_on
from worker.configuration import load
from worker.errors import InvalidQuery
from worker.keyspace import STAGING


@click.command()
@click.argument("index")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
def drop(index: str, yes: bool, as_json: bool) -> None:
    """Delete an index with all its documents. This cannot be undone.

    Deletes documents, vectors, queued changes and history. You can also drop an index that you have removed from the
    settings. If the settings still name it, the next document creates it again.
    """
    configuration = load()
    if not yes:
        question = f"Type {index} to delete the index {index} with all its documents"
        if click.prompt(question, default="", show_default=False, err=True) != index:
            raise click.UsageError(f"{index} was not dropped: its name was not typed")
    client = Client(configuration)
    with work_goes_on(lambda: f"dropping {index}"):
        dropped = client.call("tasks.drop", STAGING, index=index)
    if not (dropped["builds"] or dropped["enqueued"] or dropped["configured"]):
        raise InvalidQuery(
            f"there is no index {index!r}, in the settings or in the database: nothing was dropped"
        )
    print_result(dropped, as_json, _lines(dropped))


def _lines(dropped: dict[str, Any]) -> Iterator[str]:
    index = dropped["index"]
    if dropped["builds"] or dropped["enqueued"]:
        enqueued = f", and {counted(dropped['enqueued'], 'enqueued change')}" if dropped["enqueued"] else ""
        documents, builds = counted(dropped["documents"], "document"), counted(dropped["builds"], "build")
        yield f"{index}: dropped {documents} in {builds}{enqueued}"
    else:
        yield f"{index}: was empty, nothing to drop"
    if dropped["configured"]:
        yield f"the settings still name {index}: its next document creates it again"
