"""`failures`: list documents that failed or were refused."""

from collections.abc import Iterator
from typing import Any

import click

from worker.cli.client import Client
from worker.cli.options import index_and_json
from worker.cli.output import print_result
from worker.configuration import load
from worker.keyspace import CHAT

PAGE_ROWS = 1000


@click.command()
@index_and_json
def failures(index: str, as_json: bool) -> None:
    """List documents that failed or were refused, with their errors.

    Each line has the id, the error, since when, and whether an older revision is searchable. Fix the cause, then run
    `vector-index retry`. A refused document was never stored: correct it, and let your application send it again.
    """
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    rows: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        page = client.call("tasks.failures", CHAT, index=index, limit=PAGE_ROWS, after=page["next"])
        rows += page["failures"]
    print_result({"index": index, "failures": rows}, as_json, _lines(rows, index))


def _lines(rows: list[dict[str, Any]], index: str) -> Iterator[str]:
    if not rows:
        yield f"no failed documents in {index}"
    for row in rows:
        served = "an older revision is searchable" if row["searchable"] else "not searchable"
        again = "refused, send it again; " if row["state"] == "refused" else ""
        yield f"{row['id']}: {' '.join(row['error'].split())} ({again}since {row['since']}, {served})"
