"""How well questions that follow others find their documents: Hit@1 and Hit@5 of 40 dialogues, by what is searched.

    python -m benchmarks.follow_up CORPUS_FOLDER

A line of dialogues.jsonl: {"asked", "answered", "question", "documents", "rewrite"}; the first two are the turn before,
`documents` are paths from the folder, and `rewrite` is what a scripted model writes as a question that stands alone. In
36 of them the question names too little by itself, in the last but one four it is about something new. The folder is
indexed with the shipped model, in services of its own. Hit@5: a right document is among the first five passages.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.corpus import indexed
from worker.chat.following_up import search_texts
from worker.index import Index
from worker.search.queries import SearchQuery
from worker.search.retrieval import retrieve

DIALOGUES = Path(__file__).with_name("dialogues.jsonl")
TOP = 5

Dialogue = Mapping[str, Any]


def history(dialogue: Dialogue) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": dialogue["asked"]},
        {"role": "assistant", "content": dialogue["answered"]},
    ]


def fused(dialogue: Dialogue, texts: int = 3) -> Sequence[str]:
    return search_texts(dialogue["question"], history(dialogue))[:texts]


WAYS: Mapping[str, Callable[[Dialogue], Sequence[str]]] = {
    "the question alone": lambda row: fused(row, 1),
    "the last turn alone": lambda row: fused(row)[2:],
    "one text: question and last question": lambda row: fused(row)[1:2],
    "one text: question and last turn": lambda row: [
        "\n".join([row["question"], row["asked"], row["answered"]])
    ],
    "fused: question, and with last question": lambda row: fused(row, 2),
    "fused: these two and the last turn (default)": fused,
    "rewritten": lambda row: [row["rewrite"]],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.follow_up")
    parser.add_argument("corpus", type=Path)
    corpus = parser.parse_args().corpus
    dialogues = [json.loads(line) for line in DIALOGUES.read_text().splitlines()]
    with indexed(corpus) as index:
        print(f"{len(dialogues)} dialogues{'':<32}{'Hit@1':>8}{'Hit@5':>8}  missed")
        for name, texts in WAYS.items():
            found = [documents(index, texts(row)) for row in dialogues]
            pairs = list(zip(found, dialogues, strict=True))
            first = sum(ids[0] in row["documents"] for ids, row in pairs)
            missed = [row["question"] for ids, row in pairs if not set(ids) & set(row["documents"])]
            shown = "; ".join(missed[:3]) + ("; ..." if len(missed) > 3 else "")
            print(f"{name:<44}{first:>8}{len(dialogues) - len(missed):>8}  {shown}")


def documents(index: Index, texts: Sequence[str]) -> list[str]:
    """The documents of the first passages, best first."""
    return [row.document_id for row in retrieve(index, SearchQuery(queries=list(texts), limit=TOP))]


if __name__ == "__main__":
    main()
