"""POST /embeddings with OpenAI's limits and deterministic vectors: bags of hashed tokens."""

import base64
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from tests.provider.http import Rejection

# limits of OpenAI's embedding models
MAX_INPUT_TOKENS = 8_191
MAX_REQUEST_TOKENS = 300_000
MAX_REQUEST_INPUTS = 2_048


def texts_of(body: Any) -> list[str]:
    """The inputs of a request. Raises Rejection for a malformed request; `answer` checks the limits."""
    if not isinstance(body, dict) or "model" not in body:
        raise Rejection(400, "you must provide a model parameter")
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Rejection(400, "'$.input' is invalid: expected a string or a non-empty array of strings.")
    if "" in texts:
        raise Rejection(400, "Invalid 'input': input cannot be an empty string.")
    return texts


def answer(body: Any, tokens: Sequence[Sequence[int]], *, dimensions: int) -> dict[str, Any]:
    """An embedding response with unit vectors; texts with equal words are near. Raises Rejection over a limit."""
    counts = [len(ids) for ids in tokens]
    _check_limits(counts)
    length = body.get("dimensions", dimensions)
    if not isinstance(length, int) or not 1 <= length <= 4_096:
        raise Rejection(400, f"Invalid value for 'dimensions': {length}.", code="invalid_value")
    plain = body.get("encoding_format", "float") == "float"
    vectors = (_vector(ids, length) for ids in tokens)
    data = [
        {
            "object": "embedding",
            "index": at,
            "embedding": vector.tolist() if plain else base64.b64encode(vector.tobytes()).decode(),
        }
        for at, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def encode(text: str) -> list[int]:
    """Encode with cl100k, independently of the code under test; in pieces, because bpe_openai limits the length."""
    pieces = (text[at : at + 100_000] for at in range(0, len(text), 100_000))
    return [token for piece in pieces for token in _encoding().encode_ordinary(piece)]


def _check_limits(counts: list[int]) -> None:
    if len(counts) > MAX_REQUEST_INPUTS:
        raise Rejection(
            400,
            f"Invalid 'input': array too long. Expected an array with maximum length {MAX_REQUEST_INPUTS}, "
            f"but got an array with length {len(counts)} instead.",
            code="array_above_max_length",
        )
    if max(counts) > MAX_INPUT_TOKENS:
        raise Rejection(
            400,
            f"This model's maximum context length is {MAX_INPUT_TOKENS} tokens, "
            f"however you requested {max(counts)} tokens. Please reduce your prompt.",
            code="context_length_exceeded",
        )
    if sum(counts) > MAX_REQUEST_TOKENS:
        raise Rejection(
            400,
            f"Requested {sum(counts)} tokens, max {MAX_REQUEST_TOKENS} tokens per request",
            code="max_tokens_per_request",
            kind="max_tokens_per_request",
        )


@cache
def _encoding() -> Any:
    import bpe_openai  # here, since it reads the tables of all its models: 1.5 s

    return bpe_openai.get_encoding("cl100k_base")  # reads its tables at each call: 9 ms


def _vector(tokens: Sequence[int], dimensions: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    # Fibonacci hashing spreads neighbouring token numbers; the square root limits the weight of frequent words
    places = (np.array(tokens, dtype=np.uint64) * np.uint64(2_654_435_761) >> np.uint64(8)) % np.uint64(
        dimensions
    )
    bag = np.sqrt(np.bincount(places.astype(np.intp), minlength=dimensions))
    return np.asarray(bag / np.linalg.norm(bag), dtype="<f4")
