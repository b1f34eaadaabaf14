"""Rerank servers: the request that each accepts, and its answer, after their public references; none is recorded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.provider.http import Rejection

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One server's form of the API."""

    fields: frozenset[str]  # of the request; another one is refused
    texts: str  # name of the field with the passages
    score: str  # name of the field with a score
    answer: Callable[[Rows, Sequence[str]], Any]
    most: int = 1000  # passages in a request


def _cohere(rows: Rows, texts: Sequence[str]) -> Any:
    return {
        "id": "07734bd2",
        "results": rows,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }


def _with_documents(rows: Rows, texts: Sequence[str]) -> Any:
    """Jina, vLLM and Infinity repeat the passages."""
    full = [{**row, "document": {"text": texts[row["index"]]}} for row in rows]
    return {"id": "rerank-1", "object": "rerank", "model": "m", "usage": {"total_tokens": 9}, "results": full}


def _voyage(rows: Rows, texts: Sequence[str]) -> Any:
    return {"object": "list", "data": rows, "model": "rerank-2.5", "usage": {"total_tokens": 9}}


COHERE_FIELDS = frozenset({"model", "query", "documents", "top_n"})
SHAPES: Mapping[str, Shape] = {
    "Cohere": Shape(fields=COHERE_FIELDS, texts="documents", score="relevance_score", answer=_cohere),
    "Jina": Shape(fields=COHERE_FIELDS, texts="documents", score="relevance_score", answer=_with_documents),
    "vLLM": Shape(fields=COHERE_FIELDS, texts="documents", score="relevance_score", answer=_with_documents),
    "Infinity": Shape(
        fields=COHERE_FIELDS, texts="documents", score="relevance_score", answer=_with_documents
    ),
    "LiteLLM": Shape(fields=COHERE_FIELDS, texts="documents", score="relevance_score", answer=_cohere),
    "Voyage": Shape(
        fields=frozenset({"model", "query", "documents", "top_k"}),
        texts="documents",
        score="relevance_score",
        answer=_voyage,
    ),
    "TEI": Shape(
        fields=frozenset({"query", "texts", "truncate", "raw_scores", "return_text"}),
        texts="texts",
        score="score",
        answer=lambda rows, _: rows,
        most=32,
    ),
}


def answer(name: str, body: Mapping[str, Any], scores: Callable[[Sequence[str]], Sequence[float]]) -> Any:
    """Score the passages of a request, and return what the server answers: the best first. Raises Rejection."""
    shape = SHAPES[name]
    if unknown := body.keys() - shape.fields:
        raise Rejection(422, f"unknown field {min(unknown)}")
    texts = body.get(shape.texts)
    if not isinstance(body.get("query"), str) or not isinstance(texts, list) or not texts:
        raise Rejection(422, f"Failed to deserialize the JSON body: missing field `{shape.texts}`")
    if len(texts) > shape.most:
        raise Rejection(422, f"batch size {len(texts)} > maximum allowed batch size {shape.most}")
    rows = [{"index": at, shape.score: score} for at, score in enumerate(scores(texts))]
    return shape.answer(sorted(rows, key=lambda row: -row[shape.score]), texts)
