"""chat: answer a question from an index, with citations."""

from contextlib import nullcontext
from typing import Any

from celery import Task
from celery.exceptions import Ignore
from celery.worker import state

from worker import wiring
from worker.celery.application import app
from worker.chat import answering
from worker.errors import InvalidQuery
from worker.observability import events
from worker.search import retrieval


@app.task(name="tasks.chat", bind=True, resultrepr_maxsize=1)
def chat(
    self: Task,
    question: str,
    limit: int = 5,
    filter: dict[str, Any] | None = None,
    similarity_threshold: float = 0.0,
    history: list[dict[str, str]] | None = None,
    chat_backend: str | None = None,
    stream: bool = False,
    index: str = "default",
) -> dict[str, Any]:
    """Answer a question from the passages nearest to it.

    Changes nothing. A second run asks the model again, and starts the stream anew. The caller is waiting, so an
    unreachable provider is tried three times within about ten seconds; any other error is reported at once.
    """
    if not isinstance(stream, bool):
        raise InvalidQuery(f"stream must be true or false, not {stream!r:.40}")
    writer = answering.Stream(wiring.result_backend(), self.request.id) if stream else None
    try:
        with writer or nullcontext():
            asked = answering.Question(text=question, history=() if history is None else history)
            target = wiring.index(index)
            backend = wiring.chat_backend(target.settings, chat_backend)
            wanted = retrieval.Query(
                text=asked.text, limit=limit, filter=filter, similarity_threshold=similarity_threshold
            )
            with events.chat(index):
                for attempt in answering.attempts():
                    with attempt:
                        passages = retrieval.retrieve(
                            target.url, target.settings, target.backend, wanted, target.budget
                        )
                return answering.answer(
                    backend,
                    asked,
                    passages,
                    system=target.settings.query_prompt,
                    stream=writer,
                    revoked=lambda: self.request.id in state.revoked,
                    budget=wiring.chat_budget(target.settings, chat_backend),
                )
    except answering.Revoked as error:
        # on the threads pool, Celery itself revokes only tasks that have not begun
        self.backend.mark_as_revoked(self.request.id, str(error), request=self.request)
        raise Ignore from error
