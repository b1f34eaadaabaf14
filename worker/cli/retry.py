"""`retry`: embed failed documents again."""

import click

from worker.cli.client import Client
from worker.cli.options import index_and_json
from worker.cli.output import counted, print_result
from worker.configuration import load
from worker.documents import document_ids
from worker.keyspace import STAGING

MESSAGE_IDS = 1000


@click.command()
@click.argument("ids", nargs=-1)
@index_and_json
def retry(ids: tuple[str, ...], index: str, as_json: bool) -> None:
    """Retry failed documents: those you name, or all of the index.

    Returns when they are queued. Follow them with `vector-index status`. Refused documents were never stored: your
    application must send them again.
    """
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    named = document_ids(list(ids))
    retried = queued = 0
    batches: list[list[str] | None] = [
        named[at : at + MESSAGE_IDS] for at in range(0, len(named), MESSAGE_IDS)
    ]
    for batch in batches or [None]:  # None: all
        counts = client.call("tasks.retry", STAGING, index=index, ids=batch)
        retried, queued = retried + counts["retried"], queued + counts["chunks"]
    documents, chunks = counted(retried, "document"), counted(queued, "chunk")
    value = {"index": index, "retried": retried, "chunks": queued}
    print_result(value, as_json, [f"{index}: retrying {documents}, {chunks} queued"])
