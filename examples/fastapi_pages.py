"""FastAPI: index pages in the background, search them, and stream answers.

    BROKER_URL=redis://... uvicorn fastapi_pages:api

It needs answer_stream.py and answers.html beside it. The guide is docs/how-to/fastapi.md.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated
from uuid import UUID

from answer_stream import HEADERS, result_of, server_sent_async
from celery import Celery
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import FileResponse, StreamingResponse
from kombu.exceptions import OperationalError
from pydantic import BaseModel

BROKER_URL = os.environ["BROKER_URL"]

app = Celery("pages", broker=BROKER_URL, backend=BROKER_URL)
# without it, a call takes 19 s to notice that Redis is away
app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 1}}
api = FastAPI()


class Page(BaseModel):
    title: str
    text: str


class Question(BaseModel):
    question: str


@api.put("/pages/{id}", status_code=202)
def put(id: str, page: Page) -> dict[str, str]:
    """Send a page to the index, and return at once."""
    document = {"id": id, **page.model_dump(), "version": time.time_ns()}
    return {"task": send("tasks.index_documents", "vector_index", documents=[document])}


@api.get("/search")
async def search(query: str) -> list[dict[str, object]]:
    """Return passages. The event loop stays free: a send blocks for up to a second, a wait as long as it takes."""
    task = await asyncio.to_thread(send, "tasks.search", "vector_index.chat", query=query)
    return list(await result_of(app.AsyncResult(task), timeout_seconds=10))


@api.post("/answers", status_code=202)
def ask(asked: Question) -> dict[str, str]:
    """Send a question, and return at once. The browser reads the answer at /answers/{task}."""
    # the stream has the whole result, so a second copy for a day is left out
    kwargs = {"question": asked.question, "stream": True}
    return {"task": send("tasks.chat", "vector_index.chat", ignore_result=True, **kwargs)}


@api.get("/answers/{task}")
async def answer(task: UUID, last_event_id: Annotated[str | None, Header()] = None) -> StreamingResponse:
    """Stream an answer as server-sent events. Any number of readers may come, late or again."""
    sent = server_sent_async(str(task), last_event_id, app.control.revoke)
    return StreamingResponse(sent, media_type="text/event-stream", headers=HEADERS)


@api.post("/answers/{task}/stop", status_code=204)
def stop(task: UUID) -> None:
    """Stop an answer: the worker closes the request to the provider."""
    app.control.revoke(str(task))


@api.get("/")
def page() -> FileResponse:
    return FileResponse(Path(__file__).parent / "answers.html")


def send(task: str, queue: str, *, ignore_result: bool = False, **kwargs: object) -> str:
    """Send a task. Answers 503 within a second if Redis is away: nothing was sent, so send the page again."""
    if app.conf.task_always_eager:
        raise RuntimeError("eager mode has no effect on send_task: replace `send` in your tests")
    try:
        sent = app.send_task(task, queue=queue, kwargs=kwargs, ignore_result=ignore_result)
        return str(sent.id)
    except (OperationalError, RuntimeError) as error:
        raise HTTPException(503, "the index cannot be reached: nothing was sent, try again later") from error
