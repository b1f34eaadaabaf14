"""`reindex`, `failures`, `retry`."""

from collections.abc import Iterator
from typing import Any

import click

from worker.cli.client import Client
from worker.cli.documents import MAX_SHOWN, options, output
from worker.configuration import load
from worker.documents import document_ids
from worker.keyspace import CHAT, STAGING

FAILURES_AT_ONCE = 1000
RETRY_IDS = 1000  # per message


@click.command()
@click.option("--full", is_flag=True, help="Read all of a source that else gives only what is newer.")
@click.option("--allow-shrink", is_flag=True, help="Delete, even where the source has lost most documents.")
@options
def reindex(full: bool, allow_shrink: bool, index: str, as_json: bool) -> int:
    """Bring an index up to its source, and wait until all is searchable.

    What the source has no longer is deleted. Exit code 1: some documents failed, or nothing was deleted for
    the reason that is given.
    """
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    result = client.call("tasks.reindex", STAGING, index=index, full=full, allow_shrink=allow_shrink)
    output(result, as_json, _reindexed(result))
    return 1 if result["failed"] or "warning" in result else 0


@click.command()
@options
def failures(index: str, as_json: bool) -> None:
    """List the documents that failed: id, reason, since when, and whether an older revision is served."""
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    rows: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        page = client.call("tasks.failures", CHAT, index=index, limit=FAILURES_AT_ONCE, after=page["next"])
        rows += page["failures"]
    output({"index": index, "failures": rows}, as_json, _failures(rows, index))


@click.command()
@click.argument("ids", nargs=-1)
@options
def retry(ids: tuple[str, ...], index: str, as_json: bool) -> None:
    """Try documents that failed again: those named, or all of the index. `status` shows how it goes."""
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    named = document_ids(list(ids))
    total = {"index": index, "retried": 0, "chunks": 0}
    pages: list[list[str] | None] = [named[at : at + RETRY_IDS] for at in range(0, len(named), RETRY_IDS)]
    for some in pages or [None]:  # None: all
        counts = client.call("tasks.retry", STAGING, index=index, ids=some)
        total |= {key: total[key] + counts[key] for key in ("retried", "chunks")}
    output(
        total,
        as_json,
        [f"{index}: {total['retried']:,} documents tried again, {total['chunks']:,} chunks queued"],
    )


def _reindexed(result: dict[str, Any]) -> Iterator[str]:
    failed = result["failed"]
    counts = ", ".join(f"{result[key]:,} {key}" for key in ("indexed", "unchanged", "stale", "deleted"))
    yield f"{result['index']}: {counts}, {len(failed):,} failed"
    yield (
        f"{result['chunks']:,} chunks, {result['embedded']:,} embedded with {result['tokens']:,} tokens, "
        f"{result['seconds']:.1f} s"
    )
    if "warning" in result:
        yield f"warning: {result['warning']}"
    for item in failed[:MAX_SHOWN]:
        yield f"failed: {' '.join(': '.join((item['id'], item['error'])).split())}"
    if len(failed) > MAX_SHOWN:
        yield f"and {len(failed) - MAX_SHOWN:,} more: --json shows all"


def _failures(rows: list[dict[str, Any]], index: str) -> Iterator[str]:
    if not rows:
        yield f"nothing has failed in {index}"
    for row in rows:
        served = "an older revision is searchable" if row["searchable"] else "not searchable"
        yield f"{row['id']}: {' '.join(row['error'].split())} (since {row['since']}, {served})"
