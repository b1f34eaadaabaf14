"""The contender's side of a run: a process that obeys commands on its standard input, a line of JSON each.

- {"do": "load", "path": ...} reads the documents of the next command.
- {"do": "index"} indexes all of them in the contender's own way.
- {"do": "each", "patience_seconds": ...} indexes each by itself, as an application saves them.
- {"do": "edits"} indexes one after the other, and tells how long each took until it was searchable.
- {"do": "searches"} and {"do": "answers"} ask a question about each, one after the other, and tell how long each took.
- {"do": "large"} and {"do": "mixed"} index all, and tell how long other calls took meanwhile.

It answers each with a line of JSON on a pipe of its own, as libraries print to the standard output. This module needs
only the standard library, as rivals import it, too.
"""

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from benchmarks.rivals.corpus import Document, read

MODEL = "text-embedding-3-small"
DIMENSIONS = 1536
CHUNK_CHARACTERS, CHUNK_TOKENS = 2_000, 512
WARM_DOCUMENTS = 20
PAUSE_SECONDS = 0.2
QUESTION_WORDS = 8


class Contender(ABC):
    """What a contender does. Each process has a database of its own, which is empty at its start.

    A scenario names the contenders that search, answer, and search while they index: the others have no such method.
    """

    search: Callable[[str], None]  # find five chunks for a question
    answer: Callable[[str], None]
    index_and_search: Callable[[list[Document]], list[float]]  # the seconds of each search while it indexes

    def __init__(self, *, database_url: str, variant: str) -> None:
        self.database_url, self.variant = database_url, variant

    @abstractmethod
    def index(self, documents: list[Document]) -> None:
        """Make the documents searchable. A second time with the same ids replaces those that have changed."""

    def index_each(self, documents: list[Document], patience_seconds: float) -> int:
        """Do so for each by itself; the number of those done in time."""
        end = time.perf_counter() + patience_seconds
        for done, document in enumerate(documents):
            if time.perf_counter() > end:
                return done
            self.index([document])
        return len(documents)

    def index_large(self, documents: list[Document]) -> list[float]:
        """Index them; the seconds of each other job that ran meanwhile."""
        self.index(documents)
        return []

    @abstractmethod
    def rows(self) -> int:
        """Chunks that are stored."""

    def close(self) -> None:  # noqa: B027 - most have started nothing
        """Stop what the contender has started."""


def serve(make: Callable[..., Contender]) -> None:
    """Warm up, then obey until the standard input ends."""
    answers = os.fdopen(int(os.environ["RIVALS_ANSWERS"]), "w", buffering=1)
    contender = make(database_url=os.environ["RIVALS_DATABASE_URL"], variant=os.environ["RIVALS_VARIANT"])
    try:
        contender.index(read(os.environ["RIVALS_WARM"]))
        print(json.dumps({"ready": True}), file=answers)
        documents: list[Document] = []
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "load":
                documents = read(command["path"])
                answer: dict[str, Any] = {"documents": len(documents), "rows": contender.rows()}
            else:
                answer = _obey(contender, command, documents)
            print(json.dumps(answer), file=answers)
    finally:
        contender.close()


def _obey(contender: Contender, command: dict[str, Any], documents: list[Document]) -> dict[str, Any]:
    started, done, told = time.perf_counter(), len(documents), {}
    match command["do"]:
        case "index":
            contender.index(documents)
        case "each":
            done = contender.index_each(documents, command["patience_seconds"])
        case "edits":
            told["latencies"] = [timed(lambda found=found: contender.index([found])) for found in documents]
        case "searches" | "answers" as kind:
            ask = contender.search if kind == "searches" else contender.answer
            told["latencies"] = [timed(lambda found=found: ask(question(found))) for found in documents]
        case "large":
            told["latencies"] = contender.index_large(documents)
        case "mixed":
            told["latencies"] = contender.index_and_search(documents)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "documents": done, "rows": contender.rows(), **told}


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call, after a pause in which everything else comes to rest."""
    time.sleep(PAUSE_SECONDS)
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def question(document: Document) -> str:
    """Words from the middle of the document."""
    words = document["text"].split()
    return " ".join(words[len(words) // 2 :][:QUESTION_WORDS])
