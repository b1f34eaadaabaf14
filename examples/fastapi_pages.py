"""FastAPI: pages that are indexed in the background, and a search over them.

BROKER_URL=redis://... uvicorn fastapi_pages:api
"""

import os
import time

from celery import Celery
from fastapi import FastAPI
from pydantic import BaseModel

BROKER_URL = os.environ["BROKER_URL"]

app = Celery("pages", broker=BROKER_URL, backend=BROKER_URL)
api = FastAPI()


class Page(BaseModel):
    title: str
    text: str


@api.put("/pages/{id}", status_code=202)
def put(id: str, page: Page) -> dict[str, str]:
    document = {"id": id, **page.model_dump(), "version": time.time_ns()}
    return {
        "task": app.send_task(
            "tasks.index_documents", queue="vector_index", kwargs={"documents": [document]}
        ).id
    }


@api.get("/search")
def search(query: str) -> list[dict[str, object]]:
    """Not `async`: waiting for a result blocks, and FastAPI runs it in a thread."""
    return app.send_task("tasks.search", queue="vector_index.chat", kwargs={"query": query}).get(timeout=10)
