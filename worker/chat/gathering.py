"""Gather the passages for a question: with the turns before it, and with text around each match."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from worker.chat.following_up import rewriting, rewritten, search_texts
from worker.chat.questions import ChatQuestion
from worker.chat.sending import ChatModel, send
from worker.chat_results import Usage
from worker.documents import clean
from worker.errors import VectorIndexError
from worker.index import Index
from worker.observability.logs import log_fields
from worker.passages import Passage
from worker.search.reranking import Reranker
from worker.search.retrieval import retrieve

logger = logging.getLogger("vector_index.chat")


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """The question that the model wrote for the search."""

    text: str | None = None  # None: the search takes the question as it is, with its history
    usage: Usage = field(default_factory=lambda: Usage(input_tokens=0, output_tokens=0))  # of the request


def rewrite(model: ChatModel, question: ChatQuestion) -> Rewritten:
    """Let the model write a question that stands alone, if FOLLOW_UP asks for it. No error of it ends the chat."""
    messages = rewriting(question.text, question.history or (), model.window) if model.rewrites else None
    if messages is None:
        return Rewritten()
    try:
        reply = send(model, messages, purpose="rewrite")
    except VectorIndexError as error:
        logger.warning("rewrite_failed", extra=log_fields(model=model.backend.model_id, error=str(error)))
        return Rewritten()
    usage: Usage = {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens}
    return Rewritten(text=rewritten(clean(reply.text)), usage=usage)


def gather(
    index: Index, question: ChatQuestion, searched: str | None, reranker: Reranker | None = None
) -> Sequence[Passage]:
    """Search for a question together with its history, or for `searched`. Raises the errors of `retrieve`."""
    texts = [searched] if searched else search_texts(question.text, question.history or ())
    query = replace(question.query, text=None, queries=texts)
    return retrieve(index, query, reranker, around=index.settings.context)
