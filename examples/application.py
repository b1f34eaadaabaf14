"""A plain application: Celery and the broker's address, and nothing of vector-index-worker.

    BROKER_URL=redis://... python application.py "How long may I keep a book?"

`vector-index up` prints the address. The guide is docs/how-to/application.md.
"""

import os
import sys

from celery import Celery

BROKER_URL = os.environ["BROKER_URL"]

app = Celery("library", broker=BROKER_URL, backend=BROKER_URL)
app.conf.task_routes = {
    "tasks.search": "vector_index.chat",
    "tasks.find_similar": "vector_index.chat",
    "tasks.chat": "vector_index.chat",
    "tasks.*": "vector_index",
}

PAGES = [
    {"id": 1, "version": 1, "title": "Lending", "text": "A book may be kept for four weeks, a film for one."},
    {"id": 2, "version": 1, "title": "Opening hours", "text": "The library is open from ten to six."},
    {"id": 3, "version": 1, "title": "Fees", "text": "Each week after the last day costs one euro a book."},
]

question = sys.argv[1] if len(sys.argv) > 1 else "How long may I keep a book?"
indexing = app.send_task("tasks.index_documents", kwargs={"documents": PAGES})
print(indexing.get(timeout=60))  # it succeeded: each page is searchable, or listed under `failed`
for row in app.send_task("tasks.search", kwargs={"query": question, "limit": 2}).get(timeout=10):
    print(f"{row['similarity']:.2f}  {row['title']}: {row['text']}")
