"""Limits of known models, from limits.toml, where each row names its source.

A known limit is a default. TOKEN_LIMIT, BATCH_TOKEN_LIMIT and BATCH_SIZE of a backend override it.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

# gpt-5-2025-08-07 has the limits of gpt-5, claude-opus-4-5-20251101 those of claude-opus-4-5, and Ollama's `:latest` is
# the model of the bare name
_VERSION = re.compile(r"(-\d{4}-\d{2}-\d{2}|-\d{8}|:latest)$")
_OLLAMA = "ollama/"


@dataclass(frozen=True, kw_only=True)
class EmbeddingLimits:
    """Limits of an embedding model. `None`: not known."""

    token_limit: int  # tokens of one input
    batch_token_limit: int | None = None  # tokens of one request, over all its inputs
    batch_size: int | None = None  # inputs of one request
    dimensions: int | None = None  # length of a vector
    tokenizer: str | None = None  # a name of worker.tokens
    chunk_tokens: int | None = None  # default size of a chunk
    source: str  # where the figures come from


@dataclass(frozen=True, kw_only=True)
class ChatLimits:
    """Limits of a chat model. `None`: not known."""

    token_limit: int  # tokens of the whole prompt
    output_tokens: int | None = None  # tokens of one answer
    tokenizer: str | None = None  # a name of worker.tokens
    source: str  # where the figures come from


def embedding_limits(model_id: str) -> EmbeddingLimits | None:
    """Look up an embedding model by its id or alias, with or without its vendor; `None` if the table lacks it."""
    row = _row("embedding", model_id)
    return EmbeddingLimits(**row) if row else None


def chat_limits(model_id: str) -> ChatLimits | None:
    """Look up a chat model by its id or alias, with or without its vendor; `None` if the table lacks it.

    Chat models of Ollama are missing here. Their server's configuration sets the context window, and the server
    silently cuts longer prompts.
    """
    row = None if model_id.startswith(_OLLAMA) else _row("chat", model_id)
    return ChatLimits(**row) if row else None


def _row(kind: str, model_id: str) -> dict[str, Any] | None:
    rows, name = _rows(kind), model_id.lower()
    bare = _VERSION.sub("", name)
    names = (name, bare, bare.rpartition("/")[2])
    return next((rows[name] for name in names if name in rows), None)


@cache
def _rows(kind: str) -> dict[str, dict[str, Any]]:
    table = tomllib.loads((files("worker.backends") / "limits.toml").read_text())
    return {
        name: {key: value for key, value in row.items() if key != "models"}
        for row in table[kind]
        for name in row["models"]
    }
