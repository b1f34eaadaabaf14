"""`demo`: a complete run in seconds, on documentation that ships with Python.

It starts real servers and workers, as `up` does, in a temporary folder. Then it acts as an application: it connects
to the broker and sends tasks by name.
"""

import json
import platform
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

import click
from rich.console import Console

from worker.cli.client import Client
from worker.cli.interruption import Interruption
from worker.cli.output import source_lines
from worker.cli.pools import UP_POOLS
from worker.cli.processes import Programs, programs
from worker.cli.streams import echo
from worker.cli.supervision import Supervisor
from worker.configuration import environment, load
from worker.configuration.layers import SCALARS
from worker.errors import VectorIndexError
from worker.exit_codes import ExitCode
from worker.keyspace import CHAT, STAGING
from worker.services import running

QUESTIONS = (
    "When is the else clause of a for loop executed?",
    "What is a lambda expression?",
    "What does an assert statement do when Python runs optimized?",
)
PASSAGES = 3  # for each question
REQUESTS = "requests"  # a file in the home: one byte for each request to the model, from any process
EDITED = max(topics, key=lambda name: len(topics[name]))
MESSAGE_DOCUMENTS = 10

# Prefixes of environment variables that the demo ignores: our settings, and those of Celery, Flower, llm and libpq.
IGNORED_PREFIXES = ("CELERY_", "FLOWER_", "LLM_", "PG", "VECTOR_INDEX", "WAGTAIL_VECTOR_INDEX")

MODEL = {"CLASS": "worker.cli.demo_backend.CountingBackend", "CONFIG": {"MODEL_ID": "wordllama"}}

NEXT = """\
vector-index up                       start everything for your own documents
vector-index index YOUR_FILES         in a second terminal: text, Markdown, HTML, JSON lines
vector-index ask "YOUR QUESTION"
EMBEDDING_MODEL=3-small CHAT_MODEL=gpt-4o-mini OPENAI_API_KEY=... vector-index up
                                      the same with models of OpenAI; then `vector-index rebuild`"""


@click.command()
def demo() -> ExitCode:
    """Index sample documents, ask questions about them, and clean up.

    Needs no API key, no network and no settings: all servers and data are in a temporary folder. Exit code 1: a
    document failed.
    """
    interruption = Interruption()
    interruption.install()
    with TemporaryFile("a+") as log, programs(log) as ours:
        return _demo(ours, log, interruption)


def _demo(ours: Programs, log: IO[str], interruption: Interruption) -> ExitCode:
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    console.print(
        f"Sample documents: {len(topics)} topics of the Python {platform.python_version()} language reference.\n"
        "Starting Postgres, Valkey and three workers in a temporary folder, which is removed at the end."
    )
    with (
        TemporaryDirectory(prefix="vector-index-demo-") as folder,
        _system(home := Path(folder) / "home", ours, log, console, interruption) as client,
    ):
        console.print(f"Ready after {time.monotonic() - started:.1f} s.")
        application = Application(client=client, home=home)
        _tour(application, console)
    console.print(
        f"\nStopped and removed everything, {time.monotonic() - started:.1f} s in total. Next:\n",
        style="bold",
    )
    console.print(NEXT, markup=False)
    return ExitCode.FAILED if application.failed else ExitCode.DONE


@contextmanager
def _system(
    home: Path, ours: Programs, log: IO[str], console: Console, interruption: Interruption
) -> Iterator[Client]:
    """Run servers and workers in a new home; remove all other settings from this process's environment."""
    variables = environment()
    for name in list(variables):
        if name in SCALARS or name.startswith(IGNORED_PREFIXES):
            del variables[name]
    variables["VECTOR_INDEX_HOME"] = str(home)
    variables["VECTOR_INDEX"] = json.dumps({"EMBEDDING_BACKENDS": {"default": MODEL}})
    variables["LLM_USER_PATH"] = str(home / "llm")
    prepared = ours.prepare(variables)
    starts = {
        name: partial(ours.start, ["worker", "--queues", name, "--loglevel", "WARNING"], variables)
        for name in UP_POOLS
    }
    with ExitStack() as stack:
        with console.status("starting"):
            services = stack.enter_context(running(home, check=interruption.check))
            prepared()
            supervisor = stack.enter_context(Supervisor(starts, notify=console.print))
            try:
                supervisor.await_workers(home, [interruption.check, services.check, supervisor.check])
            except VectorIndexError:
                log.seek(0)
                echo(log.read(), err=True, nl=False)  # the error refers to it
                raise
        yield Client(load(), sleep=interruption.sleep)


@dataclass(frozen=True, kw_only=True)
class Application:
    """The part of an application: it sends documents and questions."""

    client: Client
    home: Path
    failed: list[Any] = field(default_factory=list)  # documents so far: id and error

    def index(self, documents: Sequence[Mapping[str, Any]]) -> str:
        """Index documents and return a line with the counts."""
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
        """Yield the answer to a question, then its sources."""
        result = self.client.call("tasks.chat", CHAT, question=question, limit=PASSAGES)
        yield result["answer"]
        yield from source_lines(result["sources"])

    def status(self) -> str:
        """Return a line with the documents by state and the pending chunks."""
        state = self.client.call("tasks.status", STAGING)
        documents = ", ".join(f"{count:,} {name}" for name, count in state["documents"].items())
        return f"documents: {documents}; pending chunks: {state['pending_chunks']:,}"

    def _requests(self) -> int:
        path = self.home / REQUESTS
        return path.stat().st_size if path.exists() else 0


def _tour(application: Application, console: Console) -> None:
    """Index the documents, ask questions, index them again, and change one sentence."""
    documents = [_document(name, text) for name, text in topics.items()]
    megabytes = sum(len(text.encode()) for text in topics.values()) / 1e6

    def heading(text: str) -> None:
        console.print(f"\n{text}", style="bold", markup=False)

    heading(f"Index {len(documents)} documents, {megabytes:.2f} MB of text")
    console.print(application.index(documents))
    for question in QUESTIONS:
        heading(question)
        for line in application.answer(question):
            console.print(line, markup=False)
    heading("Index all of them again")
    console.print(application.index(documents))
    heading(f"Change one sentence of {EDITED!r}, {len(topics[EDITED]):,} characters")
    console.print(application.index([_document(EDITED, _edited(topics[EDITED]))]))
    heading("Status")
    console.print(application.status())
    for failure in application.failed:
        console.print(f"failed: {failure['id']}: {failure['error']}", markup=False)


def _document(name: str, text: str) -> dict[str, str]:
    """Return a document as an application sends it. The first line of a topic is its title."""
    title = text.partition("\n")[0].replace('"', "").strip()
    return {"id": name, "title": title, "text": text}


def _edited(text: str) -> str:
    """Replace one sentence in the middle of the text."""
    start = next(re.compile(r"\.\s+(?=[A-Z])").finditer(text, len(text) // 2)).end()
    end = next(re.compile(r"\.\s").finditer(text, start)).start()
    return f"{text[:start]}Here the demo has written a sentence of its own{text[end:]}"
