"""Rerank the first passages of a search. After any failure the order stays, and each passage says why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from worker.backends.budgets import Budget
from worker.chunking import cut
from worker.errors import ProviderUnavailable, VectorIndexError
from worker.observability import events
from worker.passages import Passage
from worker.protocols import RerankBackend
from worker.search.ranking import by_score, is_score
from worker.search_results import Reranked

MAX_WAIT_SECONDS = 1.0  # for the rate limits of the backend: the search has an order without it
PAUSE_SECONDS = 10.0  # after a server did not answer: until then, searches do not wait for it


@dataclass(frozen=True, kw_only=True)
class Reranker:
    """An entry of RERANK_BACKENDS, ready to score."""

    backend: RerankBackend
    budget: Budget  # the rate limits of the backend
    passages: int  # how many of the first passages it scores


def rerank(reranker: Reranker, index: str, question: str, passages: Sequence[Passage]) -> list[Passage]:
    """Order the first passages by the scores of the reranker; those behind them follow in their order.

    A scored passage has that score. The passages behind have at most the lowest of them, so that scores still fall.
    After an error of the reranker, the passages come back as they were, each with the error.
    """
    first, others = passages[: reranker.passages], passages[reranker.passages :]
    model = reranker.backend.model_id
    if not first:
        return []
    try:
        scores = _scores(reranker, question, first)
    except Exception as error:  # noqa: BLE001 - of a class of your own, too: the search goes on without it
        events.rerank_failed(index, reranker.budget.name, error)
        said: Reranked = {"model": model, "score": None, "error": _sentence(error, model)}
        return [replace(passage, rerank=said) for passage in passages]
    lowest = min(scores)
    return [
        *(
            replace(first[at], score=scores[at], rerank={"model": model, "score": scores[at]})
            for at in by_score(scores)
        ),
        *(
            replace(passage, score=min(passage.score, lowest), rerank={"model": model, "score": None})
            for passage in others
        ),
    ]


def _scores(reranker: Reranker, question: str, passages: Sequence[Passage]) -> list[float]:
    """Return the score of each passage. Raises the errors of the backend and of `Budget.reserve`."""
    backend = reranker.backend
    half = backend.token_limit // 2
    asked = cut(question, half, backend.count_tokens)
    room = backend.token_limit - backend.count_tokens(asked)
    texts = [cut(_text(passage), room, backend.count_tokens) for passage in passages]
    scores: list[float] = []
    for some in _batches(texts, backend.batch_size):
        scores += _request(reranker, asked, some)
    return scores


def _request(reranker: Reranker, question: str, texts: Sequence[str]) -> Sequence[float]:
    backend, budget = reranker.backend, reranker.budget
    tokens = len(texts) * backend.count_tokens(question) + sum(map(backend.count_tokens, texts))
    try:
        with (
            budget.reserve(tokens, max_wait_seconds=MAX_WAIT_SECONDS),
            events.ProviderRequest(budget.name, "rerank", inputs=len(texts), tokens=tokens),
        ):
            scores = list(backend.rerank(question, texts))
            if len(scores) != len(texts) or not all(map(is_score, scores)):
                raise ProviderUnavailable(
                    f"{backend.model_id} did not return one finite score for each of {len(texts)} passages"
                )
    except ProviderUnavailable as error:
        if error.retry_after_seconds is None:
            budget.pause(PAUSE_SECONDS)
        raise
    return [float(score) for score in scores]


def _batches(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for at in range(0, len(texts), size):
        yield texts[at : at + size]


def _text(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def _sentence(error: Exception, model: str) -> str:
    """Say why; the message of an unknown exception may contain a passage."""
    return str(error) if isinstance(error, VectorIndexError) else f"{model}: it raised {type(error).__name__}"
