"""Seconds of an answer by a running system, idle and while documents wait to be indexed.

    python -m benchmarks.chat_under_load --broker redis://... [--documents 2000]

The documents are new to the index at each run, and deleted at the end.
"""

import argparse
import statistics
import time
from pydoc_data.topics import topics
from typing import Any

from celery import Celery

QUESTIONS = ("When is the else clause of a for loop executed?", "Which values count as false?")
IDLE_ROUNDS = 20
MESSAGE_DOCUMENTS = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chat_under_load")
    parser.add_argument("--broker", required=True)
    parser.add_argument("--documents", type=int, default=2_000)
    arguments = parser.parse_args()
    app = Celery("benchmark", broker=arguments.broker, backend=arguments.broker)
    run = time.time_ns()
    names = sorted(topics)
    documents = [
        {
            "id": f"load-{run}-{at}",
            "text": f"Run {run}, copy {at}.\n\n{topics[names[at % len(names)]].replace('.', f' {at}.')}",
        }
        for at in range(arguments.documents)
    ]
    _call(app, "tasks.index_documents", "vector_index", documents=documents[: len(names)])
    _seconds(app, IDLE_ROUNDS)
    _show("idle", _seconds(app, IDLE_ROUNDS), pending=[0])
    tasks = [
        app.send_task(
            "tasks.index_documents",
            queue="vector_index",
            kwargs={"documents": documents[at : at + MESSAGE_DOCUMENTS]},
        )
        for at in range(len(names), len(documents), MESSAGE_DOCUMENTS)
    ]
    started, loaded, waiting = time.perf_counter(), [], []
    while left := sum(not task.ready() for task in tasks):
        waiting.append(left * MESSAGE_DOCUMENTS)
        loaded += _seconds(app, 1)
    _show("loaded", loaded, pending=waiting)
    print(f"all {arguments.documents:,} documents indexed after {time.perf_counter() - started:.0f} s")
    for at in range(0, len(documents), 500):
        _call(
            app,
            "tasks.delete_documents",
            "vector_index",
            ids=[document["id"] for document in documents[at : at + 500]],
        )


def _seconds(app: Celery, rounds: int) -> list[float]:
    found = []
    for at in range(rounds):
        started = time.perf_counter()
        _call(app, "tasks.chat", "vector_index.chat", question=QUESTIONS[at % len(QUESTIONS)])
        found.append(time.perf_counter() - started)
    return found


def _call(app: Celery, task: str, queue: str, **kwargs: Any) -> Any:
    return app.send_task(task, queue=queue, kwargs=kwargs).get(timeout=120)


def _show(state: str, seconds: list[float], pending: list[int]) -> None:
    print(
        f"{state:<7} {len(seconds)} answers: median {statistics.median(seconds):.3f} s, max {max(seconds):.3f} s, "
        f"with {max(pending):,} to {min(pending):,} documents waiting"
    )


if __name__ == "__main__":
    main()
