"""`delete`: remove documents by id."""

from itertools import islice

import click

from worker.cli.client import Client
from worker.cli.options import index_and_json
from worker.cli.output import counted, print_result
from worker.cli.waiting import work_goes_on
from worker.configuration import load
from worker.documents import document_ids
from worker.keyspace import STAGING

MESSAGE_IDS = 1000


@click.command()
@click.argument("ids", nargs=-1, required=True)
@index_and_json
def delete(ids: tuple[str, ...], index: str, as_json: bool) -> None:
    """Delete documents by id.

    Ids that the index does not have are ignored.
    """
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    deleted = stale = 0
    unsent = iter(document_ids(list(ids)))
    while batch := list(islice(unsent, MESSAGE_IDS)):
        with work_goes_on(
            lambda: "the deletion of the ids that were sent: run the command again to send all"
        ):
            counts = client.call("tasks.delete_documents", STAGING, index=index, ids=batch)
        deleted, stale = deleted + counts["deleted"], stale + counts["stale"]
    value = {"index": index, "deleted": deleted, "stale": stale}
    print_result(value, as_json, [f"{index}: deleted {counted(deleted, 'document')}"])
