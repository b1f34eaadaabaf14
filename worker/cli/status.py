"""`status`: documents by state and pending work, once or until Ctrl-C."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import click
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from worker.cli.client import Client
from worker.cli.output import counted, print_result
from worker.configuration import load
from worker.indexing import drift
from worker.keyspace import CHAT
from worker.observability.printing import printable

RATE_SECONDS = 10.0  # rates are averages over this time
COLOURS = {"live": "green", "pending": "yellow", "failed": "red", "refused": "red"}  # for figures above 0
ERROR_WIDTH = 48  # characters, so that the tables of several indexes fit side by side


@click.command()
@click.argument("ids", nargs=-1)
@click.option("--index", help="Name of the index.  [default: default; with --watch: all]")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object; with --watch, one per refresh and index.",
)
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C, with rates and the time left.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two refreshes of --watch.",
)
def status(ids: tuple[str, ...], watch: bool, interval: float, index: str | None, as_json: bool) -> None:
    """Show document counts and pending work, or single documents.

    A document is pending until all its chunks are embedded, then live, or failed. A refused document was never stored.
    While a new revision is pending, failed or refused, the older one stays searchable. Pass ids to see single
    documents.
    """
    if ids and watch:
        raise click.UsageError("--watch shows whole indexes: leave out the ids")
    configuration = load()
    everything = list(configuration.indexes) if watch else ["default"]
    indexes = everything if index is None else [index]
    for name in indexes:
        configuration.index(name)
    client = Client(configuration)
    if watch:
        _watch(client, indexes, interval, as_json)
        return
    state = client.call("tasks.status", CHAT, index=indexes[0], ids=list(ids) or None)
    print_result(state, as_json, _document_states(state) if ids else _index_state(state))


@dataclass
class Rates:
    """The rates of an index over the last RATE_SECONDS."""

    states: deque[tuple[float, dict[str, Any]]] = field(default_factory=deque)  # monotonic seconds, state

    def add(self, at: float, state: dict[str, Any]) -> None:
        self.states.append((at, state))
        while len(self.states) > 2 and at - self.states[1][0] >= RATE_SECONDS:
            self.states.popleft()

    def as_json(self) -> dict[str, float | None]:
        """Return rates per second, `None` until the second state; `seconds_left` is `None` if work stands still."""
        (since, first), (now, last) = self.states[0], self.states[-1]
        seconds = now - since
        rates: dict[str, float | None] = dict.fromkeys(
            ("documents_per_second", "chunks_per_second", "seconds_left")
        )
        if not seconds:
            return rates
        # the counts fall when documents are deleted or the server resets its statistics
        documents = max(0.0, (last["documents"]["live"] - first["documents"]["live"]) / seconds)
        chunks = max(0.0, (last["embedded_chunks"] - first["embedded_chunks"]) / seconds)
        rates |= {"documents_per_second": round(documents, 1), "chunks_per_second": round(chunks, 1)}
        if chunks and last["pending_chunks"]:
            rates["seconds_left"] = round(last["pending_chunks"] / chunks, 1)
        return rates


def _watch(client: Client, indexes: Sequence[str], interval: float, as_json: bool) -> None:
    """Refresh tables on a terminal; elsewhere print one line per refresh and index."""
    console = Console()
    live = Live(console=console, auto_refresh=False) if console.is_terminal and not as_json else None
    rates_of = {index: Rates() for index in indexes}
    try:
        with live or nullcontext():
            while True:
                results = [client.send("tasks.status", CHAT, index=index) for index in indexes]
                shown = []
                for rates, result in zip(rates_of.values(), results, strict=True):
                    state = client.wait(result, CHAT)
                    rates.add(time.monotonic(), state)
                    shown.append((state, rates.as_json()))
                if live is not None:
                    tables = Columns([_table(state, figures) for state, figures in shown])
                    live.update(Group(tables, Text("Ctrl-C to stop", style="dim")), refresh=True)
                else:
                    for state, figures in shown:
                        print_result({**state, **figures}, as_json, [_line(state, figures)])
                time.sleep(interval)
    except KeyboardInterrupt:
        return


def _figures(state: dict[str, Any], rates: dict[str, float | None]) -> dict[str, str]:
    figures = {name: f"{count:,}" for name, count in state["documents"].items()}
    figures["refused"] = f"{state['refused']:,}"
    figures["pending chunks"] = f"{state['pending_chunks']:,}"
    figures["pending tokens"] = f"{state['pending_tokens']:,}"
    figures["documents/s"] = _number(rates["documents_per_second"])
    figures["chunks/s"] = _number(rates["chunks_per_second"])
    figures["oldest"] = f"{state['oldest_seconds']:.0f} s"
    left = rates["seconds_left"]
    figures["time left"] = "-" if left is None else f"{left:.0f} s"
    return figures


def _number(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.1f}"


def _table(state: dict[str, Any], rates: dict[str, float | None]) -> Table:
    table = Table(title=state["index"], title_style="bold", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right", max_width=ERROR_WIDTH)
    for name, figure in _figures(state, rates).items():
        table.add_row(name, figure, style=COLOURS.get(name) if figure != "0" else None)
    if state["paused"]:
        table.add_row("paused since", state["paused"], style="yellow")
    for build in state["builds"]:
        if build["rebuild"]:
            table.add_row("rebuild", escape(_build(build)), style="yellow")
    if sentence := _vector_index(state):
        table.add_row("vector index", sentence, style="yellow")
    for line in _drift(state):
        table.add_row("settings", escape(printable(line)), style="yellow")
    if state["last_error"]:
        table.add_row("last error", escape(printable(state["last_error"])), style="red")
    return table


def _line(state: dict[str, Any], rates: dict[str, float | None]) -> str:
    figures = ", ".join(f"{name} {figure}" for name, figure in _figures(state, rates).items())
    paused = f"; paused since {state['paused']}" if state["paused"] else ""
    error = f"; last error: {state['last_error']}" if state["last_error"] else ""
    rebuilds = "".join(f"; {_build(build)}" for build in state["builds"] if build["rebuild"])
    vector_index = f"; vector index: {sentence}" if (sentence := _vector_index(state)) else ""
    return f"{state['index']}: {figures}{paused}{rebuilds}{vector_index}{error}"


def _index_state(state: dict[str, Any]) -> Iterator[str]:
    documents = ", ".join(f"{count:,} {name}" for name, count in state["documents"].items())
    yield f"{state['index']}: documents {documents}"
    if state["paused"]:
        yield f"paused since {state['paused']}: continue embedding with `vector-index resume`"
    if state["pending_chunks"]:
        yield (
            f"pending: {state['pending_chunks']:,} chunks, {state['pending_tokens']:,} tokens, "
            f"the oldest for {state['oldest_seconds'] or 0:.0f} s"
        )
    yield from _outbox(state["outbox"])
    if state["refused"]:
        yield f"refused: {counted(state['refused'], 'document')}: see `vector-index failures`"
    if state["last_error"]:
        yield f"last error: {state['last_error']}"
    for build in state["builds"]:
        yield _build(build)
    if sentence := _vector_index(state):
        yield f"vector index: {sentence}"
    yield from _drift(state)


def _build(build: dict[str, Any]) -> str:
    documents = "" if build["documents"] is None else f", {counted(build['documents'], 'document')}"
    return f"build {build['build']}: {build['state']}{documents}{_rebuild(build)}"


def _rebuild(build: dict[str, Any]) -> str:
    if (progress := build["rebuild"]) is None:
        return ""
    left = progress["seconds_left"]
    return (
        f" of {progress['documents']:,}, {progress['pending_chunks']:,} chunks pending, "
        f"{progress['copied']:,} vectors reused, {'time left unknown' if left is None else f'{left:.0f} s left'}"
    )


def _vector_index(state: dict[str, Any]) -> str | None:
    """Say why searches compare all vectors of the live build, although it is large; `None` if they need not."""
    for build in state["builds"]:
        found = build["vector_index"]
        if build["state"] == "live" and found["state"] in ("building", "waiting"):
            what = (
                f"{found['progress']:.0%} built"
                if found["state"] == "building"
                else "waits for the end of the load"
            )
            return f"{what}; until then, searches compare all vectors, which is exact and slower"
    return None


def _drift(state: dict[str, Any]) -> Iterator[str]:
    """Say how the live build differs from the settings; a rebuild that is running applies them."""
    is_rebuilding = any(build["rebuild"] for build in state["builds"])
    for build in state["builds"]:
        if build["drift"] and not is_rebuilding:
            yield drift.sentence(state["index"], build["drift"])


def _outbox(outbox: dict[str, Any]) -> Iterator[str]:
    if outbox["waiting"]:
        yield f"outbox: {counted(outbox['waiting'], 'row')} pending, the oldest for {outbox['oldest_seconds']:.0f} s"
    if outbox["rejected"]:
        yield f"outbox: {counted(outbox['rejected'], 'row')} rejected: see `vector-index failures`"
    for name, rows in outbox["unknown_indexes"].items():
        yield f"outbox: {counted(rows, 'row')} for the index {name!r:.100}, which is not in INDEXES"


def _document_states(state: dict[str, Any]) -> Iterator[str]:
    for id, document in state["documents"].items():
        searchable = "searchable" if document["searchable"] else "not searchable"
        error = f": {document['error']}" if document["error"] else ""
        yield f"{id}: {document['state']}, {searchable}{error}"
