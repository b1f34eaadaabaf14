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
from worker.cli.client import POLL_SECONDS, Client, StallDetector
from worker.cli.options import index_and_json
from worker.cli.output import source_lines
from worker.cli.streams import echo, print_json
from worker.configuration import load
from worker.configuration.addresses import redis_url
from worker.keyspace import CHAT

# after text that was no answer: another worker has taken the question over, or it was reasoning
STARTS_ANEW = "\n\nThe answer starts anew:\n"
STOPPED = {
    "length": "The answer is cut off: raise max_tokens in PROMPT_KWARGS of the chat backend.",
    "content_filter": "The provider's content filter stopped the answer here.",
    "refusal": "The model refused to answer.",
}


@click.command()
@click.argument("question")
@click.option(
    "--limit",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="Maximum number of passages that the model reads.",
)
@index_and_json
def ask(question: str, limit: int, index: str, as_json: bool) -> None:
    """Answer a question from an index, with numbered sources.

    A * marks the sources that the answer cites. On a terminal the answer appears while the model writes it.
    """
    configuration = load()
    configuration.index(index)
    client = Client(configuration)
    stream = sys.stdout.isatty() and not as_json
    task = client.send("tasks.chat", CHAT, question=question, limit=limit, index=index, stream=stream)
    shown = False
    for token in _tokens(client, configuration.result_backend or client.broker_url, task) if stream else ():
        echo(token, nl=False)
        shown = True
    result = client.wait(task, CHAT)
    if as_json:
        print_json(result)
        return
    echo("" if shown else result["answer"])
    if stopped := STOPPED.get(result["finish_reason"]):
        echo(stopped, err=True)
    for line in source_lines(result["sources"]):
        echo(line)


def _tokens(client: Client, url: str, task: "AsyncResult[Any]") -> Iterator[str]:
    """Yield the tokens of the task's stream until the answer is complete or the task has ended."""
    stall = StallDetector(client, CHAT)
    last, begun = "0", False
    with client.reachable(), redis.Redis.from_url(redis_url(url), decode_responses=True) as stream:
        while True:
            ended = task.ready()  # before reading the stream, so that the last read gets everything
            entries: Any = stream.xread({keyspace.STREAM + str(task.id): last})
            for id, entry in entries[0][1] if entries else ():
                last = id
                if entry["event"] == "token":
                    yield json.loads(entry["data"])
                    begun = True
                elif entry["event"] == "sources" and begun:
                    yield STARTS_ANEW
                elif entry["event"] in ("done", "error"):
                    return
            if ended:
                return
            if not entries:
                stall.check((task.state, last))
                time.sleep(POLL_SECONDS)
