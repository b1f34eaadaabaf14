"""`retry`: embed failed documents again."""

import click

from worker.cli.client import Client
from worker.cli.options import index_and_json
from worker.cli.output import print_result
from worker.configuration import load
from worker.documents import document_ids
from worker.keyspace import STAGING

MESSAGE_IDS = 1000


@click.command()
@click.argument("ids", nargs=-1)
@index_and_json
def retry(ids: tuple[str, ...], index: str, as_json: bool) -> None:
    """Retry failed documents: those you name, or all of the index.

    Returns when they are queued. Follow them with `vector-index status`.
    """
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    named = document_ids(list(ids))
    total = {"index": index, "retried": 0, "chunks": 0}
    batches: list[list[str] | None] = [
        named[at : at + MESSAGE_IDS] for at in range(0, len(named), MESSAGE_IDS)
    ]
    for batch in batches or [None]:  # None: all
        counts = client.call("tasks.retry", STAGING, index=index, ids=batch)
        total |= {key: total[key] + counts[key] for key in ("retried", "chunks")}
    line = f"{index}: retrying {total['retried']:,} documents, {total['chunks']:,} chunks queued"
    print_result(total, as_json, [line])
