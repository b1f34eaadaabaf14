"""FastAPI: index pages in the background, search them, and stream answers.

    BROKER_URL=redis://... uvicorn fastapi_pages:api

The guide is docs/how-to/fastapi.md.
"""

import json
import os
import time
from collections.abc import AsyncIterator

import redis.asyncio
from celery import Celery
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from kombu.exceptions import OperationalError
from pydantic import BaseModel

BROKER_URL = os.environ["BROKER_URL"]
ANSWER_SECONDS = 90

app = Celery("pages", broker=BROKER_URL, backend=BROKER_URL)
# without it, a call takes 19 s to notice that Redis is away
app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 1}}
api = FastAPI()


class Page(BaseModel):
    title: str
    text: str


@api.put("/pages/{id}", status_code=202)
def put(id: str, page: Page) -> dict[str, str]:
    """Send a page to the index, and return at once."""
    document = {"id": id, **page.model_dump(), "version": time.time_ns()}
    return {"task": send("tasks.index_documents", "vector_index", documents=[document])}


@api.get("/search")
def search(query: str) -> list[dict[str, object]]:
    """Return passages. Not `async`: waiting for a result blocks, so FastAPI runs this in a thread."""
    return app.AsyncResult(send("tasks.search", "vector_index.chat", query=query)).get(timeout=10)


@api.get("/answer")
def answer(question: str) -> StreamingResponse:
    """Stream an answer as server-sent events: `sources`, `token`, ..., then `done` or `error`."""
    task = send("tasks.chat", "vector_index.chat", question=question, stream=True)
    return StreamingResponse(events(task), media_type="text/event-stream")


async def events(task: str) -> AsyncIterator[str]:
    """Copy the answer's Redis stream to the browser; stop the answer when the browser goes away."""
    key, last, finished = f"vector-index:chat:{task}", "0", False
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        async with redis.asyncio.Redis.from_url(BROKER_URL, decode_responses=True, protocol=2) as client:
            while not finished and time.monotonic() < deadline:
                for _, entries in await client.xread({key: last}, block=1000):  # milliseconds
                    for id, entry in entries:
                        last = id
                        yield f"event: {entry['event']}\ndata: {entry['data']}\n\n"
                        finished = entry["event"] in ("done", "error")
        if not finished:
            yield f"event: error\ndata: {json.dumps('no answer in time')}\n\n"
    finally:
        if not finished:
            app.control.revoke(task)


def send(task: str, queue: str, **kwargs: object) -> str:
    """Send a task. Answers 503 within a second if Redis is away: nothing was sent, so send the page again."""
    if app.conf.task_always_eager:
        raise RuntimeError("eager mode has no effect on send_task: replace `send` in your tests")
    try:
        return str(app.send_task(task, queue=queue, kwargs=kwargs).id)
    except (OperationalError, RuntimeError) as error:
        raise HTTPException(503, "the index cannot be reached: nothing was sent, try again later") from error
