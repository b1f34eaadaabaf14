"""A plain application: Celery and the broker's address, and nothing of vector-index-worker.

    BROKER_URL=redis://... python application.py "How long may I keep a book?"

`vector-index up` prints the address. It adds three documents whose ids begin with "example-" and removes them at its
end. The guide is docs/how-to/application.md.
"""

import os
import sys
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

BROKER_URL = os.environ["BROKER_URL"]

app = Celery("library", broker=BROKER_URL, backend=BROKER_URL)
app.conf.task_routes = {
    "tasks.search": "vector_index.chat",
    "tasks.find_similar": "vector_index.chat",
    "tasks.embed_texts": "vector_index.chat",
    "tasks.chat": "vector_index.chat",
    "tasks.*": "vector_index",
}
# without it, a call takes 19 s to notice that Redis is away
app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 1}}

PAGES = [
    {"id": "example-1", "title": "Lending", "text": "A book may be kept for four weeks, a film for one."},
    {"id": "example-2", "title": "Opening hours", "text": "The library is open from ten to six."},
    {"id": "example-3", "title": "Fees", "text": "Each week after the last day costs one euro a book."},
]
for page in PAGES:
    page["metadata"] = {"example": True}


def call(task: str, **kwargs: Any) -> Any:
    """Send a task and wait for its result."""
    try:
        sent = app.send_task(task, kwargs=kwargs)
    except (OperationalError, RuntimeError) as error:
        sys.exit(f"nothing was sent, because Redis cannot be reached ({error.__cause__ or error}): start it")
    return sent.get(timeout=60)


question = sys.argv[1] if len(sys.argv) > 1 else "How long may I keep a book?"
try:
    # it succeeded: each page is searchable, or listed under `failed`
    print(call("tasks.index_documents", documents=PAGES))
    # without the filter, your own documents are found too
    for row in call("tasks.search", query=question, limit=2, filter={"example": True}):
        print(f"{row['similarity']:.2f}  {row['title']}: {row['text']}")
finally:
    call("tasks.delete_documents", ids=[page["id"] for page in PAGES])
