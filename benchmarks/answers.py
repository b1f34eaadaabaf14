"""How well the questions of a corpus are answered with the shipped models, and whether each quotation is in its source.

    python -m benchmarks.answers CORPUS_FOLDER QUESTIONS.jsonl [--limit 5] [--context 1]

A line of the questions: {"id", "question", "doc", "evidence"}; `doc` is a path from the folder, and null if the corpus
has no answer, so that the question should be declined. The folder is indexed in services of this process, and each
question is asked as `tasks.chat` does. Right source: answered, with the document among the sources that it cites.
A quotation counts as in its source if each part of it, between ellipses, is in the text of a cited document, white
space aside.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.corpus import documents, indexed
from worker import wiring
from worker.backends.budgets import Budget
from worker.chat.answering import ask
from worker.chat.questions import ChatQuestion
from worker.chat.sending import ChatModel
from worker.chat_results import Answer

_QUOTATION = re.compile(r"“(.*?)”((?: \[\d+\])+)")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--limit", type=int, default=5, help="passages for each question")
    parser.add_argument("--context", type=int, help="chunks before and after each match")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.questions.read_text().splitlines()]
    texts = {document["id"]: _plain(document["text"]) for document in documents(arguments.corpus)}
    with indexed(arguments.corpus) as index:
        index = replace(index, settings=replace(index.settings, context=arguments.context))
        model = ChatModel(
            backend=wiring.make_chat_backend(index.settings.chat_backend), budget=Budget("", "chat")
        )
        results = [
            ask(index, model, ChatQuestion(text=row["question"], limit=arguments.limit)) for row in rows
        ]
    total, reasons, held = Counter[str](), Counter[str](), list[float]()
    for row, result in zip(rows, results, strict=True):
        total.update(figures(row, result))
        reasons[result["reason"] or "answered"] += 1
        quoted = list(quotations(result))
        total["quotations"] += len(quoted)
        for quotation, ids in quoted:
            if not any(is_in(quotation, texts[id]) for id in ids):
                total["quotations not in their source"] += 1
                print(f"{row['id']}: not in {', '.join(ids)}: {quotation}")
        held += [result["groundedness"]] if result["groundedness"] is not None else []
    for name in ("answerable", "answered", "right source", "evidence quoted", "unanswerable", "declined"):
        print(f"{name:<32}{total[name]:>5}")
    print(f"{'quotations':<32}{total['quotations']:>5}")
    print(f"{'quotations not in their source':<32}{total['quotations not in their source']:>5}")
    print(f"{'mean groundedness':<32}{sum(held) / len(held):>5.3f}")
    print(f"reasons: {', '.join(f'{name} {count}' for name, count in sorted(reasons.items()))}")


def figures(row: Mapping[str, Any], result: Answer) -> Sequence[str]:
    """The counts that a question adds to."""
    if row["doc"] is None:
        if result["answered"]:
            print(f"{row['id']}: {result['answer'][:300]}")
        return ["unanswerable", *(["declined"] if not result["answered"] else [])]
    cited = {source["document_id"] for source in result["sources"] if source["cited"]}
    is_right = result["answered"] and row["doc"] in cited
    if not is_right:
        print(f"{row['id']}: {result['answer'][:100]}")
    has_evidence = _plain(row["evidence"]).replace("`", "") in _plain(result["answer"]).replace("`", "")
    return [
        "answerable",
        *(["answered"] if result["answered"] else []),
        *(["right source"] if is_right else []),
        *(["evidence quoted"] if has_evidence else []),
    ]


def quotations(result: Answer) -> Iterator[tuple[str, Sequence[str]]]:
    """The quotations of an answer, each with the documents that it cites."""
    for quotation, numbers in _QUOTATION.findall(result["answer"]):
        cited = [int(number) for number in re.findall(r"\d+", numbers)]
        yield quotation, [result["sources"][number - 1]["document_id"] for number in cited]


def is_in(quotation: str, text: str) -> bool:
    return all(_plain(part) in text for part in quotation.split("…"))


def _plain(text: str) -> str:
    return "".join(text.split())


if __name__ == "__main__":
    main()
