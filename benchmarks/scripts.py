"""Search in any language: hit@1 and nDCG@10 by vectors, by words and by both, over collections in SQuAD's format.

    python -m benchmarks.scripts FOLDER

Each *.json in the folder is one collection: its paragraphs are documents, and the first question of up to 240 of them
is asked. XQuAD has eleven languages (github.com/google-deepmind/xquad), JSQuAD is Japanese. Vectors are of the default
model, which knows little beyond English. LANGUAGE follows the name of the file (xquad.de.json), if Postgres has it.
"""

import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from math import log2
from pathlib import Path

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


def main(folder: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as home,
        services.running(Path(home), valkey=False, durable=False) as running,
    ):
        url = running.addresses.database_url
        schema.install(url)
        print("collection       documents  questions " + "".join(f"{mode:>17}" for mode in MODES))
        for file in sorted(folder.glob("*.json")):
            measure(url, file)


def measure(url: str, file: Path) -> None:
    """Index one collection, ask its questions, and print a line."""
    documents, questions = read(file)
    language = next((LANGUAGES[part] for part in file.stem.split(".") if part in LANGUAGES), "simple")
    settings = replace(configuration.load({}).index("default"), name=file.stem, language=language)
    backend = wiring.make_backend(settings.embedding_backend)
    index = Index(url=url, settings=settings, backend=backend, budget=Budget("", backend.model_id))
    staging.stage(index, file.stem, documents, max_bytes=10_000_000)
    Drainer(url, settings.embedding_backend, backend).drain()
    print(f"{file.stem:<16} {len(documents):>9}  {len(questions):>9} ", end="")
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


def read(file: Path) -> tuple[list[dict[str, str]], Sequence[tuple[str, str]]]:
    """The documents of a collection, and questions with the id of their document."""
    paragraphs = [
        paragraph for entry in json.loads(file.read_text())["data"] for paragraph in entry["paragraphs"]
    ]
    documents = [{"id": str(at), "text": paragraph["context"]} for at, paragraph in enumerate(paragraphs)]
    questions = [(paragraph["qas"][0]["question"], str(at)) for at, paragraph in enumerate(paragraphs)]
    return documents, random.Random(1).sample(questions, min(QUESTIONS, len(questions)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
