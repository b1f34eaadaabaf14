"""Print an answer while the model writes it: `BROKER_URL=redis://... python streamed_answer.py "a question"`."""

import json
import os
import sys
import time

import redis
from celery import Celery

BROKER_URL = os.environ["BROKER_URL"]  # or the workers' RESULT_BACKEND, if they set one
DEADLINE_SECONDS = 90

app = Celery("library", broker=BROKER_URL, backend=BROKER_URL)
# without it, a call takes 19 s to notice that Redis is away
app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 1}}


def read_events(task_id):
    """Yield the name and the data of each event, until the answer is complete."""
    key, last = f"vector-index:chat:{task_id}", "0"
    deadline = time.monotonic() + DEADLINE_SECONDS
    with redis.Redis.from_url(BROKER_URL, decode_responses=True, protocol=2) as client:
        while time.monotonic() < deadline:
            for _, entries in client.xread({key: last}, block=1000):  # milliseconds
                for id, entry in entries:
                    last = id
                    yield entry["event"], json.loads(entry["data"])
                    if entry["event"] in ("done", "error"):
                        return
    raise TimeoutError(f"no answer within {DEADLINE_SECONDS} s")


kwargs = {"question": sys.argv[1], "stream": True}
task = app.send_task("tasks.chat", queue="vector_index.chat", kwargs=kwargs)
for event, data in read_events(task.id):
    if event == "sources":  # again, if the answer starts anew: forget what came before
        print(f"{len(data)} sources:", end=" ")
    elif event == "token":
        print(data, end="", flush=True)
    elif event == "done":
        print(f"\n{data['usage']['output_tokens']} tokens by {data['model']}")
    elif event == "error":  # ignore other events, such as `reasoning`
        sys.exit(data)
