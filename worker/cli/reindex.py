"""`reindex`: sync an index with its source."""

from collections.abc import Iterator
from typing import Any

import click

from worker.cli.client import Client
from worker.cli.options import index_and_json
from worker.cli.output import first_lines, print_result
from worker.cli.waiting import WaitReason, work_goes_on
from worker.configuration import load
from worker.exit_codes import ExitCode
from worker.keyspace import EMBED, STAGING

MAX_SHOWN = 20  # failures on a terminal; --json prints all


@click.command()
@click.option(
    "--full", is_flag=True, help="Read the whole source, even if it supports reading only what changed."
)
@click.option(
    "--allow-shrink", is_flag=True, help="Delete missing documents even if the source lost most of them."
)
@index_and_json
def reindex(full: bool, allow_shrink: bool, index: str, as_json: bool) -> ExitCode:
    """Sync an index with its source.

    Indexes new and changed documents, deletes documents that the source no longer has, and waits until all are
    searchable. On Ctrl-C, the workers go on with the run. Exit code 1: some documents failed, or nothing was deleted
    for the reason in the warning.
    """
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    run = client.send("tasks.reindex", STAGING, index=index, full=full, allow_shrink=allow_shrink)
    with work_goes_on(lambda: "this run: see `vector-index schedule` and `vector-index status`"):
        result = client.wait(run, STAGING, EMBED, on_wait=WaitReason(client, index).check)
    print_result(result, as_json, _lines(result))
    return ExitCode.FAILED if result["failed"] or "warning" in result else ExitCode.DONE


def _lines(result: dict[str, Any]) -> Iterator[str]:
    failed = result["failed"]
    counts = ", ".join(f"{result[key]:,} {key}" for key in ("indexed", "unchanged", "stale", "deleted"))
    yield f"{result['index']}: {counts}, {len(failed):,} failed"
    yield (
        f"{result['chunks']:,} chunks, {result['embedded']:,} embedded with {result['tokens']:,} tokens, "
        f"{result['seconds']:.1f} s"
    )
    if "left_out" in result:
        yield f"left out {result['left_out']:,} characters that no reader sees"
    if "warning" in result:
        yield f"warning: {result['warning']}"
    yield from first_lines([f"failed: {item['id']}: {item['error']}" for item in failed], MAX_SHOWN)
