"""What an index costs as it grows: load, search, status, sweep, verify, publish, delete, and bytes on disk.

    python -m benchmarks.growth [CHUNKS ...] [--output benchmarks/growth.json]

10,000 and 100,000 chunks, unless you say otherwise; other sizes stay in the file. Each has a new embedded Postgres.
A vector has 64 numbers, so that a million fit into the time, and a chunk some 60 words of real prose. Staging runs in
this thread, and the threads of a drainer embed and save, all in one process. Vectors come from a table of noise: no
provider takes processor time. `python -m benchmarks.growth_plots` draws the figures.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.collection import cpu_seconds
from benchmarks.rivals import corpus
from worker import configuration, services
from worker.backends.budgets import Budget
from worker.configuration import HNSWSettings
from worker.index import Index
from worker.indexing import staging
from worker.indexing.draining.drainer import Drainer
from worker.indexing.jobs import job_results
from worker.indexing.verification import Verifier
from worker.search.queries import MODES, SearchQuery
from worker.search.retrieval import retrieve
from worker.services import postgres
from worker.store import builds, connection, hnsw, schema, status, sweep
from worker.store.builds import Build

SIZES = (10_000, 100_000)
DIMENSIONS, CHUNK_TOKENS, MESSAGE = 64, 64, 100
QUESTIONS, REPEATS, QUESTION_WORDS = 60, 5, 6
DELETED = 20  # documents of a call
KEPT = 2 * MESSAGE + REPEATS * DELETED
OUTPUT = Path(__file__).with_name("growth.json")


class Noise:
    """A user's own backend class: the sum of two rows of a table for each text, and a word for a token.

    Single rows would repeat: a million texts have 256,000 of them, and a vector index holds each once.
    """

    model_id, tokenizer = "noise", "words"
    token_limit, batch_token_limit, batch_size = 1_000, 1_000_000, 1_000
    chunk_tokens, dimensions = CHUNK_TOKENS, DIMENSIONS
    document_prefix = query_prefix = ""

    def __init__(self) -> None:
        self.table = np.random.default_rng(7).standard_normal((1 << 18, DIMENSIONS), dtype=np.float32)

    def count_tokens(self, text: str) -> int:
        return text.count(" ") + text.count("\n") + 1

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        digests = b"".join(blake2b(text.encode(), digest_size=16).digest() for text in texts)
        rows = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2) % len(self.table)
        return self.table[rows[:, 0]] + self.table[rows[:, 1]]


class Growing:
    """An index with its drainer."""

    def __init__(self, url: str) -> None:
        settings = configuration.load({}).index("default")
        backend = Noise()
        self.url = url
        self.index = Index(url=url, settings=settings, backend=backend, budget=Budget("", "default"))
        self.drainer = Drainer(url, settings.embedding_backend, backend)
        self.drainer.start()
        corpus.prose()  # read before the clock runs
        self.texts = corpus.texts((corpus.SMALLEST, corpus.LARGEST), 1)
        self.documents = self.messages = self.reported = 0
        self.kept: list[dict[str, Any]] = []  # to edit, publish again and delete

    def measured(self, chunks: int) -> dict[str, Any]:
        found: dict[str, Any] = self.load(chunks)
        found["bytes_per_chunk"] = self.bytes() / found["chunks"]
        found["vector_index_seconds"] = self.make_vector_index()
        found["bytes_per_chunk_with_vector_index"] = self.bytes() / found["chunks"]
        with connection.checkout(self.url) as conn:
            conn.execute("ANALYZE")
        found |= {f"search_{mode}_ms": self.search_ms(mode) for mode in MODES}
        found |= {
            "status_ms": self.status_ms(),
            "sweep_ms": self.sweep_ms(),
            "verify_seconds": self.verify_seconds(),
            "edit_ms": self.edit_ms(),
            "publish_ms": self.publish_ms(),
            "delete_ms": self.delete_ms(),
        }
        return found | {"load_average": round(os.getloadavg()[0], 1)}  # of the machine, with this process

    def load(self, chunks: int) -> dict[str, float]:
        """Index documents until there are so many chunks."""
        started, cpu = time.perf_counter(), cpu_seconds()
        missing = chunks // 30  # documents, of which each has some 24
        while missing > 0:
            for at in range(0, missing, MESSAGE):
                self.send(list(islice(self.new_documents(), min(MESSAGE, missing - at))))
            found = self.count("chunks")
            missing = -(-(chunks - found) * self.documents // found)
        self.wait()
        seconds, found = time.perf_counter() - started, self.count("chunks")
        return {
            "chunks": found,
            "documents": self.documents,
            "load_seconds": seconds,
            "load_chunks_per_second": found / seconds,
            "load_cpu_ms_per_chunk": 1000 * (cpu_seconds() - cpu) / found,
        }

    def new_documents(self) -> Iterator[dict[str, Any]]:
        for text in self.texts:
            self.documents += 1
            document = {"id": str(self.documents), "text": text}
            if len(self.kept) < KEPT:
                self.kept.append(document)
            yield document

    def send(self, documents: Sequence[dict[str, Any]]) -> None:
        self.messages += 1
        staging.stage(self.index, f"message-{self.messages}", documents, max_bytes=10**7)

    def wait(self) -> None:
        """Wait until everything is searchable, and take the results, as waiting tasks do."""
        with connection.checkout(self.url) as conn:
            waiting = (
                f"SELECT 1 FROM vector_index.served_{self.build.build} WHERE want_rev IS NOT NULL LIMIT 1"
            )
            while conn.execute(waiting.encode()).fetchone():
                time.sleep(0.01)
            sent = [f"message-{number}" for number in range(self.reported + 1, self.messages + 1)]
            for at in range(0, len(sent), MESSAGE):
                job_results(conn, "default", sent[at : at + MESSAGE])
        self.reported = self.messages

    @property
    def build(self) -> Build:
        with connection.checkout(self.url) as conn:
            found = builds.live(conn, "default")
        assert found
        return found

    def count(self, table: str) -> int:
        return int(self.value(f"SELECT count(*) FROM vector_index.{table}_{self.build.build}"))

    def bytes(self) -> int:
        return int(self.value("SELECT pg_database_size(current_database())"))

    def value(self, statement: str) -> Any:
        with connection.checkout(self.url) as conn:
            row = conn.execute(statement.encode()).fetchone()
        assert row
        return row[0]

    def make_vector_index(self) -> float | None:
        """Make it where the workers do, after the load; the seconds."""
        vectors, build = self.count("embeddings"), self.build
        if vectors * hnsw.width(build) < hnsw.MIN_NUMBERS:
            return None
        with connection.connect(self.url) as conn:
            return seconds(lambda: hnsw.create(conn, build, HNSWSettings(), vectors=vectors))

    def search_ms(self, mode: str) -> float:
        questions = [
            " ".join(text.split()[:QUESTION_WORDS]) for text in islice(corpus.texts((400, 800), 6), QUESTIONS)
        ]
        return milliseconds(
            [
                lambda text=text: retrieve(self.index, SearchQuery(text=text, limit=10, mode=mode))
                for text in questions
            ]
        )

    def status_ms(self) -> float:
        with connection.checkout(self.url) as conn:
            return milliseconds([lambda: status.index_status(conn, self.build)] * REPEATS)

    def sweep_ms(self) -> float:
        with connection.checkout(self.url) as conn:
            return milliseconds([lambda: sweep.sweep_build(conn, self.build)] * REPEATS)

    def verify_seconds(self) -> float:
        found = Verifier(index=self.index, wake=lambda: None).verify(repair=False)
        if not found["healthy"]:
            faults = [check for check in found["checks"] if check["fault"] and check["found"]]
            raise SystemExit(f"the index is not healthy: {faults}")
        return float(found["seconds"])

    def edit_ms(self) -> float:
        """Of 100 documents, each with a new sentence, until they are searchable."""
        return milliseconds([self._edit] * REPEATS) / MESSAGE

    def _edit(self) -> None:
        self.send([corpus.edited(document, self.messages) for document in self.kept[:MESSAGE]])
        self.wait()

    def publish_ms(self) -> float:
        """Of 100 documents with other metadata: nothing to embed, so staging publishes them."""

        def change() -> None:
            metadata = {"edition": self.messages}
            self.send([{**document, "metadata": metadata} for document in self.kept[MESSAGE : 2 * MESSAGE]])
            self.wait()

        return milliseconds([change] * REPEATS) / MESSAGE

    def delete_ms(self) -> float:
        """Of 20 documents by id."""

        def delete(number: int) -> None:
            ids = [document["id"] for document in self.kept[2 * MESSAGE + number * DELETED :][:DELETED]]
            assert staging.delete(self.index, f"delete-{number}", ids, None).deleted == DELETED

        return milliseconds([lambda number=number: delete(number) for number in range(REPEATS)]) / DELETED


def measure(chunks: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home, services.running(Path(home)) as own:
        url = own.addresses.database_url
        schema.install(url)
        growing = Growing(url)
        try:
            return growing.measured(chunks)
        finally:
            growing.drainer.stop(5)
            connection.close_pools()


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def milliseconds(calls: Sequence[Callable[[], object]]) -> float:
    """The median of the calls, after the first one warmed up."""
    calls[0]()
    return 1000 * statistics.median(map(seconds, calls[1:] or calls))


def machine() -> dict[str, Any]:
    programs = postgres.programs()
    version = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True)
    control = (programs.parent / "share/postgresql/extension/vector.control").read_text()
    return {
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
        "postgres": version.stdout.split()[-1],
        "pgvector": control.partition("default_version = '")[2].partition("'")[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("chunks", type=int, nargs="*", default=list(SIZES))
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help=f"(default: {OUTPUT.name} beside this file)"
    )
    arguments = parser.parse_args()
    for chunks in arguments.chunks:
        measured = {"requested": chunks, **measure(chunks)}
        print(json.dumps(measured), flush=True)
        add(arguments.output, measured)


def add(output: Path, measured: dict[str, Any]) -> None:
    """Write a size to the file, in place of an earlier measurement of it."""
    earlier = json.loads(output.read_text())["sizes"] if output.exists() else []
    sizes = [size for size in earlier if size["requested"] != measured["requested"]]
    sizes = sorted([*sizes, measured], key=lambda size: size["requested"])
    output.write_text(json.dumps({"machine": machine(), "sizes": sizes}, indent=2) + "\n")


if __name__ == "__main__":
    main()
