"""Our plugin of `llm`: the models that this project brings, reached by their names through `llm` alone."""

from collections.abc import Callable

import llm
from llm.models import EmbeddingModel, Model

from worker.models.extractive import Extractive
from worker.models.wordllama import WordLlama


@llm.hookimpl
def register_embedding_models(register: Callable[[EmbeddingModel], None]) -> None:
    register(WordLlama())


@llm.hookimpl
def register_models(register: Callable[[Model], None]) -> None:
    register(Extractive(WordLlama()))
