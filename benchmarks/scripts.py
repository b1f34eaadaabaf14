"""Search in any language: hit@1 and nDCG@10 by vectors, by words and by both, over collections in SQuAD's format.

    python -m benchmarks.scripts FOLDER [QUESTIONS]

Each *.json in the folder is one collection: its paragraphs are documents, and the first question of up to 240 of them
(or QUESTIONS) is asked. XQuAD has eleven languages (github.com/google-deepmind/xquad), JSQuAD is Japanese. Vectors are
of the default model, which knows little beyond English. LANGUAGE follows the name of the file (xquad.de.json), if
Postgres has it.

Then all collections are in one index, with LANGUAGE english and LANGUAGE_FIELD, and with LANGUAGE alone. `search` is
the median time of a search by words there.
"""

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any

from worker import configuration, services, wiring
from worker.backends.budgets import Budget
from worker.index import Index
from worker.indexing import staging
from worker.indexing.draining.drainer import Drainer
from worker.search.queries import MODES, SearchQuery
from worker.search.retrieval import retrieve
from worker.store import schema

QUESTIONS = 240
LANGUAGES = {"ar": "arabic", "de": "german", "en": "english", "ru": "russian"}


def main(folder: Path, number: int = QUESTIONS) -> None:
    with (
        tempfile.TemporaryDirectory() as home,
        services.running(Path(home), valkey=False, durable=False) as running,
    ):
        url = running.addresses.database_url
        schema.install(url)
        print("collection       documents  questions " + "".join(f"{mode:>17}" for mode in MODES))
        files = sorted(folder.glob("*.json"))
        for file in files:
            documents, questions = read(file, number)
            language = next((LANGUAGES[part] for part in file.stem.split(".") if part in LANGUAGES), "simple")
            index = load(url, documents, name=file.stem, language=language)
            measure(index, file.stem, len(documents), questions)
        for field in ("language", None):
            together(url, files, number, field)


def together(url: str, files: Sequence[Path], number: int, field: str | None) -> None:
    """Index all collections in one, each document with its language, and print a line for each collection."""
    collections = {file.stem: read(file, number) for file in files}
    whole = [
        document | {"id": f"{stem}-{document['id']}", "metadata": {"language": stem.rpartition(".")[2]}}
        for stem, (documents, _) in collections.items()
        for document in documents
    ]
    index = load(url, whole, name=f"together-{field}", language="english", language_field=field)
    print(f"together, LANGUAGE_FIELD {field!r}")
    for stem, (_, questions) in collections.items():
        measure(index, stem, len(whole), [(text, f"{stem}-{id}") for text, id in questions])
    asked = [text for _, questions in collections.values() for text, _ in questions]
    times = []
    for text in asked:
        began = time.perf_counter()
        retrieve(index, SearchQuery(text=text, mode="text", limit=10))
        times.append(time.perf_counter() - began)
    print(f"search {1000 * statistics.median(times):.1f} ms")


def load(url: str, documents: Sequence[Mapping[str, Any]], *, name: str, **changes: Any) -> Index:
    """Index documents under these settings."""
    settings = replace(configuration.load({}).index("default"), name=name, **changes)
    backend = wiring.make_backend(settings.embedding_backend)
    index = Index(url=url, settings=settings, backend=backend, budget=Budget("", backend.model_id))
    staging.stage(index, name, documents, max_bytes=10_000_000)
    Drainer(url, settings.embedding_backend, backend).drain()
    return index


def measure(index: Index, name: str, documents: int, questions: Sequence[tuple[str, str]]) -> None:
    """Ask the questions of a collection, and print a line."""
    print(f"{name:<16} {documents:>9}  {len(questions):>9} ", end="")
    for mode in MODES:
        ranks = [rank(index, text, mode, id) for text, id in questions]
        hits = sum(found == 0 for found in ranks) / len(ranks)
        ndcg = sum(1 / log2(found + 2) for found in ranks if found is not None) / len(ranks)
        print(f"{hits:>9.3f} {ndcg:>7.3f}", end="", flush=True)
    print()


def rank(index: Index, text: str, mode: str, id: str) -> int | None:
    """The place of a document among the first ten; `None` if it is not there."""
    found = retrieve(index, SearchQuery(text=text, mode=mode, limit=10, per_document=1))
    return next((at for at, passage in enumerate(found) if passage.document_id == id), None)


def read(file: Path, number: int) -> tuple[list[dict[str, str]], Sequence[tuple[str, str]]]:
    """The documents of a collection, and questions with the id of their document."""
    paragraphs = [
        paragraph for entry in json.loads(file.read_text())["data"] for paragraph in entry["paragraphs"]
    ]
    documents = [{"id": str(at), "text": paragraph["context"]} for at, paragraph in enumerate(paragraphs)]
    questions = [(paragraph["qas"][0]["question"], str(at)) for at, paragraph in enumerate(paragraphs)]
    return documents, random.Random(1).sample(questions, min(number, len(questions)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
