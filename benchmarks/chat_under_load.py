"""Seconds until the first word of an answer by a running system: idle, and while messages wait to be indexed.

    python -m benchmarks.chat_under_load --broker redis://... [--jobs 10000] [--rounds 60] [--slow BACKEND]

Each message has one new document. The messages that still wait at the end are purged, and the documents are deleted.
`--slow` names a chat backend whose answers take long: the same questions are then asked beside one slow answer too.
"""

import argparse
import json
import statistics
import time
from pydoc_data.topics import topics
from typing import Any

import redis
from celery import Celery

QUESTIONS = ("When is the else clause of a for loop executed?", "Which values count as false?")
QUEUE, CHAT = "vector_index", "vector_index.chat"
SAMPLE_DOCUMENTS = 79  # indexed before, so that there is something to find


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chat_under_load")
    parser.add_argument("--broker", required=True)
    parser.add_argument("--jobs", type=int, default=10_000, help="messages that wait")
    parser.add_argument("--rounds", type=int, default=60, help="answers in each state")
    parser.add_argument("--slow", help="a chat backend whose answers take long")
    arguments = parser.parse_args()
    app = Celery("benchmark", broker=arguments.broker, backend=arguments.broker)
    run = time.time_ns()
    texts = [text for _, text in sorted(topics.items())]
    _call(app, "tasks.index_documents", QUEUE, documents=_documents(run, texts, range(SAMPLE_DOCUMENTS)))
    with redis.Redis.from_url(arguments.broker, decode_responses=True, protocol=2) as client:
        _seconds(app, client, 10)  # warm
        idle = _seconds(app, client, arguments.rounds)
        _show("idle", idle, idle)
        if arguments.slow:
            _show("slow answer", _beside_slow_answer(app, client, arguments.slow, arguments.rounds), idle)
        for at in range(SAMPLE_DOCUMENTS, arguments.jobs + SAMPLE_DOCUMENTS):
            kwargs = {"documents": _documents(run, texts, [at])}
            app.send_task("tasks.index_documents", queue=QUEUE, kwargs=kwargs, ignore_result=True)
        before = client.llen(QUEUE)
        loaded = _seconds(app, client, arguments.rounds)
        print(f"{before:,} messages waited before, {client.llen(QUEUE):,} after")
        client.delete(QUEUE)
        _show("loaded", loaded, idle)
    for at in range(0, arguments.jobs + SAMPLE_DOCUMENTS, 500):
        ids = [f"load-{run}-{number}" for number in range(at, at + 500)]
        _call(app, "tasks.delete_documents", QUEUE, ids=ids)


def _documents(run: int, texts: list[str], numbers: Any) -> list[dict[str, str]]:
    return [
        {
            "id": f"load-{run}-{at}",
            "text": f"Run {run}, copy {at}.\n\n{texts[at % len(texts)].replace('.', f' {at}.')}",
        }
        for at in numbers
    ]


def _beside_slow_answer(app: Celery, client: Any, backend: str, rounds: int) -> list[float]:
    """Ask while another question is answered slowly; that answer is revoked at the end."""
    kwargs = {"question": QUESTIONS[0], "stream": True, "chat_backend": backend}
    slow = app.send_task("tasks.chat", queue=CHAT, kwargs=kwargs, ignore_result=True)
    client.xread({f"vector-index:chat:{slow.id}": "0"}, block=60_000)
    found = _seconds(app, client, rounds)
    last = client.xrevrange(f"vector-index:chat:{slow.id}", count=1)[0][1]["event"]
    assert last not in ("done", "error"), "the slow answer ended before the others: choose a slower backend"
    app.control.revoke(slow.id)
    return found


def _seconds(app: Celery, client: Any, rounds: int) -> list[float]:
    """Seconds from the send to the first word, of each answer."""
    found = []
    for at in range(rounds):
        kwargs = {"question": QUESTIONS[at % len(QUESTIONS)], "stream": True}
        started = time.perf_counter()
        task = app.send_task("tasks.chat", queue=CHAT, kwargs=kwargs, ignore_result=True)
        key, last, event = f"vector-index:chat:{task.id}", "0", ""
        while event not in ("done", "error"):
            for _, entries in client.xread({key: last}, block=120_000):
                for id, entry in entries:
                    if event in ("", "sources", "reasoning") and entry["event"] == "token":
                        found.append(time.perf_counter() - started)
                    last, event = id, entry["event"]
        assert event == "done", json.loads(entry["data"])
    return found


def _call(app: Celery, task: str, queue: str, **kwargs: Any) -> Any:
    return app.send_task(task, queue=queue, kwargs=kwargs).get(timeout=300)


def _show(state: str, seconds: list[float], idle: list[float]) -> None:
    figures = []
    for name, number in (("p50", 49), ("p95", 94)):
        quantile, before = (statistics.quantiles(of, n=100)[number] for of in (seconds, idle))
        figures.append(f"{name} {quantile * 1000:.0f} ms ({quantile / before:.2f} x idle)")
    print(f"{state:<12} {len(seconds)} answers, first word after {', '.join(figures)}", flush=True)


if __name__ == "__main__":
    main()
