"""Embeddings and answers from any model that `llm` and its plugins know."""

from worker.backends.llm.chat import LLMChatBackend
from worker.backends.llm.embedding import LLMEmbeddingBackend

__all__ = ["LLMChatBackend", "LLMEmbeddingBackend"]
