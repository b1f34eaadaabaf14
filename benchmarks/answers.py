"""How well the questions of a corpus are answered through `tasks.chat`, by a running system that has indexed it.

    python -m benchmarks.answers questions.jsonl --broker redis://... --limit 5

A line of the file: {"id", "question", "doc", "evidence"}; `doc` null: the corpus has no answer, so the question should
be declined. Quoted: answered, with the document among the sources that the answer cites.
"""

import argparse
import json
from pathlib import Path

from celery import Celery


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--limit", type=int, default=5, help="passages for each question")
    arguments = parser.parse_args()
    app = Celery("benchmark", broker=arguments.broker, backend=arguments.broker)
    rows = [json.loads(line) for line in arguments.questions.read_text().splitlines()]
    tasks = [
        app.send_task(
            "tasks.chat",
            queue="vector_index.chat",
            kwargs={"question": row["question"], "limit": arguments.limit},
        )
        for row in rows
    ]
    total = {
        "answerable": 0,
        "found": 0,
        "answered": 0,
        "quoted": 0,
        "verbatim": 0,
        "unanswerable": 0,
        "declined": 0,
    }
    for row, task in zip(rows, tasks, strict=True):
        result = task.get(timeout=60)
        if row["doc"] is None:
            total["unanswerable"] += 1
            total["declined"] += not result["answered"]
            continue
        name = Path(row["doc"]).name
        of_document = [source for source in result["sources"] if Path(source["document_id"]).name == name]
        quoted = result["answered"] and any(source["cited"] for source in of_document)
        total["answerable"] += 1
        total["found"] += bool(of_document)
        total["answered"] += result["answered"]
        total["quoted"] += quoted
        total["verbatim"] += _plain(row["evidence"]) in _plain(result["answer"])
        if not quoted:
            print(f"{row['id']}: {result['answer'][:100]}")
    print(json.dumps(total))


def _plain(text: str) -> str:
    return "".join(text.replace("`", "").split())


if __name__ == "__main__":
    main()
