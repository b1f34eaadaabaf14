"""`demo`: the whole of it in seconds, on text that every Python brings along.

Real servers and real workers, as `up` runs them, in a folder of their own that goes at the end. The demo is an
application: it knows the broker and sends tasks by name.
"""

import json
import platform
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.console import Console

from worker.cli.client import Client
from worker.cli.interruption import Interruption
from worker.cli.processes import PROCESSES, await_workers, command_line
from worker.cli.supervision import Supervisor
from worker.configuration import environment, load
from worker.configuration.layers import SCALARS
from worker.errors import VectorIndexError
from worker.keyspace import CHAT, STAGING
from worker.services import running

QUESTIONS = (
    "When is the else clause of a for loop executed?",
    "What is a lambda expression?",
    "What does an assert statement do when Python runs optimized?",
)
PASSAGES = 3  # for each question
REQUESTS = "requests"  # in the home: a byte for each request to the model, whichever process sent it
EDITED = max(topics, key=lambda name: len(topics[name]))
MESSAGE_DOCUMENTS = 10

# What surrounds the demo is not meant for it: settings of ours, and variables that Celery, Flower, llm and
# libpq read themselves.
FOREIGN = ("CELERY_", "FLOWER_", "LLM_", "PG", "VECTOR_INDEX", "WAGTAIL_VECTOR_INDEX")

MODEL = {"CLASS": "worker.cli.counting.CountingBackend", "CONFIG": {"MODEL_ID": "wordllama"}}

NEXT = """\
vector-index up                       everything, in the foreground, for you
vector-index index YOUR_FILES         in a second terminal: text, Markdown, HTML, JSON lines
vector-index ask "YOUR QUESTION"
EMBEDDING_MODEL=3-small CHAT_MODEL=gpt-4o-mini OPENAI_API_KEY=... vector-index up
                                      models of OpenAI, for an index that is new"""


@click.command()
def demo() -> int:
    """Index real text with real services, ask it questions, stop everything.

    Needs no key, no network and no settings, and leaves nothing behind. Exit code 1: a document failed.
    """
    interruption = Interruption()
    interruption.install()
    show = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    show.print(
        f"{len(topics)} topics of the language reference of Python {platform.python_version()}, as it ships with "
        "Python.\nPostgres, Valkey and three workers start in a folder of their own, which is removed at the end."
    )
    with (
        TemporaryDirectory(prefix="vector-index-demo-") as folder,
        _everything(home := Path(folder) / "home", show, interruption) as client,
    ):
        show.print(f"Ready after {time.monotonic() - started:.1f} s.")
        application = Application(client=client, home=home)
        _show(application, show)
    show.print(
        f"\nAll stopped and removed, {time.monotonic() - started:.1f} s in total. Next:\n", style="bold"
    )
    show.print(NEXT, markup=False)
    return 1 if application.failed else 0


@contextmanager
def _everything(home: Path, show: Console, interruption: Interruption) -> Iterator[Client]:
    """Servers and workers of a new home, until the block ends; this process forgets all other settings."""
    variables = environment()
    for name in list(variables):
        if name in SCALARS or name.startswith(FOREIGN):
            del variables[name]
    variables["VECTOR_INDEX_HOME"] = str(home)
    variables["VECTOR_INDEX"] = json.dumps({"EMBEDDING_BACKENDS": {"default": MODEL}})
    variables["LLM_USER_PATH"] = str(home / "llm")
    commands = {
        name: command_line(["worker", "--queues", name, "--loglevel", "WARNING"]) for name in PROCESSES
    }
    with ExitStack() as stack:
        with show.status("starting"):
            services = stack.enter_context(running(home, check=interruption.check))
            log = stack.enter_context((home / "workers.log").open("a+"))
            supervisor = stack.enter_context(Supervisor(commands, variables, say=show.print, output=log))
            try:
                await_workers(load(), [interruption.check, services.check, supervisor.check])
            except VectorIndexError:
                log.seek(0)
                click.echo(log.read(), err=True, nl=False)  # what its sentence refers to
                raise
        yield Client(load(), sleep=interruption.sleep)


