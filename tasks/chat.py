"""chat: answer a question from an index, with citations."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from celery import Task
from celery.exceptions import Ignore
from celery.worker import state

from tasks.arguments import Filter, History, Index, Limit, Query, Rerank, Threshold
from worker import wiring
from worker.celery.application import app
from worker.chat.answering import ask
from worker.chat.questions import ChatQuestion
from worker.chat.stream import AnswerStream, Revoked
from worker.chat_results import Answer
from worker.errors import InvalidQuery, described
from worker.reference import Meaning


@app.task(name="tasks.chat", bind=True, resultrepr_maxsize=1)
def chat(
    self: Task,
    question: Query,
    limit: Limit = 5,
    filter: Filter = None,
    similarity_threshold: Threshold = 0.0,
    history: History = None,
    chat_backend: Annotated[str | None, Meaning("name of another entry of `CHAT_BACKENDS`")] = None,
    stream: Annotated[bool, Meaning("also write a [streamed answer](streamed-answer.md)")] = False,
    index: Index = "default",
    rerank: Rerank = None,
    retrieve: Annotated[
        bool, Meaning("false: ask the chat backend alone, without a search, passages and rules on citing")
    ] = True,
) -> Answer:
    """Answer a question from the passages nearest to it, with citations.

    The caller is waiting, so temporary errors of Postgres and of the providers are retried for some ten seconds only,
    and other errors are raised at once.

    Second run: asks the model again, and starts the stream anew. It changes nothing in the index.

    Errors: InvalidQuery, UnknownIndex, SettingsError, ProviderUnavailable, ServiceUnreachable, BuildDropped, TooLarge
    and Refused. A streamed answer that you revoked raises TaskRevokedError.
    """
    with _answer_stream(self, stream) as answer_stream:
        asked = ChatQuestion(
            text=question,
            history=history,
            limit=limit,
            filter=filter,
            similarity_threshold=similarity_threshold,
            retrieve=retrieve,
        )
        target = wiring.index(index)
        model = wiring.chat_model(target.settings, chat_backend)
        return ask(target, model, asked, answer_stream, wiring.reranker(target.settings, rerank))


@contextmanager
def _answer_stream(task: Task, wanted: object) -> Iterator[AnswerStream | None]:
    """Open the stream of a task if it is wanted, and end the task as revoked when its caller revokes it."""
    if not isinstance(wanted, bool):
        raise InvalidQuery(f"stream must be true or false, not {described(wanted)}")
    if not wanted:
        yield None
        return
    id = task.request.id
    try:
        with AnswerStream(wiring.result_backend(), id, revoked=lambda: id in state.revoked) as stream:
            yield stream
    except Revoked as error:
        # on the threads pool, Celery itself only stops tasks that have not begun
        task.backend.mark_as_revoked(id, str(error), request=task.request)
        raise Ignore from error
