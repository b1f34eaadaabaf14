"""`ask`: an answer with its sources."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import click
import redis
from celery.result import AsyncResult

from worker import keyspace
from worker.cli.client import LOOK_SECONDS, Client, Waiting
from worker.cli.documents import options
from worker.configuration import load
from worker.configuration.addresses import redis_url
from worker.keyspace import CHAT


@click.command()
@click.argument("question")
@click.option("--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="Passages at most.")
@options
def ask(question: str, limit: int, index: str, as_json: bool) -> None:
    """Answer a question from an index, with numbered sources; * marks those that the answer cites.

    On a terminal the answer is shown as it comes.
    """
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    live = sys.stdout.isatty() and not as_json
    task = client.send("tasks.chat", CHAT, question=question, limit=limit, index=index, stream=live)
    shown = False
    for piece in _pieces(client, configuration.result_backend or client.broker_url, task) if live else ():
        click.echo(piece, nl=False)
        shown = True
    result = client.wait(task, CHAT)
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))
        return
    click.echo("" if shown else result["answer"])
    for line in _sources(result["sources"]):
        click.echo(line)


def _pieces(client: Client, url: str, task: "AsyncResult[Any]") -> Iterator[str]:
    """What the model says, from the stream of the task, until it is done or the task has ended."""
    waiting = Waiting(client, CHAT)
    last = "0"
    with client.reachable(), redis.Redis.from_url(redis_url(url), decode_responses=True) as stream:
        while True:
            ended = task.ready()  # looked at before the stream is read: what was written by then is read
            entries: Any = stream.xread({keyspace.STREAM + str(task.id): last})
            for id, entry in entries[0][1] if entries else ():
                last = id
                if entry["event"] == "token":
                    yield json.loads(entry["data"])
                elif entry["event"] in ("done", "error"):
                    return
            if ended:
                return
            if not entries:
                waiting.check((task.state, last))
                time.sleep(LOOK_SECONDS)


def _sources(rows: list[dict[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        title = f"{row['title']}  " if row["title"] else ""
        mark = " *" if row["cited"] else ""
        yield f"[{number}] {title}{row['document_id']}, {row['start']}-{row['end']}{mark}"
