"""How well questions find their documents, by chunk size and by what travels with a chunk: Hit@5 and MRR.

    python -m benchmarks.chunk_sizes CORPUS_FOLDER QUESTIONS.jsonl

A line of the questions: {"question", "doc"}, `doc` a path from the folder; null is left out. Embedded with wordllama
and searched by brute force, in memory: no service runs. Documents are read as `vector-index index` reads them.
A second set of questions asks for each document with the first sentences of its text, which are then left out of it:
more questions than anybody would write, and none that was seen when a size was chosen.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import llm
import numpy as np
from numpy.typing import NDArray

from worker.backends.limits import embedding_limits
from worker.chunking import chunk, embedding_title
from worker.documents import embedding_text
from worker.sources import files
from worker.tokens import counter

SIZES = (100, 180, 240, 320, 512)
TOP = 5
MODEL = "wordllama"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chunk_sizes")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("questions", type=Path)
    arguments = parser.parse_args()
    documents = {
        found["id"]: found
        for found in files.read([arguments.corpus], max_bytes=10**7)
        if isinstance(found, dict) and found["id"].endswith((".md", ".rst", ".html"))
    }
    rows = [json.loads(line) for line in arguments.questions.read_text().splitlines()]
    asked = [(row["question"], row["doc"]) for row in rows if row["doc"]]
    opening, shortened = without_opening(documents)
    print(f"{'':<16}{len(asked)} questions of the corpus{'':>14}{len(opening)} openings of documents")
    print(f"{'tokens  heading':<20}{'chunks':>8}{'Hit@5':>8}{'MRR':>8}{'chunks':>14}{'Hit@5':>8}{'MRR':>8}")
    for size in SIZES:
        for name, title, sections in [("none", False, False), ("title", True, False), ("path", True, True)]:
            line = f"{size:>6}  {name:<12}"
            for questions, texts in [(asked, documents), (opening, shortened)]:
                found = Search(texts, size, title=title, sections=sections)
                hits, reciprocal = found.quality(questions)
                line += (
                    f"{len(found.owners):>{8 if questions is asked else 14}}{hits:>8.3f}{reciprocal:>8.3f}"
                )
            print(line, flush=True)


def without_opening(
    documents: dict[str, dict[str, str]],
) -> tuple[list[tuple[str, str]], dict[str, dict[str, str]]]:
    """The first sentences of each document's prose, as questions, and the documents without them."""
    questions, rest = [], {}
    for name, document in documents.items():
        text = document["text"]
        found = re.search(r"(?:Abstract\n=+|# Summary.*|Description)\s+((?:[^\n]+\n)+)", text)
        if found and len(found[1].split()) >= 12:
            questions.append((" ".join(found[1].split())[:300], name))
            text = text[: found.start(1)] + text[found.end(1) :]
        rest[name] = document | {"text": text}
    return questions, rest


class Search:
    """All chunks of the documents as unit vectors in memory."""

    def __init__(
        self, documents: dict[str, dict[str, str]], size: int, *, title: bool, sections: bool
    ) -> None:
        limits = embedding_limits(MODEL)
        assert limits
        assert limits.tokenizer
        count = counter(limits.tokenizer)
        texts, owners = [], []
        for name, document in documents.items():
            line = document.get("title", "") if title else ""
            for found in chunk(
                document["text"],
                title=embedding_title(line, token_limit=limits.token_limit, count=count),
                chunk_tokens=size,
                token_limit=limits.token_limit,
                count=count,
                sections=sections,
            ):
                texts.append(embedding_text("", found.heading, found.text))
                owners.append(name)
        self.owners = np.array(owners)
        self.vectors = embed(texts)

    def quality(self, questions: Sequence[tuple[str, str]]) -> tuple[float, float]:
        """The share of questions whose document is among the first five, and the mean of 1 / its rank."""
        scores = embed([question for question, _ in questions]) @ self.vectors.T
        ranks = []
        for row, (_, wanted) in zip(scores, questions, strict=True):
            order = dict.fromkeys(self.owners[np.argsort(-row)])
            ranks.append(list(order).index(wanted) + 1)
        return float(np.mean([rank <= TOP for rank in ranks])), float(np.mean([1 / rank for rank in ranks]))


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    model = llm.get_embedding_model(MODEL)
    return np.array(list(model.embed_multi(texts, batch_size=256)), dtype=np.float32)


if __name__ == "__main__":
    main()
