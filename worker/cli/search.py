"""`search`: print the passages that match a query best."""

from collections.abc import Iterable, Iterator
from typing import Any

import click

from worker.cli.client import Client
from worker.cli.options import filter_option, index_and_json, parse_filter
from worker.cli.output import print_result
from worker.configuration import load
from worker.keyspace import CHAT

SHOWN_CHARACTERS = 300  # of a passage; --json prints all


@click.command()
@click.argument("query")
@click.option(
    "--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="Maximum number of passages."
)
@click.option(
    "--mode",
    default="hybrid",
    show_default=True,
    help="vector (by meaning), text (by words), or hybrid (both, fused).",
)
@filter_option
@index_and_json
def search(query: str, limit: int, mode: str, filter_: str | None, index: str, as_json: bool) -> None:
    """Search an index; print the best passages first.

    Each passage shows its document, its character range in the text, and its cosine similarity to the query.
    """
    configuration = load()
    configuration.index(index)
    kwargs = {"query": query, "limit": limit, "mode": mode, "filter": parse_filter(filter_), "index": index}
    rows = Client(configuration).call("tasks.search", CHAT, **kwargs)
    lines = _lines(rows) if rows else [f"no results in {index}"]
    print_result({"index": index, "results": rows}, as_json, lines)


def _lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        similarity = "" if row["similarity"] is None else f"  {row['similarity']:.3f}"
        title = f"{row['title']}  " if row["title"] else ""
        yield f"{number}. {title}[{row['document_id']}, {row['start']}-{row['end']}]{similarity}"
        text = " ".join(row["text"].split())
        yield f"   {text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + '…'}"
