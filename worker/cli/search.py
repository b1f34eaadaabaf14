"""`search`: print the passages that match a query best."""

from collections.abc import Iterator, Sequence
from typing import Any

import click

from worker.cli.client import Client
from worker.cli.explanations import explained
from worker.cli.options import filter_option, index_and_json, parse_filter, parse_json
from worker.cli.output import print_result
from worker.configuration import load
from worker.keyspace import CHAT

BOOST = '{"decay": "date", "half_life_days": 30}'
SHOWN_CHARACTERS = 300  # of a passage; --json prints all


@click.command()
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@click.option(
    "--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="Maximum number of passages."
)
@click.option(
    "--mode",
    default="hybrid",
    show_default=True,
    help="vector (by meaning), text (by words), or hybrid (both, fused).",
)
@click.option(
    "--rerank",
    metavar="NAME",
    help="Rerank with this entry of RERANK_BACKENDS.  [default: as the index does]",
)
@click.option(
    "--boost",
    "boosts",
    multiple=True,
    metavar="JSON",
    help='Boost new documents, as in \'{"decay": "date", "half_life_days": 30}\', or high numbers, as in '
    '\'{"factor": "votes"}\'. Repeat it for several.',
)
@click.option("--explain", is_flag=True, help="Show how each score came about.")
@click.option("--no-rerank", is_flag=True, help="Do not rerank.")
@filter_option
@index_and_json
def search(
    queries: tuple[str, ...],
    limit: int,
    mode: str,
    rerank: str | None,
    boosts: tuple[str, ...],
    explain: bool,
    no_rerank: bool,
    filter_: str | None,
    index: str,
    as_json: bool,
) -> None:
    """Search an index; print the best passages first.

    Several queries, such as paraphrases, are one search: a passage's score is its mean over them. Each passage shows
    its document, its character range in the text, and its cosine similarity to the query.
    """
    configuration = load()
    configuration.index(index)
    question = {"query": queries[0]} if len(queries) == 1 else {"queries": queries}
    kwargs = {**question, "limit": limit, "mode": mode, "filter": parse_filter(filter_), "index": index}
    client = Client(configuration)
    kwargs |= {"rerank": False if no_rerank else rerank, "explain": explain}
    kwargs["boosts"] = [parse_json("--boost", boost, BOOST) for boost in boosts]
    rows = client.call("tasks.search", CHAT, **kwargs)
    lines = _lines(rows) if rows else _why_none(client, index)
    print_result({"index": index, "results": rows}, as_json, lines)


def _why_none(client: Client, index: str) -> Iterator[str]:
    """Tell an index without documents from one without a match."""
    documents = client.call("tasks.status", CHAT, index=index)["documents"]
    if not any(documents.values()):
        yield f"{index} holds no documents"
    elif not documents["live"]:
        states = ", ".join(f"{count:,} {state}" for state, count in documents.items() if count)
        yield f"no results in {index}, whose documents are {states}"
    else:
        yield f"no results in {index}"


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    if failure := rows[0].get("rerank", {}).get("error"):
        yield f"not reranked: {failure}"
    for number, row in enumerate(rows, start=1):
        similarity = "" if row["similarity"] is None else f"  {row['similarity']:.3f}"
        title = f"{row['title']}  " if row["title"] else ""
        yield f"{number}. {title}[{row['document_id']}, {row['start']}-{row['end']}]{similarity}"
        text = " ".join(row["text"].split())
        yield f"   {text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + '…'}"
        if "explain" in row:
            yield f"   score {row['score']:.4f}: {explained(row)}"
