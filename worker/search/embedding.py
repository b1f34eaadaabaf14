"""Embed the questions of a search, or a text to compare documents with, while a caller waits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.backends.budgets import MAX_WAIT_SECONDS
from worker.chunking import chunk
from worker.documents import clean, digest, embedding_text
from worker.index import Embedder, Index
from worker.observability import events
from worker.packing import batches
from worker.protocols import EmbeddingBackend
from worker.recipes import Recipe
from worker.search.question_cache import QuestionKey, remembered
from worker.store.builds import Build


def embed_questions(
    index: Index, build: Build, texts: Sequence[str], *, max_wait_seconds: float = MAX_WAIT_SECONDS
) -> list[NDArray[np.float32]]:
    """Embed questions as the build's documents are embedded, whatever model the settings name by now.

    Questions that this process has embedded in the last minutes are neither sent nor charged to the budget. The others
    take one request, or more if the backend takes fewer inputs or tokens at once. Each request waits at most
    `max_wait_seconds` for the limits of the backend.
    """
    embedder = index.embedder(build)
    backend = embedder.backend
    recipe = Recipe.stored(build.recipe).within(backend)
    questions = [_question_text(text, recipe, backend) for text in texts]
    keys = {
        text: QuestionKey(id(backend), recipe.model, recipe.dimensions, digest(text)) for text in questions
    }
    known = {text: vector for text, key in keys.items() if (vector := remembered.get(key)) is not None}
    missing = [text for text in keys if text not in known]
    for text, vector in zip(
        missing, embed_at_once(embedder, missing, max_wait_seconds=max_wait_seconds), strict=True
    ):
        # a copy, as a row of the answer would keep the whole answer in memory
        known[text] = np.array(vector, dtype=np.float32)
        remembered.put(keys[text], known[text], backend)
    events.question_vectors(embedder.budget.name, hits=len(keys) - len(missing), misses=len(missing))
    return [known[text] for text in questions]


def embed_document(index: Index, build: Build, text: str) -> NDArray[np.float32]:
    """Embed a text as a document of the build, and return the mean of the vectors of its chunks.

    A text without a word has a vector of zeros.
    """
    embedder = index.embedder(build)
    recipe = Recipe.stored(build.recipe).within(embedder.backend)
    strings = [
        embedding_text(recipe.document_prefix, chunk.heading, chunk.text)
        for chunk in recipe.chunks(text, embedder.backend)
    ]
    distinct = list(dict.fromkeys(strings))
    vectors = dict(zip(distinct, embed_at_once(embedder, distinct), strict=True))
    if not strings:
        return np.zeros(recipe.dimensions, dtype=np.float32)
    mean: NDArray[np.float32] = np.mean([vectors[string] for string in strings], axis=0, dtype=np.float64)
    return mean.astype(np.float32)


def embed_at_once(
    embedder: Embedder, texts: Sequence[str], *, max_wait_seconds: float = MAX_WAIT_SECONDS
) -> list[NDArray[np.float32]]:
    """Embed strings that a caller waits for, in as few requests as the backend's limits allow."""
    backend, budget = embedder.backend, embedder.budget
    counted = ((text, backend.count_tokens(text)) for text in texts)
    requests = batches(
        counted,
        lambda item: item[1],
        weight_limit=backend.batch_token_limit,
        size_limit=backend.batch_size,
    )
    vectors: list[NDArray[np.float32]] = []
    for request in requests:
        tokens = sum(tokens for _, tokens in request)
        with (
            budget.reserve(tokens, max_wait_seconds=max_wait_seconds),
            events.ProviderRequest(budget.name, "search", inputs=len(request), tokens=tokens),
        ):
            vectors.extend(backend.embed([text for text, _ in request]))
    return vectors


def _question_text(text: str, recipe: Recipe, backend: EmbeddingBackend) -> str:
    """The string to embed: the model's query prefix, then the question, cut to the model's token limit."""
    pieces = chunk(
        clean(text),
        prefix=recipe.query_prefix,
        chunk_tokens=recipe.token_limit,
        token_limit=recipe.token_limit,
        count=backend.count_tokens,
    )
    return embedding_text(recipe.query_prefix, "", pieces[0].text if pieces else clean(text))
