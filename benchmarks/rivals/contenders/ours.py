"""This project, as a user starts it: `vector-index up`, and an application that sends messages through the broker.

Variants: default, outbox (the application inserts rows, as with pgai), no-words (an index without full text), small
(`up --small`), new (the first documents of an index).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import count, cycle
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery
from celery.result import AsyncResult

from benchmarks.rivals.contender import DIMENSIONS, MODEL, Contender, question, serve, timed
from benchmarks.rivals.corpus import Document

MESSAGE = 100  # documents
QUESTIONS = 50
PATIENCE_SECONDS = 600
LOOK_SECONDS = 0.02
MAX_DOCUMENT_BYTES = 50_000_000
BACKEND = "worker.backends.llm.LLMEmbeddingBackend"
ENQUEUE = "SELECT vector_index.enqueue_document('default', %(id)s, %(text)s, %(title)s)"
LIVE_BUILD = "SELECT live_build FROM vector_index.indexes WHERE name = 'default' AND live_build IS NOT NULL"
KNOWN = "SELECT count(*) FROM vector_index.served_{build} WHERE live_rev IS NOT NULL"
WAITS = """SELECT EXISTS (SELECT FROM vector_index.outbox WHERE error IS NULL)
    OR EXISTS (SELECT FROM vector_index.served_{build} WHERE want_rev IS NOT NULL AND state <> 'failed')"""
ERRORS = """SELECT error FROM vector_index.outbox WHERE error IS NOT NULL
    UNION ALL SELECT error FROM vector_index.served_{build} WHERE state = 'failed' LIMIT 3"""


class Ours(Contender):
    def __init__(self, *, database_url: str, variant: str) -> None:
        super().__init__(database_url=database_url, variant=variant)
        self.home = tempfile.TemporaryDirectory(prefix="vector-index-")
        self.process = self._start()
        self.connection = psycopg.connect(database_url, autocommit=True)
        broker = self._broker_url()
        self.app = Celery("application", broker=broker, backend=broker, set_as_current=False)
        # as docs/how-to/application.md does
        self.app.conf.broker_transport_options = {"body_encoding": "utf-8"}
        once = {"content_type": "application/json", "content_encoding": "utf-8"}
        self.app.conf.task_routes = {"tasks.index_documents": {"queue": "vector_index", **once}}
        self.index_name = "warm" if variant == "new" else "default"
        self._warm()
        self.index_name = "default"

    def index(self, documents: list[Document]) -> None:
        self._wait(self._send(documents[at : at + MESSAGE]) for at in range(0, len(documents), MESSAGE))

    def index_each(self, documents: list[Document], patience_seconds: float) -> int:
        """As docs/how-to/django.md does: the application sends a message for each, and skips its result."""
        expected = self._count(KNOWN) + len(documents)
        for document in documents:
            self._send([document], ignore_result=True)
        self._look_until(lambda: self._count(KNOWN) == expected)
        return len(documents)

    def search(self, question: str) -> None:
        self._ask("search", query=question)

    def answer(self, question: str) -> None:
        if not self._ask("chat", question=question)["answer"]:
            raise RuntimeError("an empty answer")

    def index_large(self, documents: list[Document]) -> list[float]:
        numbers = count()

        def other() -> None:
            text = f"A short text beside the large document: {next(numbers)}."
            self._wait([self._send([{"id": "beside", "text": text}])])

        return self._beside(documents, other)

    def index_and_search(self, documents: list[Document]) -> list[float]:
        questions = cycle([question(document) for document in documents[:QUESTIONS]])
        return self._beside(documents, lambda: self.search(next(questions)))

    def _beside(self, documents: list[Document], call: Callable[[], None]) -> list[float]:
        """Index the documents; the seconds of each call meanwhile."""
        jobs = [self._send(documents[at : at + MESSAGE]) for at in range(0, len(documents), MESSAGE)]
        seconds = []
        while not all(job.ready() for job in jobs):
            seconds.append(timed(call))
        self._wait(jobs)
        return seconds

    def _ask(self, task: str, **arguments: Any) -> Any:
        sent = self.app.send_task(f"tasks.{task}", queue="vector_index.chat", kwargs=arguments)
        return sent.get(timeout=PATIENCE_SECONDS)

    def rows(self) -> int:
        return self._count("SELECT count(*) FROM vector_index.chunks_{build}")

    def close(self) -> None:
        self.connection.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.home.cleanup()

    def _send(self, documents: list[Document], **options: Any) -> "AsyncResult[Any]":
        arguments = {"documents": documents, "index": self.index_name}
        return self.app.send_task("tasks.index_documents", kwargs=arguments, **options)

    def _wait(self, sent: Iterable["AsyncResult[Any]"]) -> None:
        for job in list(sent):
            result = job.get(timeout=PATIENCE_SECONDS)
            if result["failed"]:
                raise RuntimeError(result["failed"][:3])

    def _look_until(self, is_done: Callable[[], bool]) -> None:
        """Look into the database until all documents are searchable."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_done():
            if time.monotonic() > end:
                raise TimeoutError(f"documents still wait after {PATIENCE_SECONDS} s")
            if errors := self._rows(ERRORS):
                raise RuntimeError(errors)
            time.sleep(LOOK_SECONDS)

    def _count(self, query: str) -> int:
        return sum(row[0] for row in self._rows(query))

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        build = self.connection.execute(LIVE_BUILD).fetchone()
        return self.connection.execute(query.format(build=build[0])).fetchall() if build else []

    def _warm(self) -> None:
        """Let each staging process load its tokenizer: several small messages at once, twice."""
        for turn in range(2):
            texts = [
                {"id": f"warm-{turn}-{at}", "text": f"Said at turn {turn}, number {at}."} for at in range(40)
            ]
            self._wait(self._send(texts[at : at + 5]) for at in range(0, 40, 5))

    def _start(self) -> "subprocess.Popen[str]":
        folder = Path(self.home.name)
        settings = folder / "settings_of_benchmark.py"
        index = {"LANGUAGE": None} if self.variant == "no-words" else {}
        config = {"MODEL_ID": MODEL, "EMBEDDING_OUTPUT_DIMENSIONS": DIMENSIONS}
        values = {
            "EMBEDDING_BACKENDS": {"default": {"CLASS": BACKEND, "CONFIG": config}},
            "INDEXES": {"default": index, "warm": index},
        }
        settings.write_text(
            f"VECTOR_INDEX = {values!r}\nMAX_DOCUMENT_BYTES = {MAX_DOCUMENT_BYTES}\nCHAT_MODEL = 'gpt-4o-mini'\n"
        )
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {
            "DATABASE_URL": self.database_url,
            "VECTOR_INDEX_HOME": str(folder / "home"),
            "VECTOR_INDEX_SETTINGS": str(settings),
        }
        command = [Path(sys.executable).parent / "vector-index", "up", "--json"]
        if self.variant == "small":
            command.append("--small")
        return subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True)

    def _broker_url(self) -> str:
        """The address that `up` prints, once it is ready."""
        broker = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            broker = said.get("BROKER_URL", broker)
            if said.get("ready"):
                return str(broker)
        raise RuntimeError("vector-index up has ended before it was ready")


class OursByOutbox(Ours):
    """The application enqueues documents in its own transactions, and looks until all of them are searchable."""

    def index(self, documents: list[Document]) -> None:
        with self.connection.transaction():
            self.connection.cursor().executemany(ENQUEUE, documents)
        self._look_until(self._has_all)

    def index_each(self, documents: list[Document], patience_seconds: float) -> int:
        for document in documents:  # a commit each
            self.connection.execute(ENQUEUE, document)
        self._look_until(self._has_all)
        return len(documents)

    def _has_all(self) -> bool:
        return not self._rows(WAITS)[0][0]


def ours(*, database_url: str, variant: str) -> Ours:
    kind = OursByOutbox if variant == "outbox" else Ours
    return kind(database_url=database_url, variant=variant)


if __name__ == "__main__":
    serve(ours)