@dataclass(frozen=True, kw_only=True)
class Application:
    """What an application does: it sends documents and questions."""

    client: Client
    home: Path
    failed: list[Any] = field(default_factory=list)  # documents so far: id and error

    def index(self, documents: Sequence[Mapping[str, Any]]) -> str:
        """Index documents; a line that sums up what became of them."""
        started, requests_before = time.monotonic(), self._requests()
        sent = [
            self.client.send(
                "tasks.index_documents", STAGING, documents=documents[at : at + MESSAGE_DOCUMENTS]
            )
            for at in range(0, len(documents), MESSAGE_DOCUMENTS)
        ]
        total: Counter[str] = Counter()
        for message in sent:
            result = self.client.wait(message, STAGING)
            self.failed.extend(result["failed"])
            total["failed"] += len(result["failed"])
            total.update({key: value for key, value in result.items() if isinstance(value, int)})
        requests = self._requests() - requests_before
        noun = "request" if requests == 1 else "requests"
        return (
            f"{total['indexed']:,} indexed, {total['unchanged']:,} unchanged, {total['failed']:,} failed: "
            f"{total['chunks']:,} chunks, {total['embedded']:,} embedded in {requests:,} {noun} "
            f"with {total['tokens']:,} tokens, {time.monotonic() - started:.1f} s"
        )

    def answer(self, question: str) -> Iterator[str]:
        """The answer to a question, and its sources; * marks those that the answer cites."""
        result = self.client.call("tasks.chat", CHAT, question=question, limit=PASSAGES)
        yield result["answer"]
        for number, row in enumerate(result["sources"], start=1):
            mark = " *" if row["cited"] else ""
            yield f"[{number}] {row['title']}  {row['document_id']}, {row['start']}-{row['end']}{mark}"

    def status(self) -> str:
        state = self.client.call("tasks.status", STAGING)
        documents = ", ".join(f"{count:,} {name}" for name, count in state["documents"].items())
        return f"documents: {documents}; pending chunks: {state['pending_chunks']:,}"

    def _requests(self) -> int:
        path = self.home / REQUESTS
        return path.stat().st_size if path.exists() else 0


def _show(application: Application, show: Console) -> None:
    """Index, ask, index again, change a sentence."""
    documents = [_document(name, text) for name, text in topics.items()]
    megabytes = sum(len(text.encode()) for text in topics.values()) / 1e6

    def heading(text: str) -> None:
        show.print(f"\n{text}", style="bold", markup=False)

    heading(f"Index {len(documents)} documents, {megabytes:.2f} MB of text")
    show.print(application.index(documents))
    for question in QUESTIONS:
        heading(question)
        for line in application.answer(question):
            show.print(line, markup=False)
    heading("Index all of it again")
    show.print(application.index(documents))
    heading(f"Change one sentence of {EDITED!r}, {len(topics[EDITED]):,} characters")
    show.print(application.index([_document(EDITED, _edited(topics[EDITED]))]))
    heading("Status")
    show.print(application.status())
    for failure in application.failed:
        show.print(f"failed: {failure['id']}: {failure['error']}", markup=False)


def _document(name: str, text: str) -> dict[str, str]:
    """As an application sends it; the title is the first line, a heading in every topic."""
    title = text.partition("\n")[0].replace('"', "").strip()
    return {"id": name, "title": title, "text": text}


def _edited(text: str) -> str:
    """The text with another sentence in its middle."""
    start = next(re.compile(r"\.\s+(?=[A-Z])").finditer(text, len(text) // 2)).end()
    end = next(re.compile(r"\.\s").finditer(text, start)).start()
    return f"{text[:start]}Here the demo has written a sentence of its own{text[end:]}"
