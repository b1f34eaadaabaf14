"""Backends for every model of `llm` and its plugins."""

from worker.backends.llm.chat import LLMChatBackend
from worker.backends.llm.embedding import LLMEmbeddingBackend
from worker.backends.llm.judge import LLMRerankBackend

__all__ = ["LLMChatBackend", "LLMEmbeddingBackend", "LLMRerankBackend"]
